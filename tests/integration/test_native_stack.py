"""The native stack as an operator uses it: real processes, started, hurt and stopped, in a copy of the code."""

import base64
import http.client
import json
import os
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from dotenv import dotenv_values

from native.environment import variables
from native.errors import StackError
from native.ports import answers
from native.process import is_alive
from native.state import ROOT
from native.supervisor import noted_pid
from tests.conftest import unavailable
from tests.support.chromium import Chromium
from tests.support.clock import Clock
from tests.support.servers import PostgresServer, RedisServer

MAX_HEALTH_SECONDS = 20
# What takes some seconds on a quiet machine takes several times as long on a busy one.
PATIENCE = 4
PROGRAMS = {"redis", "postgres", "worker", "beat", "flower", "exporter"}
# What a person does at Redis Commander's login, with a password as JSON.
LOG_IN = "void ($('#signinUsername').val('admin'), $('#signinPassword').val(%s), $('#signinForm').submit())"
# How long a page may take that waits for mail, on a machine with much else to do.
LONG = 120
FORM = "application/x-www-form-urlencoded"
END_OF_THE_INBOX = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'metabuilder'"
# HTML as no sanitiser leaves it.
HOSTILE = (
    "<p>hostile</p><script>top.hacked = 1; top.document.title = 1; document.body.textContent = 1</script>"
    "<img src=https://tracker.example/1.png onerror=top.hacked=1>"
    "<iframe src=https://tracker.example/2></iframe><link rel=stylesheet href=https://tracker.example/3.css>"
    "<form action=https://tracker.example/4><input autofocus onfocus=this.form.submit()></form>"
    '<meta http-equiv=refresh content="0;url=https://tracker.example/5">'
)
Done = subprocess.CompletedProcess[str]


