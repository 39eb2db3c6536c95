"""Which ports the programs get, and how they are run."""

import socket
from pathlib import Path

import pytest

from native.programs import PORTS, choose_ports, programs
from native.state import State, write_json


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state")
    state.create()
    return state


def test_a_running_program_keeps_its_port(state: State) -> None:
    write_json(state.stack, {"ports": {"redis": 6380}})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 6380))
        listener.listen()
        assert choose_ports(state, {}, {"redis"})["redis"] == 6380
        assert choose_ports(state, {}, set())["redis"] != 6380


def test_every_program_gets_its_own(state: State) -> None:
    ports = choose_ports(state, {}, set())
    assert set(ports) == set(PORTS)
    assert len(set(ports.values())) == len(ports)


@pytest.mark.parametrize(("name", "variable"), [("flower", "FLOWER_PORT"), ("exporter", "PROMETHEUS_PORT")])
def test_the_port_asked_for_is_tried_even_while_the_program_runs_on_another(
    state: State, name: str, variable: str
) -> None:
    write_json(state.stack, {"ports": {name: 5556}})
    assert choose_ports(state, {variable: "25556"}, {name})[name] == 25556


def test_commands_hold_no_secret_and_named_servers_are_not_started(state: State) -> None:
    operator = {"DATABASE_URL": "postgresql://u:database-secret@h/d", "REDIS_URL": "redis://:redis-secret@h"}
    assert [program.name for program in programs(state, operator, PORTS)] == ["worker", "beat", "flower", "exporter"]
    found = programs(state, {}, PORTS)
    assert [program.name for program in found] == ["redis", "postgres", "worker", "beat", "flower", "exporter"]
    secrets = [line.partition("=")[2].strip("'") for line in state.secrets.read_text().splitlines()]
    commands = " ".join(part for program in found for part in program.command)
    assert not [secret for secret in secrets if secret in commands]


def test_the_watcher_is_a_program_where_it_is_asked_for(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCH_ENABLED", "true")
    assert [program.name for program in programs(state, {}, PORTS)][-1] == "watcher"


def test_a_drain_is_longer_than_a_task_may_take(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_TASK_SOFT_TIME_LIMIT", "120")
    worker = next(program for program in programs(state, {}, PORTS) if program.name == "worker")
    assert worker.stop_seconds > 120
