"""metabuilder-adminer.service and metabuilder-redis-commander.service"""

import base64
import json
import shlex
from typing import Any

import pytest
from testinfra.host import Host

from tests.support.site import Site, ask_page, main_pid, reaches

ADMINER, REDIS_COMMANDER = "metabuilder-adminer.service", "metabuilder-redis-commander.service"
PORTS = {ADMINER: 8082, REDIS_COMMANDER: 8083}
TABLES = "/?pgsql=&username=metabuilder&db=metabuilder&ns=public"
NO_PASSWORD = "78"
# Asks Redis Commander as its page does: logs in, then sends what follows to the broker's connection.
_ASK = """
import json, sys, time, urllib.error, urllib.request

def ask(path, sent=None, token=""):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    data = None if sent is None else json.dumps(sent).encode()
    try:
        answer = urllib.request.urlopen(urllib.request.Request(URL + path, data, headers), timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.read().decode()

token = json.loads(ask("/signin", LOGIN)[1]).get("bearerToken", "")
found = {"connections": ask("/connections", None, token)}
if found["connections"][0] == 200:
    names = [each["conId"] for each in json.loads(found["connections"][1])["connections"]]
    found["answers"] = [ask(f"/apiv2/exec/{name}", {"cmd": cmd}, token)[1] for name in names for cmd in COMMANDS]
    found["other"] = ask("/login", {"hostname": "127.0.0.1", "port": 22}, token)[0]
print(json.dumps(found))
"""


@pytest.fixture
def password(site: Site) -> str:
    return str(site.variable(site.group("admin_uis")[0], "admin_uis_password"))


def ask_redis_commander(host: Host, password: str, *commands: str) -> dict[str, Any]:
    """What it answers whoever logs in with this password: its connections, and each of them to the commands."""
    login = {"username": "admin", "password": password}
    given = f"URL, LOGIN, COMMANDS = 'http://127.0.0.1:{PORTS[REDIS_COMMANDER]}', {login!r}, {commands!r}\n"
    encoded = base64.b64encode((given + _ASK).encode()).decode()
    answer: dict[str, Any] = json.loads(host.check_output(f"echo {encoded} | base64 -d | python3 -"))
    return answer


def test_adminer_shows_the_database_to_whoever_has_the_password(admin_host: Host, password: str) -> None:
    port = PORTS[ADMINER]
    assert admin_host.service(ADMINER).is_enabled
    for login in (None, "admin:", "admin:wrong", f"somebody:{password}"):
        assert ask_page(admin_host, port, TABLES, login)[0] == 401, login
    status, page = ask_page(admin_host, port, TABLES, f"admin:{password}")
    assert status == 200
    assert "email_message" in page
    # No other server, and no file as a database
    for path in ("/?elastic=127.0.0.1:22&pgsql=&username=metabuilder", "/?sqlite=&username=&db=/etc/passwd"):
        assert ask_page(admin_host, port, path, f"admin:{password}")[0] == 403, path


def test_redis_commander_shows_redis_and_changes_nothing(admin_host: Host, password: str) -> None:
    assert admin_host.service(REDIS_COMMANDER).is_enabled
    for wrong in ("", "wrong"):
        assert ask_redis_commander(admin_host, wrong)["connections"][0] == 401, wrong
    found = ask_redis_commander(admin_host, password, "DBSIZE", "SET planted 1")
    assert found["connections"][0] == 200
    labels = [each["label"] for each in json.loads(found["connections"][1])["connections"]]
    assert labels == ["broker", "results"]
    broker = found["answers"][: len(found["answers"]) // 2]
    assert isinstance(json.loads(broker[0])["data"], int), broker
    assert "not read-only" in broker[1], broker
    assert found["other"] == 403


@pytest.mark.usefixtures("admin_host")
def test_redis_itself_lets_it_only_read(site: Site, redis_host: Host) -> None:
    password = shlex.quote(site.variable(site.group("redis")[0], "redis_admin_uis_password"))
    tls = "--tls --cacert /etc/metabuilder/tls/ca.crt -h $(hostname)" if len(site.names) > 1 else ""
    said = [
        redis_host.run(f"REDISCLI_AUTH={password} redis-cli {tls} --user metabuilder_admin_uis {command}").stdout
        for command in ("dbsize", "info server", "set planted 1", "keys '*'", "acl list", "config get requirepass")
    ]
    assert said[0].strip().isdecimal()
    assert "redis_version" in said[1]
    assert ["NOPERM" in each for each in said[2:]] == [True] * 4, said


def test_both_listen_on_loopback_only_and_their_users_read_no_secrets(site: Site, admin_host: Host) -> None:
    for unit, port in PORTS.items():
        assert admin_host.socket(f"tcp://127.0.0.1:{port}").is_listening
        listening = admin_host.check_output(f"ss --listening --tcp --numeric --no-header 'sport = {port}'").split()
        assert [each for each in listening if each.endswith(f":{port}")] == [f"127.0.0.1:{port}"]
        assert not reaches(site.first("mail"), site.address(site.group("admin_uis")[0]), port)
        user = admin_host.check_output(f"ps -o user= -p {main_pid(admin_host, unit)}").strip()
        assert user not in ("root", "celery")
        assert admin_host.file(f"/etc/metabuilder/{unit[12:-8]}.env").mode == 0o600


def test_neither_starts_without_a_password(admin_host: Host) -> None:
    for unit in PORTS:
        drop_in = f"/run/systemd/system/{unit}.d"
        admin_host.check_output(
            f"mkdir -p {drop_in} && printf '[Service]\\nExecStart=\\n' >{drop_in}/none.conf && "
            f"systemctl cat {unit} | grep -A1 ^ExecStart=/ | sed 's,=,=/usr/bin/env ADMIN_UIS_PASSWORD= ,' "
            f">>{drop_in}/none.conf && systemctl daemon-reload"
        )
        try:
            admin_host.run(f"systemctl restart {unit}")
            wait_failed = f"timeout 300 sh -c 'until systemctl is-failed --quiet {unit}; do sleep 0.2; done'"
            admin_host.check_output(wait_failed)
            assert admin_host.check_output(f"systemctl show -P ExecMainStatus {unit}") == NO_PASSWORD
            assert "does not start without a password" in admin_host.check_output(f"journalctl -n 20 -u {unit}")
        finally:
            admin_host.check_output(f"rm -r {drop_in} && systemctl daemon-reload && systemctl restart {unit}")