class Clone:
    """The code in a folder of its own, with its own .env and .state."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / ".state"
        self.started: list[psutil.Process] = []
        for name in ("manage", "native", "tasks", "roles/redis", "roles/admin_uis", "examples"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        self._environment = {name: value for name, value in os.environ.items() if name not in variables()}

    def manage(self, *arguments: str, input_text: str = "", **more: str) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "manage", *arguments],
            cwd=self.root,
            env={**self._environment, **more},
            input=input_text,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def succeed(self, *arguments: str, input_text: str = "") -> Done:
        done = self.manage(*arguments, input_text=input_text)
        assert done.returncode == 0, done.stderr + self.last_words()
        return done

    def last_words(self) -> str:
        return "".join(f"\n== {log.name}\n{log.read_text()[-1500:]}" for log in self.state.glob("logs/*.log"))

    def ps(self) -> dict[str, dict[str, Any]]:
        return {row["program"]: row for row in json.loads(self.succeed("ps", "--json").stdout)}

    def pids(self) -> dict[str, int]:
        return {name: row["pid"] for name, row in self.ps().items()}

    def up(self) -> Done:
        done = self.succeed("up")
        self.started = self.programs()
        return done

    def is_untouched(self) -> bool:
        """Whether the supervisor and its programs are those that were `started`."""
        return bool(self.started) and all(map(is_alive, self.started)) and self.programs() == self.started

    def programs(self) -> list[psutil.Process]:
        """The supervisor and the programs that it has started."""
        supervisord = self.supervisord()
        return [supervisord, *sorted(supervisord.children(), key=lambda program: program.pid)]

    def secret(self, name: str) -> str:
        """A value of `secrets.env`."""
        return str(dotenv_values(self.state / "secrets.env", interpolate=False)[name])

    def supervisord(self) -> psutil.Process:
        from native.state import State

        pid = noted_pid(State(self.state), "supervisord")
        assert pid is not None
        return psutil.Process(pid)

    def processes(self) -> list[psutil.Process]:
        """Everything that the supervisor has started, and it."""
        supervisord = self.supervisord()
        return [supervisord, *supervisord.children(recursive=True)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = Clone(tmp_path_factory.mktemp("stack") / "clone")
    yield clone
    clone.manage("down")


@pytest.fixture
def up(clone: Clone) -> Clone:
    """The stack, running. A stack that the last test left as it was is not asked to be up once more."""
    if not clone.is_untouched():
        clone.up()
    return clone


@pytest.fixture
def stopped(clone: Clone) -> Clone:
    """The stack, not running, after it ran."""
    if not (clone.state / "stack.json").exists():
        clone.up()
    if clone.started and any(map(is_alive, clone.started)):
        clone.succeed("down")
    return clone


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


def test_up_from_nothing_runs_everything(clone: Clone) -> None:
    started = clone.up()
    assert "Flower" in started.stderr
    assert {name for name, row in clone.ps().items() if row["state"] == "running"} == PROGRAMS
    health = clone.succeed("health")
    assert "DOWN" not in health.stdout
    assert "PostgreSQL agree within 5 s" in health.stdout


def test_admin_pages_show_the_stores_behind_a_password(up: Clone, tmp_path: Path) -> None:
    workers = up.pids()["worker"]
    started = up.succeed("up", "--with-admin")
    if "is not started" in started.stderr:
        unavailable(started.stderr)
    assert up.pids()["worker"] == workers, "the pages are no reason to restart a worker"
    assert up.state.joinpath("adminer.json").stat().st_mode & 0o077 == 0
    row = "INSERT INTO blob (tenant_id, sha256, size, content) VALUES ('acme', sha256('planted'), 7, 'planted')"
    up.succeed("psql", "--write", "--tenant", "acme", "-c", row)
    ports = {name: row["port"] for name, row in up.ps().items()}
    password = up.secret("ADMIN_UIS_PASSWORD")

    adminer = f"127.0.0.1:{ports['adminer']}"
    assert [status(adminer, login) for login in ("admin:", "admin:wrong", f"admin:{password}")] == [401, 401, 303]
    with chromium_at(ports["adminer"], tmp_path / "adminer") as page:
        page.call("Page.navigate", url=f"http://admin:{quote(password)}@{adminer}/?tenant=acme")
        wait_for(lambda: "email_message" in shown(page))
        page.evaluate("[...document.links].find(link => /[?&]select=blob$/.test(link.href)).click()")
        wait_for(lambda: "planted" in shown(page))
        page.picture("adminer")
        page.call("Page.navigate", url=f"http://{adminer}/?tenant=another")
        wait_for(lambda: page.evaluate("document.querySelector('[name=tenant]')?.value") == "another")
        page.evaluate("[...document.links].find(link => /[?&]select=blob$/.test(link.href)).click()")
        wait_for(lambda: "No rows" in shown(page))

    with chromium_at(ports["redis-commander"], tmp_path / "redis-commander") as page:
        page.call("Page.navigate", url=f"http://127.0.0.1:{ports['redis-commander']}/")
        wait_for(
            lambda: page.evaluate("document.readyState === 'complete' && !!document.getElementById('signinForm')")
        )
        page.evaluate("void (window.alert = (text) => { window.said = text })")  # which would wait for a click
        for wrong in ("", "wrong"):
            page.evaluate(f"window.said = '', {LOG_IN % json.dumps(wrong)}")
            wait_for(lambda: page.evaluate("window.said") == "Sign-In Failed")
        assert "_kombu" not in shown(page)
        page.evaluate(LOG_IN % json.dumps(password))
        wait_for(lambda: "_kombu" in shown(page))
        page.picture("redis-commander")

    # They are kept by the next start, and go when they are not wanted any more
    assert {"adminer", "redis-commander"} <= up.ps().keys()
    up.succeed("up")
    assert {"adminer", "redis-commander"} <= up.ps().keys()
    up.succeed("up", "--without-admin")
    assert up.ps().keys() == PROGRAMS
    assert not any(answers(ports[name]) for name in ("adminer", "redis-commander"))


@contextmanager
def chromium_at(port: int, profile: Path) -> Iterator[Chromium]:
    try:
        with Chromium(profile, port) as page:
            yield page
    except StackError as error:
        unavailable(str(error))


def status(server: str, login: str) -> int:
    """What the first page answers to a login; redirections are not followed."""
    connection = http.client.HTTPConnection(server, timeout=30)
    with closing(connection):
        connection.request(
            "GET", "/", headers={"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        )
        return connection.getresponse().status


def answered(server: str, method: str, path: str, headers: dict[str, str], body: str | None = None) -> int:
    """The status of the answer to one request."""
    connection = http.client.HTTPConnection(server, timeout=60)
    with closing(connection):
        connection.request(method, path, body, headers)
        return connection.getresponse().status


def deliver(demo: Clone, subject: str) -> None:
    """Deliver a mail with HTML and an attachment to the demo's SMTP server."""
    mail = EmailMessage()
    mail["From"] = mail["To"] = "demo@example.org"
    mail["Subject"] = subject
    mail.set_content("As text")
    mail.add_alternative("<p>What the mail says</p>", subtype="html")
    mail.add_attachment(b"<script>1</script>", maintype="text", subtype="html", filename='page".html')
    with smtplib.SMTP("127.0.0.1", demo.ps()["demo-smtp"]["port"], timeout=60) as server:
        server.login("demo", demo.secret("DEMO_PASSWORD"))
        server.send_message(mail)


