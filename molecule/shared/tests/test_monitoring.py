"""Prometheus and Alertmanager on a host of the site, and exporters that answer them alone."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from testinfra.host import Host

from tests.support.site import Site, ask_page, reaches
from tests.support.worker import wait_until

PROMETHEUS, ALERTMANAGER, WEBHOOK = 9090, 9093, 9095
PORTS = {"node": 9100, "redis": 9121, "postgres": 9187}
TLS = "/etc/metabuilder/tls"
RULES = "/etc/metabuilder/monitoring/alerts.yml"
ALERT, TOLD = "MetabuilderTargetDown", "/tmp/told-by-alertmanager"
# Writes down what it is told with the token of the inventory.
RECEIVER = f"""
import http.server
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length'])).decode()
        open({TOLD!r}, 'a').write(self.headers['Authorization'] + ' ' + body + chr(10))
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(('127.0.0.1', {WEBHOOK}), Receiver).serve_forever()
"""


@pytest.fixture(scope="module")
def login(site: Site) -> str:
    return f"admin:{site.variable(site.group('monitoring')[0], 'flower_password')}"


def query(monitoring: Host, login: str, words: str) -> list[dict[str, Any]]:
    """What Prometheus answers."""
    status, text = ask_page(monitoring, PROMETHEUS, f"/api/v1/query?{urlencode({'query': words})}", login)
    assert status == 200, text
    return list(json.loads(text)["data"]["result"])


def scraped(monitoring: Host, login: str) -> dict[tuple[str, str], str]:
    """Whether the last scrape of each target succeeded ("1"), by job and instance."""
    found = query(monitoring, login, "up")
    return {(one["metric"]["job"], one["metric"]["instance"]): one["value"][1] for one in found}


def expected(site: Site) -> set[tuple[str, str]]:
    (server,) = site.group("monitoring")
    redis = {
        f"{host}:{instance['port']}"
        for host in site.group("redis")
        for instance in site.variable(host, "redis_instances")
    }
    own = {("metabuilder", server), ("metabuilder-prometheus", server), ("metabuilder-alertmanager", server)}
    hosts = {("metabuilder-node", name) for name in site.names}
    postgresql = {("metabuilder-postgres", name) for name in site.group("postgresql")}
    return own | hosts | postgresql | {("metabuilder-redis", instance) for instance in redis}


@pytest.fixture
def failing_target(site: Site, monitoring: Host) -> Iterator[str]:
    """A host whose exporter is stopped, a rule that waits for nothing, and a receiver of the webhook."""
    name = site.group("redis")[0]
    server = site.host(name)
    monitoring.check_output(
        f"systemd-run --quiet --unit=told-by-alertmanager python3 -c {shlex.quote(RECEIVER)} && "
        f"cp -p {RULES} {RULES}.before && sed -i '/{ALERT}/,/annotations/s/for: 5m/for: 0s/' {RULES} && "
        "systemctl reload prometheus"
    )
    server.check_output("systemctl stop prometheus-node-exporter")
    try:
        yield name
    finally:
        server.check_output("systemctl start prometheus-node-exporter")
        monitoring.check_output(
            f"mv {RULES}.before {RULES} && systemctl restart prometheus && "
            f"systemctl stop told-by-alertmanager; rm -f {TOLD}"
        )


def test_every_target_is_scraped_and_an_alert_reaches_the_webhook(
    site: Site, monitoring: Host, login: str, request: pytest.FixtureRequest
) -> None:
    targets = expected(site)
    wait_until(lambda: scraped(monitoring, login) == dict.fromkeys(targets, "1"), "not every target is scraped")
    # What exporters tell with logins of least privilege is what the rules and graphs ask for
    for words in (
        "redis_up == 1 and on (instance) redis_memory_max_bytes",
        "pg_stat_activity_max_tx_duration",
        "node_filesystem_avail_bytes unless node_filesystem_readonly == 1",
        "metabuilder_source_up == 1",
    ):
        wait_until(lambda asked=words: query(monitoring, login, asked), f"nothing is {words}")
    # The page with graphs is there, and the rules are
    assert ask_page(monitoring, PROMETHEUS, "/consoles/metabuilder.html", login)[0] == 200
    assert ALERT in ask_page(monitoring, PROMETHEUS, "/api/v1/rules", login)[1]

    name = request.getfixturevalue("failing_target")

    token = f"Bearer {site.variable(site.group('monitoring')[0], 'monitoring_webhook_token')} "

    def told() -> list[dict[str, Any]]:
        lines = monitoring.run(f"cat {TOLD}").stdout.splitlines()
        bodies = [line.removeprefix(token) for line in lines if line]
        alerts = [alert for body in bodies for alert in json.loads(body)["alerts"]]
        return [one for one in alerts if (one["labels"]["alertname"], one["status"]) == (ALERT, "firing")]

    wait_until(told, "the webhook hears nothing", 120)
    assert {alert["labels"]["instance"] for alert in told()} == {name}
    runbooks = site.variable(site.group("monitoring")[0], "monitoring_runbooks", "docs/")
    assert told()[0]["annotations"]["runbook"].startswith(f"{runbooks}troubleshooting.md#")


def test_nobody_else_is_answered(site: Site, monitoring: Host) -> None:
    # Pages ask for the login of Flower, and are on loopback alone
    for port in (PROMETHEUS, ALERTMANAGER):
        wait_until(lambda page=port: ask_page(monitoring, page, "/")[0] == 401, f"{port} asks for no login")
    address = site.address(site.group("monitoring")[0])
    for port in (PROMETHEUS, ALERTMANAGER, 9094):
        assert not reaches(monitoring, address, port)
    # Hosts without a Prometheus do not reach an exporter
    others = {"redis": ("node", "redis"), "postgresql": ("node", "postgres")}
    for group, exporters in others.items():
        server = site.address(site.group(group)[0])
        assert reaches(site.first("mail"), server, 22)  # so it is the port that is closed
        for exporter in exporters:
            assert reaches(monitoring, server, PORTS[exporter])
            assert not reaches(site.first("mail"), server, PORTS[exporter])
            # and on the host of Prometheus, whoever has no certificate for clients is not answered
            page = f"https://{server}:{PORTS[exporter]}/metrics"
            assert answered(monitoring, page, "monitoring"), page
            for certificate in ("", "exporters"):
                assert not answered(monitoring, page, certificate), (page, certificate)


def answered(host: Host, page: str, certificate: str) -> bool:
    """Whether a page is shown to a client with this certificate of its host, or with none."""
    shown = f"context.load_cert_chain('{TLS}/{certificate}.crt', '{TLS}/{certificate}.key')\n" if certificate else ""
    code = (
        "import ssl, urllib.request\n"
        f"context = ssl.create_default_context(cafile='{TLS}/ca.crt')\n{shown}"
        f"print(urllib.request.urlopen({page!r}, context=context, timeout=60).status)\n"
    )
    done = host.run(f"python3 -c {shlex.quote(code)}")
    assert done.rc == 0 or re.search(r"alert|reset|closed|EOF", done.stderr, re.IGNORECASE), done.stderr
    return bool(done.rc == 0)


@pytest.mark.usefixtures("monitoring")
def test_the_logins_of_exporters_read_no_data(redis_host: Host, postgresql_host: Host) -> None:
    listed = redis_host.check_output("cat /etc/redis/users.acl")
    (rules,) = re.findall(r"^user metabuilder_monitoring on #\w+ (.*)$", listed, re.MULTILINE)
    assert rules.split()[:3] == ["resetkeys", "resetchannels", "-@all"]

    def asked(database: str) -> tuple[int, str]:
        address = f"host=/var/run/postgresql user=metabuilder_monitoring dbname={database}"
        done = postgresql_host.run(f"cd / && runuser -u prometheus -- psql -X -At '{address}' -c 'SELECT 1'")
        return done.rc, done.stdout.strip()

    assert asked("postgres") == (0, "1")
    assert asked("metabuilder") == (2, "")


def test_a_prometheus_of_ones_own_gets_what_it_is_to_read(site: Site, monitoring: Host) -> None:
    play = site.play("playbooks/monitoring.yml", "--extra-vars=monitoring_server=false", "--limit=monitoring")
    assert play.status == 0, play.output[-3000:]
    folder = "/etc/metabuilder/monitoring"
    said = monitoring.check_output(f"promtool check config {folder}/scrape.yml && promtool check rules {RULES}")
    assert "SUCCESS" in said
    monitoring.check_output(f"rm {folder}/scrape.yml")
