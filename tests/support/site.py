"""A deployed site, seen from outside: its hosts over ssh, its plays, a mailbox on its mail server."""

import base64
import contextlib
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import testinfra
import yaml
from testinfra.host import Host

from tests.support.mailbox import message
from tests.support.processes import kill_tree
from tests.support.secret_forms import FORMS

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "molecule" / "shared" / "inventory"
PYTHON = "/opt/metabuilder/current/bin/python"
ENVIRONMENTS = ("/etc/metabuilder/celery.env", "/etc/metabuilder/celery-worker.env")
TENANT, USER = "tenant-1", "user-1"
# Molecule asks for colours on a terminal, and the recap of a play is read here.
_PLAIN = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
_FAILOVER_SECONDS = 300  # ten times what it takes
_PLAY_SECONDS = 1800  # of which a quiet machine needs a tenth at most


class Play:
    """A playbook that was run: its exit status, all that it said, how long it took, and how many tasks changed
    something."""

    def __init__(self, status: int, output: str, seconds: float) -> None:
        self.status, self.output, self.seconds = status, output, seconds
        self.changed = sum(map(int, re.findall(r"changed=(\d+)", output.rpartition("PLAY RECAP")[2])))

    @property
    def changed_tasks(self) -> list[str]:
        """The names of the tasks that changed something, for the message of a failed test."""
        found, task = [], ""
        for line in self.output.splitlines():
            if heading := re.match(r"(?:TASK|RUNNING HANDLER) \[(.*)\]", line):
                task = heading[1]
            elif line.startswith("changed: "):
                found.append(f"{task}: {line.split('=>')[0]}")
        return found


class Site:
    """The hosts of a scenario, by the inventories that Molecule gives to its plays."""

    def __init__(self, inventories: list[str], merged: Path) -> None:
        self.inventories = [f"--inventory={path}" for path in inventories]
        self._merged = merged
        listing = self._ansible("ansible-inventory", "--list").stdout
        self._inventory: dict[str, Any] = json.loads(listing)
        merged.touch(mode=0o600)  # it holds the secrets
        merged.write_text(self._ansible("ansible-inventory", "--list", "--yaml").stdout)

    @classmethod
    def of_scenario(cls, folder: Path) -> "Site":
        """The site of the scenario that Molecule is verifying. `folder` is for files of ours."""
        scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
        made = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
        # Seen from the scenario's folder, as Molecule's own plays see it.
        given = scenario / (os.environ.get("MOLECULE_HOSTS") or "inventory")
        return cls([str(made), str(SHARED), str(given)], folder / "inventory.yml")

    def without(self, host: str, folder: Path) -> "Site":
        """This site as after a person took a host out of its inventory. `folder` is for files of ours."""
        whole = yaml.safe_load(self._merged.read_text())
        smaller = folder / "smaller.yml"
        smaller.touch(mode=0o600)
        smaller.write_text(yaml.safe_dump(_without(host, whole)))
        return Site([str(smaller)], folder / "inventory.yml")

    def group(self, name: str) -> list[str]:
        """The names of the hosts of a group."""
        return sorted(self._inventory.get(name, {}).get("hosts", []))

    @cached_property
    def names(self) -> list[str]:
        """The hosts on which something of ours runs."""
        groups = ("redis", "postgresql", "celery_workers", "celery_beat", "flower", "exporter", "admin_uis")
        return sorted({host for group in groups for host in self.group(group)})

    @property
    def tls_directory(self) -> Path:
        """The folder of the site's own authority on this machine (molecule/shared/inventory)."""
        return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "tls"

    @cached_property
    def secrets(self) -> list[str]:
        """Those of the scenarios' vault. A test that gives a secret another value adds that value here."""
        return list(yaml.safe_load((SHARED / "group_vars/all/secrets.yml").read_text()).values())

    @property
    def beginnings(self) -> list[str]:
        """The beginning of each secret, which no quoting changes."""
        return [secret.partition("@")[0] for secret in self.secrets]

    def secrets_in(self, text: str) -> list[str]:
        """The lines of a text in which a secret begins, and in which encodings a whole secret stands in the text."""
        lines = [line.strip()[:200] for line in text.splitlines() if any(each in line for each in self.beginnings)]
        encoded = [
            f"{secret.partition('@')[0]}: {form}"
            for secret in self.secrets
            for form, write in FORMS.items()
            if secret.partition("@")[0] not in (written := write(secret)) and written in text
        ]
        return lines + encoded

    def host(self, name: str) -> Host:
        """A host, to look at as its administrator does."""
        is_root = self.variable(name, "ansible_user", "root") == "root"
        return testinfra.get_host(f"ansible://{name}?ansible_inventory={self._merged}", sudo=not is_root)

    def first(self, group: str) -> Host:
        """The first host of a group."""
        return self.host(self.group(group)[0])

    def variable(self, host: str, name: str, default: Any = None) -> Any:
        """A variable of the inventory, as it is written there."""
        return self._inventory["_meta"]["hostvars"].get(host, {}).get(name, default)

    def address(self, host: str) -> str:
        """The address at which a host is reached."""
        return str(self.variable(host, "ansible_host", host))

    def play(self, playbook: str, *options: str, root: Path = ROOT) -> Play:
        """Run a playbook of the project, or of the copy of it at `root`."""
        began = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", *self.inventories, *options, playbook],
            **_in(root),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PLAY_SECONDS,
            check=False,
        )
        return Play(done.returncode, done.stdout, time.monotonic() - began)

    @contextlib.contextmanager
    def start_play(self, playbook: str, *options: str) -> Iterator["subprocess.Popen[str]"]:
        """Start a playbook; at the end it is killed if it runs still."""
        process = subprocess.Popen(
            ["ansible-playbook", *self.inventories, *options, playbook],
            **_in(ROOT),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            kill_tree(process)
            process.communicate()

    def _ansible(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*command, *self.inventories], **_in(ROOT), capture_output=True, check=True)


