"""The supervisor's configuration, and how programs are recognised."""

import configparser
import os
import subprocess
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from native.run import started_at
from native.state import State
from native.supervisor import Program, Supervisor, note_pid, noted_pid

WORKER = Program("worker", ("celery", "worker"), stop_seconds=300)


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "a b %d 'c")
    state.create()
    return state


def test_supervisord_reads_the_configuration_as_it_is_meant(state: State) -> None:
    supervisor = Supervisor(state)
    supervisor.configure([WORKER, Program("postgres", ("postgres",), "INT")])

    options = ServerOptions()
    options.realize(["-c", str(state.supervisor_config)])

    worker, postgres = (group.process_configs[0] for group in sorted(options.process_group_configs, reverse=True))
    assert worker.stdout_logfile == str(state.logs / "worker.log")
    assert worker.stopwaitsecs == 300
    assert worker.autorestart is not False
    assert worker.autostart is False
    assert postgres.stopsignal == 2
    assert options.configroot.supervisord.logfile == str(state.logs / "supervisord.log")


def test_the_configuration_is_private(state: State) -> None:
    Supervisor(state).configure([WORKER])
    assert state.supervisor_config.stat().st_mode & 0o777 == 0o600
    parser = configparser.RawConfigParser()
    parser.read(state.supervisor_config)
    assert "environment" not in parser["program:worker"]


def test_a_supervisor_that_is_not_there_is_not_alive(state: State) -> None:
    assert not Supervisor(state).is_alive()
    assert Supervisor(state).status() == {}


def test_a_stale_socket_is_not_alive(state: State) -> None:
    state.socket.write_text("left behind")
    assert not Supervisor(state).is_alive()


def test_a_process_is_known_by_id_and_start(state: State) -> None:
    assert noted_pid(state, "worker") is None
    note_pid(state, "worker", os.getpid())
    assert noted_pid(state, "worker") == os.getpid()


def test_another_process_of_the_same_id_is_not_taken_for_it(state: State) -> None:
    (state.run / "worker.pid").write_text(f"{os.getpid()} 1\n")
    assert noted_pid(state, "worker") is None


def test_a_process_that_ended_is_not_found(state: State) -> None:
    process = subprocess.Popen(["sleep", "60"])
    note_pid(state, "worker", process.pid)
    process.kill()
    process.wait()
    assert noted_pid(state, "worker") is None


def test_half_a_note_is_none(state: State) -> None:
    (state.run / "worker.pid").write_text("12")
    assert noted_pid(state, "worker") is None


def test_the_start_of_a_process_with_brackets_in_its_name_is_read(tmp_path: Path) -> None:
    program = tmp_path / "a) b (c"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "60"])
    try:
        assert int(started_at(process.pid) or 0) > 0
    finally:
        process.kill()
        process.wait()
