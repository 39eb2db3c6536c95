"""Which variable wins, and which servers are embedded."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from native import environment
from native.demo import SERVERS
from native.environment import DATABASE_VARIABLES, REDIS_VARIABLES, effective, given, is_external, make_secrets
from native.errors import StackError
from native.ports import LOOPBACK
from native.programs import programs
from native.run import main as become
from native.state import ROOT, State, write_json
from tasks.errors import HostNotAllowedError
from tasks.mail.hosts import resolve
from tasks.settings import load

PORTS = {"redis": 16379, "postgres": 15432, "flower": 15556, "exporter": 18000}
AWKWARD = "p@ss:/#%$ \"word' ${HOME}"


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state")
    state.create()
    return state


def dotenv(folder: Path, text: str) -> Path:
    path = folder / ".env"
    path.write_text(text)
    return path


def test_the_real_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = dotenv(tmp_path, "LOG_LEVEL=DEBUG\nSYNC_BATCH_SIZE=7\n")
    assert given(path, {"LOG_LEVEL": "ERROR", "EDITOR": "vi"}) == {"LOG_LEVEL": "ERROR", "SYNC_BATCH_SIZE": "7"}


def test_empty_values_count_as_not_set(tmp_path: Path) -> None:
    assert given(dotenv(tmp_path, "REDIS_URL=\nDATABASE_URL=\n"), {"REDIS_URL": ""}) == {}


def test_nothing_in_the_file_is_expanded(tmp_path: Path) -> None:
    path = dotenv(tmp_path, "REDIS_PASSWORD='a$HOME ${HOME} #1'\n")
    assert given(path, {"HOME": "/root"})["REDIS_PASSWORD"] == "a$HOME ${HOME} #1"


def test_a_missing_file_is_no_error(tmp_path: Path) -> None:
    assert given(tmp_path / "none", {}) == {}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("LOG_LEVEL=INFO\nsecret garbage here\n", "at line 2:"),
        ("# note\n=secret\n\nDEBUG=1\nPASSWORD='secret\n", "at lines 2, 5:"),
    ],
)
def test_lines_that_cannot_be_read_are_numbered_but_not_shown(tmp_path: Path, text: str, where: str) -> None:
    with pytest.raises(StackError, match=where) as caught:
        given(dotenv(tmp_path, text), {})
    assert "secret" not in str(caught.value)


def test_servers_are_embedded_unless_named(state: State) -> None:
    values = effective(state, {}, PORTS)
    assert "@127.0.0.1:16379" in values["REDIS_URL"]
    assert "metabuilder_worker:" in values["DATABASE_URL"]
    assert "metabuilder_owner:" in values["DATABASE_OWNER_URL"]
    assert values["FLOWER_PORT"] == "15556"


def test_of_loopback_accounts_reach_the_demo_mailbox_alone_and_only_while_it_is_served(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = {**PORTS, "demo-imap": 11143, "demo-smtp": 11025}

    def reached(**operator: str) -> list[int]:
        monkeypatch.setenv("MAIL_ALLOWED_NETWORKS", effective(state, operator, ports)["MAIL_ALLOWED_NETWORKS"])
        mail, found = load().mail, []
        for port in (*ports.values(), 3143):
            for name in (LOOPBACK, "localhost", "::ffff:127.0.0.1"):
                with suppress(HostNotAllowedError):
                    resolve(name, mail.networks_at(port))
                    found.append(port)
        return sorted(set(found))

    assert reached() == []
    assert not {program.name for program in programs(state, {}, ports)} & {*SERVERS}
    (state.demo / "mail" / "demo").mkdir(parents=True)
    (state.demo / "server").write_text("pymap")
    assert reached() == [11025, 11143]
    assert {program.name for program in programs(state, {}, ports)} >= {*SERVERS}
    assert reached(MAIL_ALLOWED_NETWORKS="127.0.0.1=3143") == [3143, 11025, 11143]


def test_a_named_redis_is_used(state: State) -> None:
    operator = {"REDIS_URL": "redis://redis.example.org"}
    assert is_external(REDIS_VARIABLES, operator)
    assert not is_external(DATABASE_VARIABLES, operator)
    assert effective(state, operator, PORTS)["REDIS_URL"] == "redis://redis.example.org"


def test_a_redis_named_by_its_host_is_not_overruled_by_a_generated_url(state: State) -> None:
    assert "REDIS_URL" not in effective(state, {"REDIS_HOST": "redis.example.org"}, PORTS)


def test_a_named_database_needs_its_owner_too(state: State) -> None:
    with pytest.raises(StackError, match="DATABASE_OWNER_URL"):
        effective(state, {"DATABASE_URL": "postgresql://x"}, PORTS)


def test_secrets_are_made_once_and_for_their_owner_only(state: State) -> None:
    first = make_secrets(state)
    assert make_secrets(state) == first
    assert state.secrets.stat().st_mode & 0o777 == 0o600
    assert len(set(first.values())) == len(first)


def test_a_secret_added_by_a_newer_version_keeps_the_old_ones(state: State) -> None:
    first = make_secrets(state)
    lines = [line for line in state.secrets.read_text().splitlines() if not line.startswith("DEMO_PASSWORD")]
    state.secrets.write_text("\n".join(lines) + "\n")
    second = make_secrets(state)
    assert {k: v for k, v in second.items() if k != "DEMO_PASSWORD"} == {
        k: v for k, v in first.items() if k != "DEMO_PASSWORD"
    }


def test_apply_prefers_what_is_set_now(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(state.environment, {"LOG_LEVEL": "INFO", "REDIS_URL": "redis://one"})
    monkeypatch.setattr(os, "environ", {"LOG_LEVEL": "DEBUG"})
    assert environment.apply(state) == {"LOG_LEVEL": "DEBUG", "REDIS_URL": "redis://one"}


def test_apply_says_when_nothing_was_started_yet(state: State) -> None:
    with pytest.raises(StackError, match=r"manage\.sh up"):
        environment.apply(state)


def test_a_program_gets_any_password_and_only_its_own_secrets(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(state.environment, {"REDIS_PASSWORD": AWKWARD, "DATABASE_OWNER_URL": "secret"})
    command = {"command": ["program"], "environment": True, "withheld": ["DATABASE_OWNER_URL"]}
    write_json(state.programs, {"worker": command})
    seen: dict[str, str] = {}
    monkeypatch.setattr(os, "execvpe", lambda file, command, environment: seen.update(environment))

    become("worker", state.folder, state.run)

    assert seen["REDIS_PASSWORD"] == AWKWARD
    assert "DATABASE_OWNER_URL" not in seen


def test_the_example_sets_nothing_as_it_is() -> None:
    assert given(ROOT / ".env.example", {}) == {}


def test_an_application_gets_its_own_role_and_no_key(state: State) -> None:
    environment.write_client(state, {}, PORTS)
    client = environment.dotenv_values(state.client, interpolate=False)
    assert state.client.stat().st_mode & 0o077 == 0
    assert set(client) == {"CREDENTIAL_PUBLIC_KEY", "DATABASE_URL", "REDIS_URL"}
    assert str(client["DATABASE_URL"]).startswith("postgresql://metabuilder:")
    # Servers of the operator's are the operator's to tell of.
    environment.write_client(state, {"DATABASE_URL": "postgresql://w:secret@h/d", "REDIS_URL": "redis://h"}, PORTS)
    assert set(environment.dotenv_values(state.client)) == {"CREDENTIAL_PUBLIC_KEY"}


def test_what_each_verb_loads_loads_nothing_slow() -> None:
    program = "import sys; import native.environment; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(loaded.stdout.split())
    assert "native.redis" in modules
    assert modules & {"imaplib", "psutil", "psycopg2", "sqlalchemy"} == set()