def _without(host: str, group: Any) -> Any:
    """An inventory, or a part of it, without a host."""
    if not isinstance(group, dict):
        return group
    hosts = {name: variables for name, variables in (group.get("hosts") or {}).items() if name != host}
    rest = {name: _without(host, part) for name, part in group.items() if name not in ("hosts", "vars")}
    return {**group, **rest, **({"hosts": hosts} if "hosts" in group else {})}


def _in(root: Path) -> dict[str, Any]:
    environment = {**os.environ, **_PLAIN, "ANSIBLE_CONFIG": str(root / "ansible.cfg")}
    return {"cwd": root, "env": environment, "text": True, "stdin": subprocess.DEVNULL}


def run_code(worker: Host, code: str) -> Any:
    """Run Python in the release of a worker's host, as its user and in its environment; what it prints, as JSON."""
    done = worker.run(_in_release(code, "--pipe --wait"))
    assert done.rc == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    stdout: str
    stderr: str


def run_each(host: Host, lines: Iterable[str]) -> list[Ended]:
    """Run command lines of a shell one after the other, by one login."""
    code = (
        "import json, subprocess\n"
        "options = {'shell': True, 'stdin': subprocess.DEVNULL, 'capture_output': True, 'text': True}\n"
        f"done = [subprocess.run(line, **options) for line in {list(lines)!r}]\n"
        "print(json.dumps([[one.returncode, one.stdout, one.stderr] for one in done]))\n"
    )
    encoded = base64.b64encode(code.encode()).decode()
    return [Ended(*each) for each in json.loads(host.check_output(f"echo {encoded} | base64 -d | python3 -"))]


def start_code(worker: Host, code: str) -> None:
    """Start Python as `run_code` does, and leave it running."""
    worker.check_output(_in_release(code, ""))


def _in_release(code: str, options: str) -> str:
    encoded = base64.b64encode(code.encode()).decode()
    files = " ".join(f"-p EnvironmentFile={file}" for file in ENVIRONMENTS)
    unit = f"systemd-run --quiet --collect {options} --uid=celery --gid=celery -p WorkingDirectory=/ {files}"
    return f"{unit} {PYTHON} -c 'import base64; exec(base64.b64decode(\"{encoded}\"))'"


