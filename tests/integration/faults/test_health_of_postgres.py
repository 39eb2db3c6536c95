"""`health` says in bounded time what is wrong with PostgreSQL."""

import socket
from collections.abc import Callable

import pytest

from native import stores
from native.ports import free_port
from native.postgres import WORKER
from tests.conftest import Database, as_superuser


@pytest.mark.parametrize("trouble", ["stopped", "silent", "wrong password", "no connection left", "read-only"])
def test_health_says_what_is_wrong(
    trouble: str, database: Database, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_SILENCE_SECONDS", 2)
    server, url = database.server, database.worker_url
    assert stores.postgres_answers().ok
    with socket.create_server(("127.0.0.1", 0)) as silent:
        elsewhere = {"stopped": free_port(), "silent": silent.getsockname()[1]}
        if trouble in elsewhere:
            environment(DATABASE_URL=url.replace(f":{server.port}/", f":{elsewhere[trouble]}/"))
        elif trouble == "wrong password":
            environment(DATABASE_URL=url.replace(f"{WORKER}:", f"{WORKER}:wrong"))
        elif trouble == "no connection left":
            as_superuser(server, f"ALTER DATABASE {database.name} CONNECTION LIMIT 0")
        else:
            as_superuser(server, f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
        check = stores.postgres_answers()
    assert not check.ok
    assert check.advice
    said = {
        "stopped": "Connection refused",
        "silent": "timeout expired",
        "wrong password": "password authentication failed",
        "no connection left": "too many connections",
        "read-only": "takes no writes",
    }
    assert said[trouble] in check.detail