def open_message(page: Chromium, subject: str) -> None:
    """Click on the message with this subject."""
    page.evaluate(f"[...document.links].find(link => link.innerText === {json.dumps(subject)}).click()")


def framed(page: Chromium) -> str:
    """The text in the frame of a page; empty while there is none."""
    frames = page.call("Page.getFrameTree")["frameTree"].get("childFrames", [])
    if not frames:
        return ""
    try:
        world = page.call("Page.createIsolatedWorld", frameId=frames[0]["frame"]["id"])["executionContextId"]
        read = {"expression": "document.body ? document.body.innerText : ''", "contextId": world}
        return str(page.call("Runtime.evaluate", **read)["result"]["value"])
    except StackError:
        return ""  # the frame was replaced meanwhile


def shown(page: Chromium) -> str:
    """The text of a page; empty between two pages."""
    try:
        return str(page.evaluate("document.body ? document.body.innerText : ''"))
    except StackError:
        return ""


def test_the_state_folder_is_closed(up: Clone) -> None:
    assert up.state.stat().st_mode & 0o777 == 0o700
    for name in ("secrets.env", "environment.json", "redis/redis.conf", "supervisord.conf"):
        assert (up.state / name).stat().st_mode & 0o077 == 0


def test_no_secret_is_on_a_command_line_or_in_a_log(up: Clone) -> None:
    lines = (up.state / "secrets.env").read_text().splitlines()
    secrets = [part for line in lines for part in line.partition("=")[2].strip("'").split(":") if part != "admin"]
    assert len(secrets) >= 7
    seen = "".join(path.read_text() for path in up.state.glob("logs/*.log"))
    seen += (up.state / "supervisord.conf").read_text() + (up.state / "programs.json").read_text()
    for process in psutil.process_iter(["cmdline"]):
        seen += " ".join(process.info["cmdline"] or [])
    assert not [secret for secret in secrets if secret in seen]


def test_each_program_knows_the_secrets_that_it_needs_and_no_others(up: Clone) -> None:
    needed: dict[str, set[str]] = {
        "redis": set(),
        "postgres": set(),
        "worker": {"REDIS_URL", "DATABASE_URL", "CREDENTIAL_ENCRYPTION_KEY"},
        "beat": {"REDIS_URL", "DATABASE_URL"},
        "flower": {"REDIS_URL", "FLOWER_BASIC_AUTH"},
        "exporter": {"REDIS_URL", "DATABASE_URL", "FLOWER_BASIC_AUTH"},
    }
    lines = (up.state / "secrets.env").read_text().splitlines()
    secrets = [part for line in lines for part in line.partition("=")[2].strip("'").split(":") if part != "admin"]
    for name, pid in up.pids().items():
        program = psutil.Process(pid)
        for process in (program, *program.children(recursive=True)):
            known = {
                variable
                for variable, value in process.environ().items()
                if any(secret in value or quote(secret, safe="") in value for secret in secrets)
            }
            assert known == needed[name], (name, process)


def test_no_process_leaves_its_memory_in_a_file(up: Clone) -> None:
    for process in up.processes()[1:]:
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0), process


