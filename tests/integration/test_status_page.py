"""The status page, on a real Redis and PostgreSQL and in Chromium: what it shows, to whom, and of hostile names.

SCREENSHOTS=FOLDER keeps pictures of the page there, for a desk and for a phone.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg2
import pytest

from native.errors import StackError
from native.postgres import libpq
from tasks.monitoring import report
from tasks.monitoring.exporter.status import MOST
from tasks.registry import QUEUES, SEND_EMAIL, SYNC_EMAILS
from tasks.storage import dead_letters
from tasks.storage.accounts.rows import NewAccount, add_account
from tests.conftest import TENANT, USER, Database, as_superuser, unavailable
from tests.integration.faults.conftest import broker
from tests.support.chromium import Chromium
from tests.support.exporter import LOGIN, Exporter, running_exporter
from tests.support.servers import RedisServer
from tests.support.trouble import in_trouble
from tests.support.worker import wait_until

# Each would run, load, cover or turn something, if it were not escaped.
HOSTILE = (
    "<script>document.title='run'</script>",
    '"><img src=x onerror="document.title=\'run\'">',
    "</table></section></main><h1>The site works</h1>",
    "\u202etxet denrut\x1b[31m\x00",
    "&lt;b&gt; <style>body{display:none}</style>" + "long " * 100,
)
WIDTHS = {"desk": (1440, 900), "phone": (360, 740)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def exporter(server: RedisServer, database: Database, environment: Callable[..., None]) -> Iterator[Exporter]:
    environment(REDIS_URL=server.url)
    with running_exporter(environment) as found:
        yield found


def fill(server: RedisServer, database: Database) -> None:
    """More than is shown of everything, with hostile names and words."""
    with psycopg2.connect(libpq(database.owner_url)) as connection, connection.cursor() as cursor:
        for number in range(MOST + 3):
            words = HOSTILE[number % len(HOSTILE)].replace("\0", "")
            name, host = f"{number} {words[:150]}", f"imap{number}.example.org"
            account = add_account(TENANT, USER, NewAccount(name, "a@example.org", host, 993, "tls", f"{number}", "p"))
            cursor.execute(
                "UPDATE email_client SET failing_since = now() - make_interval(mins => %s), last_error = %s,"
                " last_error_code = 'server_unavailable', last_sync_at = now() WHERE id = %s",
                [number, words, account],
            )
            failure = dead_letters.Failure(f"{number}", SEND_EMAIL, f"{number}", USER, {}, "code", words, "", 3)
            dead_letters.bury(TENANT, failure, [], {})
    work = report.Work(id="id", name=SYNC_EMAILS, positional="()", named="{}", seconds=100)
    children = (report.Child(pid=2, pss=30 << 20, work=work), report.Child(pid=3, pss=20 << 20, work=None))
    options = {"concurrency": 2, "consumes": True, "is_stopping": False, "reserved": 4, "restarts": 5, "seconds": 1}
    with broker(server) as client:
        for node in ("worker@host1", HOSTILE[0]):
            told = report.Report(
                node=node, host="h", pid=1, release="1.2", pss=90 << 20, children=children, **options
            )
            report.tell(client, told)
        client.zadd(report.WORKERS, {"worker@gone": time.time() - 600})
        client.lpush("send\x06\x163", f'{{"due": {time.time() - 500:.6f}, "body": ""}}')


def test_it_shows_the_site_to_whoever_has_the_login(
    exporter: Exporter, server: RedisServer, database: Database
) -> None:
    fill(server, database)
    assert exporter.get("/", None)[0] == exporter.get("/", "admin:wrong")[0] == 401
    answer, text = exporter.ask("/")
    assert answer.status == 200
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"

    # Nothing works on the queues, and the page says so first
    assert "Work stands still" in text
    assert "No worker consumes sync, periodic, send, " in text
    assert "1 worker down: worker@gone" in text
    assert all(f">{queue}</td>" in text for queue in QUEUES)
    assert "15 tasks failed for good" in text
    # A few of the newest, with nothing of theirs as markup
    assert text.count("server_unavailable") == MOST
    assert '<td class="">0 &lt;script&gt;' in text
    assert all(markup not in text for markup in ("<script", "<img", "<h1>The site works", "\u202e", "\x1b"))
    assert len(text) < 40_000

    # What cannot be read is said, and the rest is shown
    as_superuser(database.server, f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
    as_superuser(
        database.server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database.name}'"
    )
    wait_until(lambda: "PostgreSQL does not answer" in exporter.get("/")[1], "it does not say so")
    text = exporter.get("/")[1]
    assert text.count("cannot be read now") == 2
    assert "worker@host1" in text
    as_superuser(database.server, f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")
    for trouble in ("silent", "away"):
        with in_trouble(server, trouble):
            wait_until(lambda: "Redis does not answer" in exporter.get("/")[1], "it does not say so")
            began = time.monotonic()
            text = exporter.get("/")[1]
            assert time.monotonic() - began < 20
            assert "imap0.example.org" in text
            assert text.count("cannot be read now") == 2


@contextmanager
def page(exporter: Exporter, profile: Path) -> Iterator[Chromium]:
    try:
        with Chromium(profile, exporter.port) as chromium:
            yield chromium
    except StackError as error:
        unavailable(str(error))


def test_it_runs_nothing_and_fits_a_phone(
    exporter: Exporter, server: RedisServer, database: Database, tmp_path: Path
) -> None:
    fill(server, database)
    login = ":".join(quote(part, safe="") for part in LOGIN.split(":", 1))
    with page(exporter, tmp_path / "profile") as chromium:
        chromium.call("Page.navigate", url=f"http://{login}@status.test/")
        body = "document.body ? document.body.innerText : ''"
        wait_until(lambda: "Failing accounts" in str(chromium.evaluate(body)), "the page is not shown")
        assert chromium.evaluate("document.title") == "Work stands still – MetaBuilder"
        assert chromium.evaluate("document.querySelectorAll('script, img, iframe').length") == 0
        assert chromium.evaluate("document.querySelectorAll('h1').length") == 1
        assert (
            chromium.evaluate("getComputedStyle(document.querySelector('main')).display") == "grid"
        )  # its style works
        for name, (width, height) in WIDTHS.items():
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": name == "phone"}
            chromium.call("Emulation.setDeviceMetricsOverride", **size)
            assert chromium.evaluate("document.documentElement.scrollWidth") <= width
            chromium.picture(f"status-{name}", width, height)
