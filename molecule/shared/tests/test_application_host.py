"""A host of the group `applications`: what it gets and can do, what it is refused, and that leaving ends it."""

import base64
import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import PYTHON, TENANT, USER, RemoteMailbox, Site, ask_redis, sql

ENVIRONMENT, GROUP = "/etc/metabuilder/client.env", "metabuilder-client"
COMMAND_LINE = "/usr/local/bin/metabuilder"
# The secrets that are to be on such a host.
OWN = ("redis_application_password", "postgresql_application_password")
RECEIVER_PORT = 9443


class Application:
    """The application on its own host. `inventory` is the file by which its host is one."""

    def __init__(self, site: Site, inventory: Path) -> None:
        (self.name,) = site.group("mail")
        self.site, self.host, self.inventory = site, site.host(self.name), inventory
        self.mailbox = RemoteMailbox(site, f"application-{time.time_ns() % 10**9}")
        inventory.write_text(f"applications: {{hosts: {{{self.name}: }}, vars: {{client_release: true}}}}\n")

    def join(self) -> None:
        """Have site.yml do what a new host of the group concerns."""
        hosts = ",".join([*self._servers, self.name])
        self._play("site.yml", "--limit", hosts, "--tags", "tls,firewall,redis,postgresql,client", *self._with_it)

    def leave(self) -> None:
        """Take off what it got, take it out of the inventory, and have site.yml do what that concerns."""
        self._play("playbooks/decommission.yml", "--limit", self.name, "--extra-vars", "confirm=yes", *self._with_it)
        self._play("site.yml", "--limit", ",".join(self._servers), "--tags", "firewall,postgresql")
        self._play("playbooks/old-passwords.yml")

    @property
    def _servers(self) -> list[str]:
        return [self.site.group("redis")[0], self.site.group("postgresql")[0]]

    @property
    def _with_it(self) -> tuple[str]:
        return (f"--inventory={self.inventory}",)

    def _play(self, playbook: str, *options: str) -> None:
        play = self.site.play(playbook, *options)
        assert play.status == 0, play.output[-4000:]

    def run(self, command: str, user: str = "nobody") -> Any:
        """Run a command of a shell as a member of the group, with client.env."""
        line = f"cd / && set -a && . {ENVIRONMENT} && set +a && {command}"
        return self.host.run(f"runuser -u {user} -g {GROUP} -- sh -c {shlex.quote(line)}")

    def run_code(self, code: str, user: str = "nobody") -> Any:
        """Run Python in the release; what it prints, as JSON."""
        encoded = base64.b64encode(code.encode()).decode()
        loaded = f'import base64; exec(base64.b64decode("{encoded}"))'
        done = self.run(f"{PYTHON} -c {shlex.quote(loaded)}", user)
        assert done.rc == 0, done.stderr[-3000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def application(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    if len(site.names) == 1:
        pytest.skip("all is on one host: the application has none of its own")
    made = Application(site, tmp_path_factory.mktemp("more") / "more.yml")
    try:
        made.join()
        yield made
    finally:
        if made.host.file(ENVIRONMENT).exists:  # the last test did not get so far
            made.leave()


def test_it_gets_what_it_connects_with_and_nothing_else(site: Site, application: Application) -> None:
    file = application.host.file(ENVIRONMENT)
    assert (file.user, file.group, file.mode) == ("root", GROUP, 0o640)
    own = {site.variable(application.name, own).partition("@")[0] for own in OWN}
    held = application.host.check_output(
        "grep -raohE 'planted[-A-Za-z]+' /etc/metabuilder /opt/metabuilder/current/bin | sort -u"
    )
    assert own <= set(site.beginnings)
    assert set(site.beginnings) & set(held.split()) == own
    assert site.variable(application.name, "application_credential_encryption_key") not in file.content_string
    units = "celery-* mail-watcher* metabuilder-* prometheus-*"
    assert application.host.run(f"systemctl list-unit-files --no-legend {units}").stdout == ""
    assert application.host.run("id celery").rc != 0
    assert application.host.run("nft list table inet metabuilder").rc != 0


def test_it_adds_an_account_syncs_it_and_reads_its_tenants_mail_alone(site: Site, application: Application) -> None:
    mailbox = application.mailbox
    mailbox.deliver(2)
    password = shlex.quote(site.variable(application.name, "mail_password"))
    options = (
        f"--email {mailbox.account} --name {mailbox.user} --username {mailbox.user} --hostname {application.name}"
    )
    done = application.run(
        f"printf %s {password} | metabuilder account add {options} --tenant {TENANT} --user {USER} --password-stdin"
    )
    assert done.rc == 0, done.stderr
    account = done.stdout.strip()
    synced = application.run_code(
        "import json\nfrom tasks.celery_app import get_task_status, sync_emails\n"
        f"result = sync_emails.delay({account!r}, {TENANT!r}, {USER!r})\n"
        "print(json.dumps([type(result.get(timeout=300)['status']).__name__, get_task_status(result.id)['state']]))\n"
    )
    assert synced == ["str", "SUCCESS"]
    mailbox.wait_stored(2)  # by this task, or by one that beat queued at the same moment
    tenants = [TENANT, "another", ""]
    seen = application.run_code(
        "import json, os, psycopg2\nseen = []\n"
        f"for tenant in {tenants!r}:\n"
        "    cursor = psycopg2.connect(os.environ['DATABASE_URL']).cursor()\n"
        "    cursor.execute(\"SELECT set_config('metabuilder.tenant_id', %s, true)\", (tenant,))\n"
        f"    cursor.execute('SELECT count(*) FROM message_view WHERE email_client_id = %s', ({account!r},))\n"
        "    seen += cursor.fetchone()\n"
        "print(json.dumps(seen))\n"
    )
    assert seen == [2, 0, 0]
    of_it = f"SELECT credential_id FROM email_client WHERE id = '{account}'"
    kept = sql(site, f"SELECT left(encode(ciphertext, 'escape'), 5) FROM credential WHERE id = ({of_it})")
    assert kept.strip() == "hpke:"  # by the public key


def test_it_is_refused_all_else(site: Site, application: Application) -> None:
    worker = "metabuilder_worker", site.variable(application.name, "postgresql_worker_password")
    statements = [
        "SELECT ciphertext FROM credential",
        "SELECT list_dead_letters()",
        "DELETE FROM event",
        "SET ROLE metabuilder_worker",
    ]
    commands = ["KEYS *", "RPOP sync", "LRANGE send 0 -1", "CONFIG GET dir", "FLUSHALL", "PUBLISH /0.celery.pidbox x"]
    refused = application.run_code(
        "import json, os, psycopg2, redis\nfrom urllib.parse import urlsplit\n"
        "url, said = os.environ['DATABASE_URL'], {}\n"
        "def note(what, ask):\n"
        "    try: ask()\n"
        "    except (psycopg2.Error, redis.RedisError) as error: said[what] = ' '.join(str(error).split())\n"
        "    else: said[what] = ''\n"
        f"for statement in {statements!r}:\n"
        "    note(statement, lambda: psycopg2.connect(url).cursor().execute(statement))\n"
        f"user, password = {worker!r}\n"
        "note('as a worker', lambda: psycopg2.connect(url, user=user, password=password))\n"
        "note('without TLS', lambda: psycopg2.connect(url, sslmode='disable'))\n"
        "for variable in ('REDIS_URL', 'CELERY_RESULT_BACKEND'):\n"
        "    client = redis.Redis.from_url(os.environ[variable])\n"
        "    note(f'ping {variable}', client.ping)\n"
        f"    for command in {commands!r}:\n"
        "        note(f'{variable} {command}', lambda: client.execute_command(*command.split()))\n"
        "print(json.dumps(said))\n"
    )
    assert refused.pop("ping REDIS_URL") == refused.pop("ping CELERY_RESULT_BACKEND") == ""
    assert "no pg_hba.conf entry for host" in refused.pop("as a worker")
    assert "no encryption" in refused.pop("without TLS")
    assert len(refused) == len(statements) + 2 * len(commands)
    assert {what: words for what, words in refused.items() if "permission" not in words} == {}
    # The firewalls open two services for it, and neither exporters nor workers
    opened = [(site.group("redis")[0], 6379), (site.group("redis")[0], 6380), (site.group("postgresql")[0], 5432)]
    closed = [(site.group("redis")[0], 9121), (site.group("postgresql")[0], 9187), (site.group("exporter")[0], 9100)]
    assert reached(application, opened + closed) == sorted(opened)


def reached(application: Application, places: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The hosts and ports that accept a connection from the application's host within three seconds."""
    attempts = [
        f"(timeout 3 bash -c '</dev/tcp/{application.site.address(host)}/{port}' && echo {host} {port}) &"
        for host, port in places
    ]
    said = application.host.run(f"{' '.join(attempts)} wait").stdout
    return sorted((host, int(port)) for host, port in map(str.split, said.splitlines()))


# A receiver of webhooks, and a session that listens as the application does. Prints when each step was seen, in
# seconds after the message was put into the mailbox.
WATCHES = """
import base64, hashlib, hmac, http.server, json, os, select, shutil, ssl, subprocess, threading, time
import psycopg2

posted, received = threading.Event(), []

class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        received.append((time.time(), {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()
        if json.loads(body)["type"] == "message.created":
            posted.set()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("", PORT), Receiver)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/etc/dovecot/mail.crt", "/etc/dovecot/private/mail.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()

def webhook_command(*words):
    command = ["metabuilder", "webhook", *words, "--tenant", TENANT]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


webhook = json.loads(webhook_command("add", f"https://{HOST}:{PORT}/", "--account", USER, "--json"))
listener = psycopg2.connect(os.environ["DATABASE_URL"])
listener.autocommit = True
cursor = listener.cursor()
cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, false)", (TENANT,))
cursor.execute("LISTEN metabuilder_event")
deadline = time.time() + 600
while True:
    cursor.execute("SELECT watched_since IS NOT NULL FROM email_client WHERE account_name = %s", (USER,))
    if cursor.fetchone()[0]:
        break
    assert time.time() < deadline, "nobody watches the mailbox"
    time.sleep(0.2)
cursor.execute("SELECT event_position_now()")
position = cursor.fetchone()[0]

box = f"/var/mail/test/{USER}"
with open(f"{box}/tmp/timed", "wb") as file:
    file.write(b"Message-ID: <timed@example.org>\\r\\nSubject: timed\\r\\n\\r\\nx\\r\\n")
shutil.chown(f"{box}/tmp/timed", "mail", "mail")
arrived = time.time()
os.rename(f"{box}/tmp/timed", f"{box}/new/{int(arrived)}.M9P9.mail")

steps = {}
while not ({"row", "event"} <= steps.keys() and posted.wait(0.01)):
    assert time.time() < deadline, steps
    select.select([listener], [], [], 0.1)
    listener.poll()
    listener.notifies.clear()
    if "row" not in steps:
        cursor.execute("SELECT 1 FROM message_view WHERE message_id = 'timed@example.org'")
        if cursor.fetchone():
            steps["row"] = time.time() - arrived
    if "event" not in steps:
        cursor.execute("SELECT type FROM events_after(%s, 100)", (position,))
        if ("message.created",) in cursor.fetchall():
            steps["event"] = time.time() - arrived
at, headers, body = next(one for one in received if json.loads(one[2])["type"] == "message.created")
steps["delivered"] = at - arrived
key = base64.b64decode(webhook["secret"].removeprefix("whsec_"))
signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
webhook_command("remove", webhook["id"], "--yes")
print(json.dumps({"steps": steps, "is_signed": f"v1,{expected}" in headers["webhook-signature"].split()}))
"""


def test_a_webhook_on_it_hears_of_mail_as_it_arrives(application: Application) -> None:
    given = {"HOST": application.name, "PORT": RECEIVER_PORT, "USER": application.mailbox.user, "TENANT": TENANT}
    code = "".join(f"{name} = {value!r}\n" for name, value in given.items()) + WATCHES
    seen = application.run_code(code, "root")  # who may write into the mailbox
    assert seen["is_signed"]
    steps = seen["steps"]
    print(", ".join(["arrived 0.00 s", *(f"{name} {steps[name]:.2f} s" for name in ("row", "event", "delivered"))]))


def test_a_host_that_leaves_is_shut_out(site: Site, application: Application) -> None:
    servers = [(site.group("redis")[0], 6379), (site.group("postgresql")[0], 5432)]

    application.leave()

    left = f"ls -d /etc/metabuilder /opt/metabuilder {COMMAND_LINE}; getent group {GROUP}"
    assert application.host.run(left).stdout == ""
    assert reached(application, servers) == []
    password = site.variable(application.name, "redis_application_password")
    said = ask_redis(site, site.first("redis"), "metabuilder_application", "ping", password=password)
    assert "WRONGPASS" in said
    rules = sql(
        site, "SELECT count(*) FROM pg_hba_file_rules WHERE user_name = '{metabuilder}' AND type LIKE 'host%'"
    )
    assert rules.strip() == "0"