def deliver(site: Site, users: list[str], count: int, *, first: int = 1, size: int = 500) -> None:
    """Put messages into the INBOX of each user, numbered from `first`, with bodies of `size` bytes."""
    sample = message(0, body="x" * size).replace(b"Message 0", b"Message %d").replace(b"<0@", b"<%d@")
    code = (
        f"import os\nraw = {sample!r}\nfor user in {users!r}:\n    box = f'/var/mail/test/{{user}}'\n"
        "    for part in ('cur', 'new', 'tmp'): os.makedirs(f'{box}/{part}', exist_ok=True)\n"
        f"    for n in range({first}, {first + count}):\n"
        "        open(f'{box}/new/{n}.M0P0.mail', 'wb').write(raw % (n, n))\n"
    )
    encoded = base64.b64encode(code.encode()).decode()
    done = site.first("mail").run(f"echo {encoded} | base64 -d | python3 - && chown -R mail: /var/mail/test")
    assert done.rc == 0, done.stderr


def register(site: Site, users: list[str], **options: Any) -> None:
    """Make the mailbox of each user an account of its name, which is synced when the test says so, and not by beat or
    for a watcher.

    `options` are further fields of a NewAccount.
    """
    host = site.group("mail")[0]
    password = site.variable(host, "mail_password")
    fields = f"user, f'{{user}}@example.org', {host!r}, 993, 'tls', user, {password!r}, **{options!r}"
    code = (
        "from tasks.storage.accounts.rows import NewAccount, add_account\n"
        f"for user in {users!r}:\n"
        f"    add_account({TENANT!r}, {USER!r}, NewAccount({fields}))\n"
        "print('null')\n"
    )
    run_code(site.first("celery_workers"), code)
    seldom = "sync_interval = 86400, next_sync_at = now() + interval '1 day'"
    if site.variable(site.group("celery_workers")[0], "mail_watcher_enabled"):
        seldom += ", watch = 'off'"
    sql(site, f"UPDATE email_client SET {seldom} WHERE username IN ({', '.join(map(repr, users))})")


class RemoteMailbox:
    """A user's mail on the mail server's host, as Maildir, and the account that the site has of it."""

    def __init__(self, site: Site, user: str) -> None:
        self.site, self.user = site, user
        self.worker = site.first("celery_workers")
        self.account = f"{user}@example.org"

    def deliver(self, count: int, *, first: int = 1, size: int = 500) -> None:
        """Put messages into the INBOX, numbered from `first`, with bodies of `size` bytes."""
        deliver(self.site, [self.user], count, first=first, size=size)

    def register(self) -> None:
        """Make it an account."""
        register(self.site, [self.user])

    def queue_sync(self) -> str:
        """Queue a sync of it, and the task's id."""
        return str(self._run(f"{_FOUND}print(json.dumps(sync_emails.delay(account.id, *who).id))"))

    def sync(self, seconds: float = 300) -> dict[str, Any]:
        """Sync it through the broker and a worker, and what the task returned."""
        return dict(self._run(f"{_FOUND}print(json.dumps(sync_emails.delay(account.id, *who).get({seconds})))"))

    def _run(self, code: str) -> Any:
        imports = (
            "import json\nfrom tasks.storage.accounts.rows import find_account\n"
            f"from tasks.celery_app import sync_emails\nwho, name = ({TENANT!r}, {USER!r}), {self.user!r}\n"
        )
        return run_code(self.worker, imports + code)

    def wait_stored(self, count: int, seconds: float = 600) -> None:
        """Wait until so many of its messages are rows."""
        deadline = time.monotonic() + seconds
        while (found := len(self.stored())) < count:
            assert time.monotonic() < deadline, f"{found} of {count} messages are stored"
            time.sleep(0.5)

    def stored(self) -> list[str]:
        """The Message-IDs of its rows in PostgreSQL, one for each row, asked on the database's host."""
        query = (
            "SELECT m.message_id FROM email_message m JOIN email_folder f ON f.tenant_id = m.tenant_id "
            "AND f.id = m.folder_id JOIN email_client c ON c.tenant_id = f.tenant_id AND c.id = f.email_client_id "
            f"WHERE c.account_name = '{self.user}'"
        )
        return sql(self.site, query).split()