def test_everything_listens_on_loopback_only(up: Clone) -> None:
    listening = [
        connection.laddr.ip
        for process in up.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}


def test_a_second_up_changes_nothing_and_says_so(up: Clone) -> None:
    before = up.pids()
    started = time.monotonic()
    assert "already up" in up.succeed("up").stderr
    assert time.monotonic() - started < PATIENCE * 5
    assert up.pids() == before


def test_a_killed_worker_comes_back(up: Clone) -> None:
    killed = up.pids()["worker"]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: up.pids().get("worker") not in (None, killed))
    wait_for(lambda: up.manage("health").returncode == 0, 60)


def test_what_is_at_hand_for_who_changes_the_code(up: Clone) -> None:
    script = "print(settings.worker.concurrency, sync_emails.name, models.__name__)\n"
    assert "email_service.tasks.sync_emails tasks.storage.models" in up.manage("dev:shell", input_text=script).stdout
    assert up.succeed("flower:open").stdout.startswith("http://127.0.0.1:")
    (up.state / "logs" / "beat.log.1").write_text("old")
    up.succeed("clean:all", "--yes")
    assert not (up.state / "logs" / "beat.log.1").exists()
    assert (up.state / "logs" / "beat.log").stat().st_size < 10_000
    # What is written from then on begins at the beginning of the emptied file.
    modes = {file.mode for file in up.supervisord().open_files() if file.path.endswith("/beat.log")}
    assert modes == {"a"}


def test_programs_are_restarted_and_stopped_alone(up: Clone) -> None:
    before = up.pids()
    assert "beat keeps the schedule" in up.succeed("beat:restart").stderr
    assert "The worker consumes" in up.succeed("restart", "worker").stderr
    after = up.pids()
    assert {name for name in before if before[name] != after[name]} == {"beat", "worker"}
    assert "00:05:00" in up.succeed("beat:status").stdout
    up.succeed("worker:drain")
    assert "exporter is stopped" in up.succeed("down", "exporter").stderr
    assert {row["program"] for row in up.ps().values() if row["state"] != "running"} == {"worker", "exporter"}
    assert up.manage("worker:ping").returncode == 1
    assert "Metrics are served" in up.succeed("up", "exporter").stderr
    assert "exporter is already up" in up.succeed("up", "exporter").stderr
    assert {row["program"] for row in up.ps().values() if row["state"] != "running"} == {"worker"}
    assert up.manage("down", "worker", "--purge", "--yes").returncode == 2


def test_a_killed_postgres_comes_back_with_its_data(up: Clone) -> None:
    os.kill(up.pids()["postgres"], signal.SIGKILL)
    wait_for(lambda: up.manage("health").returncode == 0, 60)


def test_health_names_what_is_down(up: Clone) -> None:
    """The worker is stopped with SIGSTOP: it is there, and it answers no ping, and it consumes nothing."""
    stopped = [psutil.Process(up.pids()["worker"])]
    stopped += stopped[0].children(recursive=True)
    for process in stopped:
        process.suspend()
    try:
        health = up.manage("health", "--json")
        assert health.returncode == 1
        bad = [check for check in json.loads(health.stdout) if not check["ok"]]
        assert [check["component"] for check in bad] == ["worker"]
        assert "manage.sh" in bad[0]["advice"]
    finally:
        for process in stopped:
            process.resume()


def test_health_says_in_bounded_time_that_redis_is_silent(up: Clone) -> None:
    redis = psutil.Process(up.pids()["redis"])
    began = time.monotonic()
    redis.suspend()
    try:
        health = up.manage("health", "--json")
    finally:
        redis.resume()
    assert time.monotonic() - began < MAX_HEALTH_SECONDS
    assert health.returncode == 1
    bad = {check["component"]: check["detail"] for check in json.loads(health.stdout) if not check["ok"]}
    assert "does not answer" in bad.pop("redis")
    assert bad == dict.fromkeys(("clocks", "worker", "queues", "revoked", "beat"), "not asked: Redis is down")


