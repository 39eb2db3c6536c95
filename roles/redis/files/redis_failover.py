#!/usr/bin/python3
"""Redis on several hosts, with Sentinel: who is the master, and a planned change of it.

    metabuilder-redis-failover status [--json]             what each instance and each Sentinel says
    metabuilder-redis-failover switchover INSTANCE [HOST]  make HOST (any replica) the master, and lose no write
    metabuilder-redis-failover step-down INSTANCE          the same, if this host has the master
    metabuilder-redis-failover role INSTANCE               of this host's instance: master or slave
    metabuilder-redis-failover settle INSTANCE             wait until this host's instance has all data
    metabuilder-redis-failover load-users                  have what runs on this host read who may log in
    metabuilder-redis-failover start-redis INSTANCE        by redis-server@.service before each start
    metabuilder-redis-failover start-sentinel              by redis-sentinel.service before each start

Made by the role `redis`: changes here are lost. Redis (CONFIG REWRITE) and Sentinel write down in their configuration
files who the master is. The files in /etc/redis are the role's and are never written by them: before each start, the
file that is really used is made of the role's file and of who the master is by now. So a run of the playbook changes
nothing that Sentinel has decided, and an instance that comes back after a failover begins as a replica.
"""

import json
import os
import re
import socket
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path

SETTINGS = Path("/etc/redis/replication.json")
REDIS_FILES = Path("/etc/redis")
DATA = Path("/var/lib/redis")
SENTINEL_TEMPLATE = Path("/etc/redis/metabuilder-sentinel.conf")
SENTINEL_FILE = Path("/var/lib/redis-sentinel/sentinel.conf")
_ANSWER_SECONDS = 2
# How long a start waits for most of the Sentinels before it goes by what this host knew when it stopped.
_START_SECONDS = 10
# Of a planned change: writes are refused for this long at most, if this program dies in the midst of it.
_PAUSE_SECONDS = 60
_CATCH_UP_SECONDS = 15
_PROMOTION_SECONDS = 30
# A Sentinel asks replicas for their priority every 10 s.
_NOTICE_SECONDS = 30
# A replica that gets nothing for this long is not waited for any longer.
_SYNC_SECONDS = 120
_PREFERRED, _USUAL = "1", "100"
_KNOWN = re.compile(r"sentinel (?:config-epoch|leader-epoch|known-replica|known-slave|known-sentinel) (\S+) (\S+)")


def say(words):
    """To the person or the journal."""
    sys.stdout.write(f"{words}\n")


def complain(words):
    """Why it was not done."""
    sys.stderr.write(f"{words}\n")


class RedisError(Exception):
    """What a server answered instead of doing it, or why it cannot be asked."""


