"""Whatever is in the key that counts redeliveries: the task goes on, and later redeliveries are counted."""

import pytest
import redis as redis_client

from tasks.runtime import redeliveries
from tests.support import fault_app

NAME = "metabuilder:redeliveries:a-key"


@pytest.mark.parametrize("odd", ["9" * 5000, "9" * 18, "words", "-5", ""])
def test_an_absurd_count_is_none(odd: str, client: redis_client.Redis) -> None:
    client.hset(NAME, mapping={"another": odd, "id": odd})
    for _ in range(2):
        history = redeliveries.begin(fault_app.app, "a-key", "id", is_redelivered=True)
    assert history.redeliveries in (0, 2)  # 0 while Redis can add to the absurd number
    redeliveries.note_survival(fault_app.app, "a-key", "id")
    assert redeliveries.begin(fault_app.app, "a-key", "id", is_redelivered=True).redeliveries == 1


def test_a_key_of_another_type_is_renamed(client: redis_client.Redis) -> None:
    client.set(NAME, "words")
    assert redeliveries.begin(fault_app.app, "a-key", "id", is_redelivered=False).redeliveries == 0
    assert redeliveries.begin(fault_app.app, "a-key", "id", is_redelivered=True).redeliveries == 1
    assert client.get(f"{NAME}:of-another-type") == "words"