def test_health_warns_of_a_clock_that_is_off(up: Clone, tmp_path: Path) -> None:
    """That of the host on which it is asked; nothing stops working for that."""
    clock = Clock(tmp_path)
    clock.set(-600)
    health = up.manage("health", "--json", **clock.environment)
    assert health.returncode == 0, health.stdout
    [found] = [check for check in json.loads(health.stdout) if check["component"] == "clocks"]
    said = f"the clock of this host ({socket.gethostname()}) is 600 s behind that of PostgreSQL (127.0.0.1)"
    assert said in found["detail"]
    assert (found["ok"], found["warns"]) == (True, True)
    assert found["figures"] == {
        "host_ahead_seconds": pytest.approx(-600, abs=5),
        "postgresql_ahead_seconds": pytest.approx(0, abs=5),
    }


def test_up_does_not_call_a_silent_server_up(up: Clone) -> None:
    redis = psutil.Process(up.pids()["redis"])
    redis.suspend()
    try:
        again = up.manage("up")
    finally:
        redis.resume()
    assert again.returncode == 1
    [line] = again.stderr.splitlines()
    assert line.startswith("error: redis: ")
    assert "does not answer" in line


def test_after_the_supervisor_was_killed_up_works_and_leaves_no_orphans(up: Clone) -> None:
    before = up.processes()
    before[0].kill()
    health = up.manage("health")
    assert health.returncode == 1
    assert "beat" in health.stderr

    said = up.succeed("up").stderr

    assert "left behind" in said
    wait_for(lambda: not [process for process in before if is_alive(process)])
    up.succeed("health")


def test_down_stops_orphans_too(up: Clone) -> None:
    before = up.processes()
    before[0].kill()
    up.succeed("down")
    assert not [process for process in before if is_alive(process)]
    assert "was not running" in up.succeed("down").stderr


def test_a_program_alone_needs_the_stack(stopped: Clone) -> None:
    for verb in ("up", "down", "restart"):
        done = stopped.manage(verb, "beat")
        assert (done.returncode, "the native stack is down: ./manage.sh up" in done.stderr) == (1, True)


def test_up_mends_what_a_power_cut_left_and_says_so(stopped: Clone) -> None:
    (file,) = stopped.state.glob("redis/appendonlydir/*.incr.aof")
    with file.open("ab") as opened:
        opened.write(4096 * b"\0")
    assert "WARNING" in (said := stopped.up().stderr)
    assert "ended in 4096 NUL bytes, as after a power cut" in said


def test_down_is_quick_and_stops_everything(up: Clone) -> None:
    before = up.processes()
    started = time.monotonic()
    up.succeed("down")
    assert time.monotonic() - started < PATIENCE * 15
    assert not [process for process in before if is_alive(process)]
    assert "is down" in up.succeed("ps").stderr


def test_a_port_that_was_taken_meanwhile_is_replaced(stopped: Clone) -> None:
    port = json.loads((stopped.state / "stack.json").read_text())["ports"]["redis"]
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        stopped.succeed("up")
        assert stopped.ps()["redis"]["port"] != port
        stopped.succeed("health")


def test_a_changed_setting_restarts_the_application_only(up: Clone) -> None:
    before = up.pids()
    assert "WATCH_ENABLED" in up.manage("up", "watcher").stderr
    (up.root / ".env").write_text("CELERYD_CONCURRENCY=1\nWATCH_ENABLED=true\n")
    try:
        said = up.succeed("up").stderr
        assert "configuration has changed" in said
        assert "The watcher watches mailboxes" in said
        after = up.pids()
        checks = {check["component"]: check for check in json.loads(up.succeed("health", "--json").stdout)}
        assert checks["watcher"]["detail"] == "watches 0 mailboxes"
        known = psutil.Process(after["watcher"]).environ()
        assert not {"DATABASE_OWNER_URL", "FLOWER_BASIC_AUTH", "SPAM_API_URL"} & set(known)
        assert after["postgres"] == before["postgres"]
        assert after["worker"] != before["worker"]
        assert len(psutil.Process(after["worker"]).children()) == 1
    finally:
        (up.root / ".env").unlink()
    up.succeed("up")
    assert "watcher" not in up.pids()


