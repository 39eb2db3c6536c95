"""What the tests of webhooks share."""

from collections.abc import Callable, Iterator

import pytest

from tasks.engine.webhooks import verdict
from tests.conftest import Database
from tests.support.receiver import Receiver


@pytest.fixture
def receiver(
    database: Database, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Receiver]:
    """A receiver that suits a slow machine: it may take a minute to answer, and no try follows within minutes."""
    environment(WEBHOOK_ALLOW_HTTP="true", WEBHOOK_TIMEOUT="60")
    monkeypatch.setattr(verdict, "_PAUSES", (600, *verdict._PAUSES[1:]))
    with Receiver() as receiver:
        yield receiver
