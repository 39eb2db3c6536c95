"""What `demo` says of a step that does not succeed."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from celery.exceptions import TaskRevokedError

from manage.roundtrip import go_round
from native.errors import StackError
from tasks import celery_app


def test_a_task_that_somebody_revoked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    queued = Mock(**{"get.side_effect": TaskRevokedError("revoked")})
    monkeypatch.setattr(celery_app.send_email, "apply_async", lambda *_, **__: queued)
    account = SimpleNamespace(id="1", tenant_id="acme", user_id="admin", email_address="demo@example.org")
    with pytest.raises(StackError, match="send_email was not run: somebody revoked it"):
        go_round(account)