def test_the_key_is_rotated_by_one_verb(up: Clone) -> None:
    # Given a stored password
    add = ("account", "add", "--email", "rotated@example.org", "--hostname", "imap.example.org", "--password-stdin")
    up.succeed(*add, input_text="sample\n")
    old = _encryption_key(up)

    # When the key is rotated
    said = up.succeed("credentials", "rotate").stderr

    # Then there is another one alone, all secrets are under it, and the worker runs with it
    new = _encryption_key(up)
    assert new != old
    assert "," not in new
    keys = json.loads(up.succeed("credentials", "keys", "--json").stdout)
    # The password, and the arguments of its sync where the schedule was quick to queue one that fails.
    assert [(key["role"], key["credentials"]) for key in keys["keys"]] in ([("encrypts", 1)], [("encrypts", 2)])
    assert keys["lost"] == []
    assert psutil.Process(up.pids()["worker"]).environ()["CREDENTIAL_ENCRYPTION_KEY"] == new
    assert "The worker consumes" in said
    for secret in (old, new):
        assert secret not in said


def _encryption_key(clone: Clone) -> str:
    from dotenv import dotenv_values

    return str(dotenv_values(clone.state / "secrets.env")["CREDENTIAL_ENCRYPTION_KEY"])


def test_a_wrong_setting_is_named_before_anything_happens(up: Clone) -> None:
    done = up.manage("up", CELERYD_CONCURRENCY="many", FLOWER_PORT="x")
    assert done.returncode == 1
    assert "CELERYD_CONCURRENCY" in done.stderr
    assert "FLOWER_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_logs_of_one_program_and_of_all(up: Clone) -> None:
    assert "MainProcess] " in up.succeed("logs", "worker").stdout
    everything = up.succeed("logs", "all", "-n", "5").stdout
    assert {line.partition(" ")[0] for line in everything.splitlines()} >= PROGRAMS