class Connection:
    """One connection to an instance or a Sentinel, over TLS if the site has it. Redis's protocol, RESP2."""

    def __init__(self, settings, address, port):
        self._named = f"{address}:{port}"
        try:
            plain = socket.create_connection((address, port), timeout=_ANSWER_SECONDS)
            self._socket = plain
            if settings["ca"]:
                context = ssl.create_default_context(cafile=settings["ca"])
                self._socket = context.wrap_socket(plain, server_hostname=address)
        except OSError as error:
            raise RedisError(f"{self._named} cannot be asked: {error}") from error
        self._file = self._socket.makefile("rb")
        self.ask("AUTH", settings["user"], settings["password"])

    def ask(self, *words):
        """The answer to one command. Raises RedisError."""
        parts = [f"*{len(words)}\r\n".encode()]
        for word in words:
            text = str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(text), text))
        try:
            self._socket.sendall(b"".join(parts))
            return self._answer()
        except OSError as error:
            raise RedisError(f"{self._named} does not answer: {error}") from error

    def info(self, section):
        """The fields of INFO."""
        lines = self.ask("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def end(self):
        """Close it."""
        self._file.close()
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def _answer(self):
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise RedisError(f"{self._named} has ended the connection")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise RedisError(f"{self._named}: {rest}")
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == "-1" else self._file.read(int(rest) + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            # An error within, as of a command in EXEC, fails the whole.
            return None if rest == "-1" else [self._answer() for _ in range(int(rest))]
        return rest


class Site:
    """The hosts of the group `redis`, as the role wrote them down."""

    def __init__(self, settings):
        self.settings = settings
        self.own = settings["address"]
        self.hosts = settings["hosts"]
        self.ports = {each["name"]: each["port"] for each in settings["instances"]}

    @property
    def majority(self):
        """How many Sentinels are more than half of them."""
        return len(self.hosts) // 2 + 1

    def redis(self, address, name):
        """A connection to an instance on a host."""
        return Connection(self.settings, address, self.ports[name])

    def sentinel(self, address):
        """A connection to the Sentinel of a host."""
        return Connection(self.settings, address, self.settings["sentinel_port"])

    def host(self, address):
        """The name of a host in the inventory."""
        return next((name for name, its in self.hosts.items() if its == address), address)

    def views(self, name):
        """What each Sentinel that answers knows of an instance's master: by its host's address, (epoch, address)."""
        found = {}
        for address in self.hosts.values():
            with suppress(RedisError), self.sentinel(address) as sentinel:
                fields = pairs(sentinel.ask("SENTINEL", "MASTER", name))
                found[address] = int(fields["config-epoch"]), fields["ip"]
        return found

    def master(self, name):
        """The address of the master, if most of the Sentinels say so. Raises RedisError."""
        views = self.views(name)
        if len(views) < self.majority:
            raise RedisError(
                f"{len(views)} of {len(self.hosts)} Sentinels answer, and {self.majority} are needed to change the "
                f"master of {name}: systemctl status redis-sentinel on each host"
            )
        return max(views.values())[1]


def pairs(words):
    """The fields of an answer that is a list of names and values."""
    return dict(zip(words[::2], words[1::2], strict=True))


def wait_until(condition, seconds):
    """Whether a condition came true in time; a server that does not answer meanwhile is asked again."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(RedisError):
            if condition():
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


# Before each start


def present_master(site, name, last):
    """The master by the Sentinel that knows of the last failover; if none answers, `last`, or the role's first."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        views = site.views(name)
        if len(views) >= site.majority or last is None or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return max(views.values())[1] if views else last or site.settings["first_master"]


def last_master(site, path):
    """The master by the file with which an instance ran last; None where it never ran."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    found = re.search(r'^(?:replicaof|slaveof) "?([^\s"]+)', text, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else site.own


def start_redis(site, name):
    """Make the file with which an instance is started."""
    path = DATA / name / "redis.conf"
    master = present_master(site, name, last_master(site, path))
    text = (REDIS_FILES / f"redis-{name}.conf").read_text()
    if master != site.own:
        text += f"replicaof {master} {site.ports[name]}\n"
    replace(path, text)
    say(f"{name}: starts as {'the master' if master == site.own else f'a replica of {master}'}")


def start_sentinel(site):
    """Make the file with which Sentinel is started: the role's, and what it knew when it stopped."""
    before = SENTINEL_FILE.read_text().splitlines() if SENTINEL_FILE.exists() else []
    monitored = {
        line.split()[2]: line.split()[3].strip('"') for line in before if line.startswith("sentinel monitor ")
    }
    lines = SENTINEL_TEMPLATE.read_text().splitlines()
    for name, port in site.ports.items():
        # A Sentinel that knows nothing yet asks the others, and does not wait for them: they may be as new.
        master = monitored.get(name) or present_master(site, name, None)
        if master not in site.hosts.values():
            master = present_master(site, name, None)
        monitor = f"sentinel monitor {name} {master} {port} {site.majority}"
        lines = [monitor if line.startswith(f"sentinel monitor {name} ") else line for line in lines]
    replace(SENTINEL_FILE, "\n".join([*lines, *kept(site, before), ""]))


def kept(site, before):
    """The lines of what a Sentinel knew that still hold: none of instances or hosts that are gone."""
    for line in before:
        if line.startswith(("sentinel myid ", "sentinel current-epoch ")):
            yield line
        elif (found := _KNOWN.match(line)) and found[1] in site.ports:
            is_of_host = " known-" in line
            if not is_of_host or found[2].strip('"') in site.hosts.values():
                yield line


def replace(path, text):
    """Write a file that holds passwords at once, so that no start ever finds a half of it."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


# A planned change


def switchover(site, name, wanted=None):
    """Make another host the master of an instance, without losing a write; the host's address."""
    old = site.master(name)
    if wanted == old:
        say(f"{name}: {site.host(old)} is the master already")
        return old
    with site.redis(old, name) as master:
        new = chosen(site, name, master, wanted)
        leader = prefer(site, name, new)
        try:
            hand_over(site, name, master, new, leader)
        finally:
            with suppress(RedisError), site.redis(new, name) as server:
                server.ask("CONFIG", "SET", "replica-priority", _USUAL)
    say(f"{name}: {site.host(new)} is the master, {site.host(old)} was")
    return new


def chosen(site, name, master, wanted):
    """The replica that is to be the master: the one that is wanted, or the one that has most."""
    fields = master.info("replication")
    replicas = [
        dict(part.split("=", 1) for part in fields[key].split(",")) for key in fields if re.match(r"slave\d", key)
    ]
    whole = {each["ip"]: int(each["offset"]) for each in replicas if each["state"] == "online"}
    if not whole:
        raise RedisError(f"{name} has no replica that has all data, so its master stays as it is")
    if wanted is not None and wanted not in whole:
        raise RedisError(
            f"{name}: {site.host(wanted)} is no replica that has all data: {', '.join(map(site.host, whole))}"
        )
    return wanted or max(whole, key=whole.__getitem__)


def prefer(site, name, new):
    """Have a Sentinel prefer a replica; the address of that Sentinel."""
    with site.redis(new, name) as server:
        server.ask("CONFIG", "SET", "replica-priority", _PREFERRED)
    leader = next(iter(site.views(name)))

    def knows():
        with site.sentinel(leader) as sentinel:
            replicas = [pairs(each) for each in sentinel.ask("SENTINEL", "REPLICAS", name)]
        return any(each["ip"] == new and each["slave-priority"] == _PREFERRED for each in replicas)

    if not wait_until(knows, _NOTICE_SECONDS):
        raise RedisError(
            f"{name}: the Sentinel of {site.host(leader)} does not see {site.host(new)}: nothing was changed"
        )
    return leader


def hand_over(site, name, master, new, leader):
    """Pause writes, wait until the replica has them all, have it promoted, and make the old master its replica.

    By itself the old master would go on taking writes, and lose them, for seconds after the other was promoted.
    """
    master.ask("CLIENT", "PAUSE", _PAUSE_SECONDS * 1000, "WRITE")
    try:
        written = int(master.info("replication")["master_repl_offset"])
        with site.redis(new, name) as replica:
            if not wait_until(
                lambda: int(replica.info("replication")["slave_repl_offset"]) >= written, _CATCH_UP_SECONDS
            ):
                raise RedisError(f"{name}: {site.host(new)} does not catch up: the master stays as it is")
        with site.sentinel(leader) as sentinel:
            sentinel.ask("SENTINEL", "FAILOVER", name)

        def is_promoted():
            with site.redis(new, name) as server:
                return server.ask("ROLE")[0] == "master"

        if not wait_until(is_promoted, _PROMOTION_SECONDS):
            raise RedisError(f"{name}: {site.host(new)} was not promoted: the master stays as it is")
        # As Sentinel does it: whoever is connected has to look for the master again.
        for words in (
            ("MULTI",),
            ("REPLICAOF", new, site.ports[name]),
            ("CONFIG", "REWRITE"),
            ("CLIENT", "KILL", "TYPE", "normal"),
            ("CLIENT", "KILL", "TYPE", "pubsub"),
            ("EXEC",),
        ):
            master.ask(*words)
    finally:
        master.ask("CLIENT", "UNPAUSE")

    def all_know():
        return {address for _, address in site.views(name).values()} == {new}

    if not wait_until(all_know, _NOTICE_SECONDS):
        raise RedisError(
            f"{name}: {site.host(new)} is the master, but not all Sentinels say so yet: look at `status`"
        )


def step_down(site, name):
    """Make another host the master, if this one is."""
    if site.master(name) == site.own:
        switchover(site, name)


def role(site, name):
    """Print whether this host's instance is the master."""
    with site.redis(site.own, name) as server:
        say(server.info("replication")["role"])


def settle(site, name):
    """Wait until this host's instance is the master, or has all data of it."""
    last, since = None, time.monotonic()
    while time.monotonic() - since < _SYNC_SECONDS:
        try:
            with site.redis(site.own, name) as server:
                fields = server.info("replication")
        except RedisError as error:
            fields = {"role": str(error)}
        if fields["role"] == "master" or fields.get("master_link_status") == "up":
            return
        # A large data set takes its time, as long as it gets on.
        progress = fields.get("slave_repl_offset"), fields.get("master_sync_read_bytes"), fields.get("loading")
        if progress != last:
            last, since = progress, time.monotonic()
        time.sleep(0.2)
    raise RedisError(
        f"{name} on this host does not get the data of {fields.get('master_host', 'its master')}: "
        f"journalctl -u redis-server@{name} (its last state: {fields['role']}, "
        f"link {fields.get('master_link_status', 'unknown')})"
    )


def load_users(site):
    """Have the instances and the Sentinel of this host read the files of their users again, as far as they run."""
    for port in (*site.ports.values(), site.settings["sentinel_port"]):
        try:
            socket.create_connection((site.own, port), timeout=_ANSWER_SECONDS).close()
        except OSError:
            continue
        with Connection(site.settings, site.own, port) as server:
            server.ask("ACL", "LOAD")


# What is seen


def status(site):
    """What all instances and Sentinels say, as what is shown as JSON."""
    found = {}
    for name in site.ports:
        views = site.views(name)
        master = max(views.values())[1] if len(views) >= site.majority else None
        found[name] = {
            "master": master and site.host(master),
            "redis": {host: seen(site, address, name) for host, address in site.hosts.items()},
            "sentinels": {
                host: site.host(views[address][1]) if address in views else None
                for host, address in site.hosts.items()
            },
        }
        found[name]["faults"] = list(faults(site, found[name]))
    return found


def seen(site, address, name):
    """What an instance says of itself."""
    try:
        with site.redis(address, name) as server:
            fields = server.info("replication")
    except RedisError as error:
        return {"role": "away", "why": str(error)}
    if fields["role"] == "master":
        return {
            "role": "master",
            "replicas": int(fields["connected_slaves"]),
            "offset": int(fields["master_repl_offset"]),
        }
    link = fields["master_link_status"]
    return {
        "role": "replica",
        "link": link,
        "offset": int(fields["slave_repl_offset"]),
        "of": site.host(fields["master_host"]),
    }


def faults(site, found):
    """What is not as it should be."""
    masters = [host for host, each in found["redis"].items() if each["role"] == "master"]
    if found["master"] is None:
        yield f"only {sum(map(bool, found['sentinels'].values()))} of {len(site.hosts)} Sentinels answer: no failover"
    if not masters:
        yield "no host is the master"
    elif len(masters) > 1:
        yield f"{' and '.join(masters)} are masters"
    for host, each in found["redis"].items():
        if each["role"] == "away":
            yield f"Redis of {host} is away: {each['why']}"
        elif each["role"] == "replica" and each["link"] != "up":
            yield f"{host} does not get the data of {each['of']}"
    for host, told in found["sentinels"].items():
        if told is None:
            yield f"the Sentinel of {host} is away"
        elif found["master"] and told != found["master"]:
            yield f"the Sentinel of {host} takes {told} for the master"


def show(found):
    """Print a status for a person."""
    shown = {"master": "{replicas} replicas", "replica": "of {of}, link {link}", "away": "{why}"}
    for name, each in found.items():
        say(f"{name}: master {each['master'] or 'unknown'}")
        for host, its in each["redis"].items():
            told = each["sentinels"][host] or "nothing"
            say(f"  {host}: {its['role']}, {shown[its['role']].format(**its)}; its Sentinel says {told}")
        for fault in each["faults"]:
            say(f"  NOT WELL: {fault}")


def main(verb="", *words):
    """Do what the arguments ask for; the exit status."""
    usage = "usage: metabuilder-redis-failover status [--json] | switchover INSTANCE [HOST] | step-down INSTANCE"
    try:
        site = Site(json.loads(SETTINGS.read_text()))
    except OSError as error:
        complain(f"{SETTINGS}: {error.strerror}: a site with one Redis has no failover, and this needs root")
        return 1
    verbs = {
        "switchover": switchover,
        "step-down": step_down,
        "role": role,
        "settle": settle,
        "start-redis": start_redis,
    }
    try:
        if verb == "status":
            found = status(site)
            show(found) if "--json" not in words else say(json.dumps(found))
            return int(any(each["faults"] for each in found.values()))
        if verb in ("start-sentinel", "load-users"):
            {"start-sentinel": start_sentinel, "load-users": load_users}[verb](site)
        elif verb in verbs and words and words[0] in site.ports:
            if len(words) > 1 and words[1] not in site.hosts:
                raise RedisError(f"no host {words[1]} in the group redis: {', '.join(site.hosts)}")
            verbs[verb](site, words[0], *(site.hosts[host] for host in words[1:]))
        else:
            complain(f"{usage}; instances: {', '.join(site.ports)}")
            return 2
    except RedisError as error:
        complain(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
