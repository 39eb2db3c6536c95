"""`metabuilder-redis-failover` of the role `redis`: three instances with Sentinels, each with an address of its own.

The users have the rights that the role gives them, so a command that one of them lacks shows here, and so does a rule
that Debian's Redis does not know.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from native.ports import free_port
from native.process import Server
from tests.support.debians_redis import DebiansRedis
from tests.support.worker import wait_until
from tests.unit.roles.plugins import ROLES, load

NAME = "broker"
HOSTS = {"one": "127.0.0.1", "two": "127.0.0.2", "three": "127.0.0.3"}
SECRET, CLIENTS = "among the hosts", "of clients"
RULES = yaml.safe_load((ROLES / "redis" / "vars" / "main.yml").read_text())


def user(name: str, password: str, rules: str) -> str:
    return f"user {name} on #{hashlib.sha256(password.encode()).hexdigest()} {' '.join(rules.split())}\n"


class Program:
    """The program on one host: its files are below a folder of its own."""

    def __init__(self, root: Path, host: str, ports: tuple[int, int]) -> None:
        self.root, self.host, self.address = root, host, HOSTS[host]
        self.port, self.sentinel_port = ports
        self.module: ModuleType = load("redis/files/redis_failover.py")
        for name, path in (
            ("SETTINGS", root / "replication.json"),
            ("REDIS_FILES", root),
            ("DATA", root / "data"),
            ("SENTINEL_TEMPLATE", root / "metabuilder-sentinel.conf"),
            ("SENTINEL_FILE", root / "sentinel" / "sentinel.conf"),
        ):
            setattr(self.module, name, path)
        (root / "data" / NAME).mkdir(parents=True)
        (root / "sentinel").mkdir()
        self._configure()

    def _configure(self) -> None:
        settings = {
            "address": self.address,
            "hosts": HOSTS,
            "instances": [{"name": NAME, "port": self.port}],
            "sentinel_port": self.sentinel_port,
            "first_master": HOSTS["one"],
            "ca": "",
            "user": "metabuilder_sentinel",
            "password": SECRET,
        }
        (self.root / "replication.json").write_text(json.dumps(settings))
        (self.root / "users.acl").write_text(
            user("default", CLIENTS, "~* &* +@all -@admin -@dangerous +info")
            + user("metabuilder_replication", SECRET, RULES["_redis_replication_rules"])
            + user("metabuilder_sentinel", SECRET, RULES["_redis_sentinel_rules"])
        )
        (self.root / "sentinel.acl").write_text(
            user("default", CLIENTS, RULES["_redis_sentinel_client_rules"])
            + user("metabuilder_sentinel", SECRET, "allchannels +@all")
        )
        (self.root / f"redis-{NAME}.conf").write_text(
            f"bind {self.address}\nport {self.port}\naclfile {self.root}/users.acl\ndir {self.root}/data/{NAME}\n"
            f'appendonly yes\nsave ""\nmasteruser metabuilder_replication\nmasterauth "{SECRET}"\n'
            f"replica-announce-ip {self.address}\nrepl-diskless-sync-delay 0\nmin-replicas-to-write 1\n"
        )
        (self.root / "metabuilder-sentinel.conf").write_text(
            f"bind {self.address}\nport {self.sentinel_port}\naclfile {self.root}/sentinel.acl\n"
            f"dir {self.root}/sentinel\nsentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
            f"sentinel announce-ip {self.address}\nsentinel sentinel-user metabuilder_sentinel\n"
            f'sentinel sentinel-pass "{SECRET}"\nsentinel monitor {NAME} {HOSTS["one"]} {self.port} 2\n'
            f'sentinel auth-user {NAME} metabuilder_sentinel\nsentinel auth-pass {NAME} "{SECRET}"\n'
            f"sentinel down-after-milliseconds {NAME} 60000\n"
        )

    def add_password(self, password: str) -> None:
        """As the role writes the files of users while a password changes: the old one stays valid beside it."""
        old, new = (f"#{hashlib.sha256(each.encode()).hexdigest()}" for each in (SECRET, password))
        for path in (self.root / "users.acl", self.root / "sentinel.acl"):
            path.write_text(path.read_text().replace(old, f"{old} {new}"))

    def use_password(self, password: str) -> None:
        """Have the program log in with it."""
        file = self.root / "replication.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"password": password}))

    def run(self, *words: str) -> int:
        """The exit status of the program on this host."""
        return int(self.module.main(*words))

    def status(self, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
        """What it says of the instance."""
        capsys.readouterr()
        self.run("status", "--json")
        found: dict[str, Any] = json.loads(capsys.readouterr().out)[NAME]
        return found


class Instance(Server):
    """The Redis of a host, or its Sentinel, started as its unit does."""

    def __init__(self, program: Program, *, is_sentinel: bool = False) -> None:
        super().__init__(program.root)
        self.program, self.is_sentinel = program, is_sentinel
        self.name = "sentinel" if is_sentinel else "redis"

    def start(self) -> None:
        assert self.program.run(*(("start-sentinel",) if self.is_sentinel else ("start-redis", NAME))) == 0
        super().start()

    def command(self) -> list[str]:
        made = self.program.module.SENTINEL_FILE if self.is_sentinel else self.root / "data" / NAME / "redis.conf"
        return [DebiansRedis(self.root).command()[0], str(made), *(("--sentinel",) if self.is_sentinel else ())]

    def client(self) -> redis.Redis:
        """What any client of the site is."""
        port = self.program.sentinel_port if self.is_sentinel else self.program.port
        retry = Retry(NoBackoff(), 0)
        return redis.Redis(self.program.address, port, password=CLIENTS, decode_responses=True, retry=retry)

    def is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Publisher(threading.Thread):
    """Pushes numbers one after the other to whoever is the master, and remembers which were accepted."""

    def __init__(self, instances: dict[str, Instance], sentinels: dict[str, Instance]) -> None:
        super().__init__()
        self.instances, self.sentinels = instances, sentinels
        self.accepted: list[int] = []
        self.has_ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.has_ended.is_set():
            try:
                with self.master().client() as client:
                    while not self.has_ended.is_set():
                        number += 1
                        client.rpush("ledger", number)
                        self.accepted.append(number)
                        self.has_ended.wait(0.001)
            except redis.RedisError:
                self.has_ended.wait(0.01)

    def master(self) -> Instance:
        with self.sentinels["three"].client() as client:
            address, _ = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return next(each for each in self.instances.values() if each.program.address == address)


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, Program]:
    ports = free_port(), free_port()
    return {host: Program(tmp_path / host, host, ports) for host in HOSTS}


@pytest.fixture
def site(programs: dict[str, Program]) -> Iterator[tuple[dict[str, Instance], dict[str, Instance]]]:
    """The instances and the Sentinels by host, when all know each other."""
    instances = {host: Instance(program) for host, program in programs.items()}
    sentinels = {host: Instance(program, is_sentinel=True) for host, program in programs.items()}

    def is_whole() -> bool:
        for sentinel in sentinels.values():
            with sentinel.client() as client:
                replicas, others = client.sentinel_slaves(NAME), client.sentinel_sentinels(NAME)
            if len(others) != 2 or [each["master-link-status"] for each in replicas] != ["ok", "ok"]:
                return False
        return True

    with ExitStack() as ended:
        for server in (*instances.values(), *sentinels.values()):
            ended.enter_context(server)
        wait_until(is_whole, "the Sentinels do not know all replicas and each other", 60)
        yield instances, sentinels


def test_a_planned_change_loses_no_write_and_no_start_undoes_it(
    site: tuple[dict[str, Instance], dict[str, Instance]],
    programs: dict[str, Program],
    capsys: pytest.CaptureFixture[str],
) -> None:
    instances, sentinels = site
    assert programs["two"].status(capsys)["faults"] == []
    assert programs["two"].status(capsys)["master"] == "one"

    # Given somebody who publishes all the time
    publisher = Publisher(instances, sentinels)
    publisher.start()
    try:
        wait_until(lambda: len(publisher.accepted) > 100, "nothing is published")
        # When another host is made the master
        assert programs["one"].run("switchover", NAME, "three") == 0, capsys.readouterr().err
        before = len(publisher.accepted)
        wait_until(lambda: len(publisher.accepted) > before + 100, "nothing is published to the new master")
    finally:
        publisher.has_ended.set()
        publisher.join()

    # Then all that was accepted is there, once
    with instances["three"].client() as client:
        stored = list(map(int, client.lrange("ledger", 0, -1)))
    assert sorted(set(publisher.accepted) - set(stored)) == []
    assert len(stored) == len(set(stored))
    wait_until(lambda: programs["one"].status(capsys)["faults"] == [], "a replica does not follow")
    assert programs["one"].status(capsys)["master"] == "three"

    # And it is a change that is there to stay, whoever is started anew
    for server in (instances["one"], sentinels["one"]):
        server.restart()
    assert programs["one"].run("settle", NAME) == 0
    wait_until(lambda: programs["one"].status(capsys)["faults"] == [], "the restarted ones are not part of it")
    assert programs["two"].status(capsys)["master"] == "three"
    # A host that is not the master has nothing to give away
    assert programs["one"].run("step-down", NAME) == 0
    assert programs["one"].status(capsys)["master"] == "three"

    # A password that is added to the files is known to all that run, before anything uses it
    for host in HOSTS:
        programs[host].add_password("another one")
        assert programs[host].run("load-users") == 0
    for host in HOSTS:
        programs[host].use_password("another one")
    assert programs["two"].status(capsys)["faults"] == []

    # Without a majority nothing is changed, and it is said why
    for host in ("two", "three"):
        sentinels[host].stop()
    capsys.readouterr()
    assert programs["one"].run("switchover", NAME) == 1
    assert "1 of 3 Sentinels answer, and 2 are needed" in capsys.readouterr().err
    said = programs["one"].status(capsys)
    assert (said["master"], said["sentinels"]) == (None, {"one": "three", "two": None, "three": None})