_FOUND = "account = find_account(who[0], name)\n"


def sql(site: Site, query: str, *, database: str = "metabuilder") -> str:
    """What PostgreSQL's administrator is answered, on its own host; of several hosts, on that of the primary."""
    server = _primary_of(site)
    done = server.run(f"cd / && runuser -u postgres -- psql -X -At -d {database} -c {shlex.quote(query)}")
    assert done.rc == 0, done.stderr
    return str(done.stdout)


def _primary_of(site: Site) -> Host:
    """The host whose PostgreSQL takes writes; during a failover, waits for it."""
    names = site.group("postgresql")
    if len(names) == 1:
        return site.host(names[0])
    deadline = time.monotonic() + _FAILOVER_SECONDS
    ask = "cd / && runuser -u postgres -- psql -X -At -c 'SELECT pg_is_in_recovery()'"
    while time.monotonic() < deadline:
        for name in names:
            with contextlib.suppress(RuntimeError):  # ssh is refused: the host is off
                if site.host(name).run(ask).stdout.strip() == "f":
                    return site.host(name)
        time.sleep(0.5)
    raise AssertionError(f"none of {names} is PostgreSQL's primary")


def ask_redis(site: Site, host: Host, user: str, command: str, port: int = 6379, *, password: str = "") -> str:
    """What Redis answers to a user on its own host, by default with the user's password in the inventory."""
    variables = {"metabuilder": "redis_password", "default": "redis_admin_password"}
    name = site.group("redis")[0]
    quoted = shlex.quote(password or site.variable(name, variables[user]))
    tls = "--tls --cacert /etc/metabuilder/tls/ca.crt" if len(site.names) > 1 else ""
    address = name if tls else "127.0.0.1"
    done = host.run(f"REDISCLI_AUTH={quoted} redis-cli {tls} -h {address} -p {port} --user {user} {command}")
    return (done.stdout + done.stderr).strip()


def main_pid(host: Host, unit: str) -> int:
    """The main process of a unit, 0 when there is none."""
    return int(host.check_output(f"systemctl show -p MainPID --value {unit}"))


def wait_active(host: Host, unit: str, *, seconds: float = 300, not_pid: int = 0) -> int:
    """Wait until a unit is active (with another main process than `not_pid`), and its main process."""
    deadline = time.monotonic() + seconds
    state = ""
    while time.monotonic() < deadline:
        state = host.run(f"systemctl is-active {unit}").stdout.strip()
        if state == "active" and (pid := main_pid(host, unit)) not in (0, not_pid):
            return pid
        time.sleep(0.5)
    raise AssertionError(f"{unit} is {state} after {seconds} s: {journal(host, unit)}")


def journal(host: Host, unit: str, lines: int = 30) -> str:
    """The last lines of a unit's journal."""
    return str(host.run(f"journalctl --no-pager -n {lines} -u {unit}").stdout)


def reaches(host: Host, address: str, port: int) -> bool:
    """Whether a TCP connection from a host is accepted within three seconds."""
    return bool(host.run(f"timeout 3 bash -c '</dev/tcp/{address}/{port}'").rc == 0)


def ask_page(host: Host, port: int, path: str, login: str | None = None, *, method: str = "GET") -> tuple[int, str]:
    """The HTTP status (0: no answer) and the text of a page, asked for on its own host. `login` is user:password."""
    code = (
        "import base64, json, urllib.error, urllib.request\n"
        f"request = urllib.request.Request('http://127.0.0.1:{port}{path}', method={method!r})\n"
        f"login = {login!r}\n"
        "if login: request.add_header('Authorization', 'Basic ' + base64.b64encode(login.encode()).decode())\n"
        "try: answer = urllib.request.urlopen(request, timeout=60)\n"
        "except urllib.error.HTTPError as error: answer = error\n"
        "except OSError: answer = None\n"
        "print(json.dumps([answer.status, answer.read().decode()] if answer else [0, '']))\n"
    )
    status, text = json.loads(host.check_output(f"python3 -c {shlex.quote(code)}"))
    return int(status), str(text)