def test_servers_named_in_env_are_used(tmp_path: Path) -> None:
    """REDIS_URL and DATABASE_URL in .env, with a password that has every awkward character."""
    clone = Clone(tmp_path / "clone")
    with RedisServer(tmp_path / "redis", password="p@ss:/#%$ \"'x") as redis, PostgresServer(tmp_path / "pg") as pg:
        lines = {"REDIS_URL": redis.url, "DATABASE_URL": pg.worker_url}
        (clone.root / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        missing = clone.manage("up")
        assert missing.returncode == 1
        assert "DATABASE_OWNER_URL" in missing.stderr

        with (clone.root / ".env").open("a") as file:
            file.write(f"DATABASE_OWNER_URL={pg.owner_url}\n")
        try:
            clone.succeed("up")
            assert set(clone.ps()) == PROGRAMS - {"redis", "postgres"}
            clone.succeed("health")
            redis.stop()
            broken = clone.manage("health")
            assert broken.returncode == 1
            assert "redis" in broken.stderr
        finally:
            clone.manage("down")


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user needs no namespace")
def test_root_without_namespaces_is_told_what_to_do(tmp_path: Path) -> None:
    """pytest's folders are closed to `nobody`, as /root is: the fallback cannot work here, and says so."""
    fake = tmp_path / "bin" / "unshare"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    clone = Clone(tmp_path / "clone")
    done = clone.manage("up", PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "METABUILDER_STATE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone for the demo. Without Dovecot it is served by pymap."""
    clone = Clone(tmp_path_factory.mktemp("demo") / "clone")
    yield clone
    clone.manage("down")


class TestDemo:
    """The main job in one command; a class, because each test goes on where the last one ended."""

    def test_the_mailbox_arrives(self, demo: Clone) -> None:
        done = demo.succeed("demo")
        assert "352 new" in done.stderr
        tasks = {"send_email", "sync_emails", "check_spam", "delete_emails"}
        went_round = [line for line in done.stdout.splitlines() if tasks & set(line.split())]
        assert len(went_round) == 6, done.stdout
        assert "2 new" in done.stdout
        assert "no spam, " in done.stdout
        assert " spam, 1.00: " in done.stdout
        assert went_round[-1].split()[-4:-1] == ["1", "to", "Trash"] or "marked" in went_round[-1]
        for name in ("INBOX", "Projects/Aurora/Invoices", "Projects/Hafen Süd", "Входящие", "日本語"):
            assert name in done.stdout
        assert "http://127.0.0.1:" in done.stderr

    def test_a_second_time_there_is_nothing_new(self, demo: Clone) -> None:
        started = time.monotonic()
        assert "Nothing new" in demo.succeed("demo").stderr
        assert time.monotonic() - started < PATIENCE * 10

    def test_a_new_message_is_synced(self, demo: Clone) -> None:
        inbox = demo.state / "demo" / "mail" / "demo" / "new"
        (inbox / "1.new.demo").write_bytes(b"From: a@example.org\r\nSubject: new\r\n\r\nHello\r\n")
        result = json.loads(demo.succeed("sync", "demo", "--follow", "--json").stdout)
        assert result["status"] == "success"
        assert result["messages_synced"] == 1

    def test_sync_without_following_prints_the_task(self, demo: Clone) -> None:
        assert len(demo.succeed("sync", "demo").stdout.strip()) == 36
        assert json.loads(demo.succeed("sync", "demo", "--full", "--json").stdout)["status"] == "queued"

    def test_of_loopback_an_account_reaches_the_demo_mailbox_and_no_server_of_the_stack(self, demo: Clone) -> None:
        port = str(json.loads((demo.state / "stack.json").read_text())["ports"]["redis"])
        server = ("--hostname", "127.0.0.1", "--port", port, "--encryption", "none", "--name", "inside")
        demo.succeed("account", "add", "--email", "a@b.example", *server, "--password-stdin", input_text="sample\n")
        tried = demo.manage("account", "test", "inside")
        assert tried.returncode == 1
        assert "MAIL_ALLOWED_NETWORKS" in tried.stderr
        demo.succeed("account", "remove", "inside", "--yes")

    def test_the_account_is_listed_and_tested(self, demo: Clone) -> None:
        [account] = json.loads(demo.succeed("account", "list", "--json").stdout)
        assert (account["account_name"], account["last_error"]) == ("demo", None)
        assert "credential_id" not in account
        assert "folders" in demo.succeed("account", "test", "demo").stdout

    def test_a_wrong_password_is_said_clearly_and_listed(self, demo: Clone) -> None:
        [account] = json.loads(demo.succeed("account", "list", "--json").stdout)
        where = ["--hostname", "127.0.0.1", "--port", str(account["port"]), "--encryption", "none"]
        add = ["account", "add", "--email", "demo@example.org", "--username", "demo", "--name", "wrong", *where]
        added = demo.succeed(*add, "--password-stdin", input_text="not the password\n")
        assert "not the password" not in added.stdout + added.stderr

        tested = demo.manage("account", "test", "wrong")
        assert tested.returncode == 1
        assert "refuses the user name or password" in tested.stderr
        assert "Traceback" not in tested.stderr
        assert "paused" in demo.succeed("account", "list").stdout

        assert demo.manage(*add, "--password-stdin", input_text="x\n").returncode == 1
        demo.succeed("account", "remove", "wrong", "--yes")
        assert demo.manage("account", "test", "wrong").returncode == 1

    def test_it_survives_down_and_up_on_another_port(self, demo: Clone) -> None:
        port = demo.ps()["demo-imap"]["port"]
        demo.succeed("down")
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
            demo.succeed("up")
            assert demo.ps()["demo-imap"]["port"] != port
            assert "Nothing new" in demo.succeed("sync", "demo", "--follow").stderr

    def test_accounts_cannot_be_reached_while_it_is_down(self, demo: Clone) -> None:
        demo.succeed("down")
        done = demo.manage("account", "list")
        assert done.returncode == 1
        assert "./manage.sh up" in done.stderr

    def test_the_inbox_shows_mail_as_it_arrives_and_sends_an_answer(self, demo: Clone, tmp_path: Path) -> None:
        said = demo.succeed("demo", "--with-inbox").stderr
        assert "Inbox is ready" in said
        assert "inbox" in {check["component"] for check in json.loads(demo.succeed("health", "--json").stdout)}
        assert demo.state.joinpath("inbox.json").stat().st_mode & 0o077 == 0
        port, password = demo.ps()["inbox"]["port"], demo.secret("INBOX_PASSWORD")
        server = f"127.0.0.1:{port}"
        assert [status(server, login) for login in ("x:", "x:wrong", f"x:{password}")] == [401, 401, 307]

        with chromium_at(port, tmp_path / "chromium") as page:
            page.call("Page.navigate", url=f"http://x:{quote(password)}@{server}/")
            wait_for(lambda: "Hello from the demo" in shown(page), LONG)
            page.evaluate("window.isTheSamePage = true")
            deliver(demo, "The first")
            wait_for(lambda: "The first" in shown(page), LONG)
            # A page whose connections to PostgreSQL broke goes on where it was.
            demo.succeed("psql", "--write", "-c", END_OF_THE_INBOX)
            deliver(demo, "The second")
            wait_for(lambda: "The second" in shown(page), LONG)
            assert page.evaluate("window.isTheSamePage"), "the page was loaded again"
            page.picture("inbox")

            open_message(page, "The second")
            wait_for(lambda: "What the mail says" in framed(page), LONG)
            page.picture("inbox-message")
            headers = page.evaluate(
                "fetch(location.origin + document.querySelector('.attachment').pathname)"
                ".then(answer => [...answer.headers.entries()])"
            )
            of_file = dict(headers)
            assert of_file["content-disposition"] == "attachment; filename*=UTF-8''page%22.html"
            assert of_file["content-type"] == "application/octet-stream"
            assert (of_file["x-content-type-options"], of_file["content-security-policy"]) == ("nosniff", "sandbox")

            page.evaluate("document.querySelector('[name=body]').value = 'Thank you'")
            page.evaluate("document.querySelector('form').requestSubmit()")
            wait_for(lambda: "Your mail was sent" in shown(page) or "is on its way" in shown(page), LONG)
            page.evaluate("document.querySelector('nav a').click()")
            wait_for(lambda: "Re: The second" in shown(page), LONG)

            # The frame holds by itself, whatever the sanitiser has let through.
            plant = f"UPDATE email_message SET html_body = $${HOSTILE}$$ WHERE subject = 'The second'"
            demo.succeed("psql", "--write", "--tenant", "default", "-c", plant)
            page.call("Network.enable")
            page.events.clear()
            open_message(page, "The second")
            wait_for(lambda: "hostile" in framed(page), LONG)
            page.settle(1)
            asked = {
                event["params"]["requestId"]
                for event in page.events
                if event["method"] == "Network.requestWillBeSent"
                and "tracker.example" in event["params"]["request"]["url"]
            }
            blocked = {
                event["params"]["requestId"]
                for event in page.events
                if event["method"] == "Network.loadingFailed" and event["params"].get("blockedReason") == "csp"
            }
            assert asked <= blocked
            assert page.evaluate("[document.title, window.hacked]") == ["The second", None]
            message = page.evaluate("location.pathname")

        login = {"Authorization": f"Basic {base64.b64encode(f'x:{password}'.encode()).decode()}"}
        of_others = {**login, "Origin": "http://elsewhere.example", "Content-Type": FORM}
        body = "to=demo%40example.org&subject=forged&body=x&key=forged"
        assert answered(server, "POST", f"{message}/answer", of_others, body) == 403
        assert answered(server, "GET", message, login) == 200
        demo.succeed("psql", "--write", "--tenant", "default", "-c", "UPDATE email_client SET user_id = 'another'")
        assert answered(server, "GET", message, login) == 404
        assert answered(server, "GET", f"{message}/html", login) == 404

        demo.succeed("demo", "--without-inbox")
        assert "inbox" not in demo.ps()
        assert not answers(port)

    def test_purge_asks_and_deletes(self, demo: Clone) -> None:
        assert demo.manage("down", "--purge", input_text="n\n").returncode == 1
        assert demo.state.exists()
        demo.succeed("down", "--purge", "--yes")
        assert not demo.state.exists()
