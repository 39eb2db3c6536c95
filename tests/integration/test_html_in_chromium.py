"""Hostile HTML in an application's page in Chromium. Sanitised it runs, asks for, covers and meets nothing.

As it came, each does what the table says: the same page notices it.
"""

import base64
import io
import json
import re
from collections.abc import Iterator
from random import Random
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageChops

from native.errors import StackError
from tasks.mail.parse.html.sanitize import sanitise
from tests.conftest import unavailable
from tests.support.chromium import Chromium
from tests.support.shown.mutations import mutated
from tests.support.shown.server import APPLICATION, Application
from tests.support.shown.vectors import VECTORS, Vector
from tests.support.worker import wait_until

WIDTH, HEIGHT, COLUMNS = 160, 120, 24
BOX = (30, 25, 130, 95)
QUIET_SECONDS = 0.5
# In a box that clips: more than would fit.
ALL = Vector("overflows", "all vectors together", "")
MUTATIONS = 600


class Mail(NamedTuple):
    """HTML and how the application shows it.

    `context` is "rendered" (written into the page by a server), "inserted" (put in by innerHTML) or "document".
    """

    number: int
    vector: Vector
    html: str
    context: str = "rendered"

    @property
    def page(self) -> str:
        """The page without what a script puts in later."""
        if self.context == "document":
            return self.html
        page = APPLICATION.replace("NUMBER", str(self.number))
        page = page.replace("CLASS", "clips" if self.vector.trips == "overflows" else "")
        return page.replace("MAIL", self.html if self.context == "rendered" else "")


class Browser:
    """Shows mails and says what came of them."""

    def __init__(self, chromium: Chromium, application: Application) -> None:
        self.chromium, self.application = chromium, application
        for domain in ("Page", "Network"):
            chromium.call(f"{domain}.enable")
        chromium.call("Page.navigate", url="http://app.example/watch")
        # On a busy machine the page may be silent for longer while it is loaded.
        wait_until(lambda: chromium.evaluate("document.readyState") == "complete", "the page is not loaded")
        wait_until(lambda: chromium.evaluate("typeof inspect") == "function", "the page is not the one asked for")
        chromium.settle(QUIET_SECONDS)

    def inspect(self, mails: list[Mail]) -> dict[int, set[str]]:
        """What each mail does to the page around it, by number."""
        found = self.chromium.evaluate(f"inspect({_as_json(mails)})")
        return {int(number): set(trips) for number, trips in found.items()}

    def show(self, mails: list[Mail]) -> tuple[dict[int, set[str]], set[str]]:
        """What each mail does, by number, and what was asked for beside the pages and what has a number."""
        self.application.pages = {mail.number: mail.page for mail in mails}
        self.application.requests.clear()
        self.chromium.events.clear()
        size = {"width": COLUMNS * WIDTH, "height": -(-len(mails) // COLUMNS) * HEIGHT}
        self.chromium.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
        assert self.chromium.evaluate(f"show({_as_json(mails)})") == len(mails)
        self.chromium.settle(QUIET_SECONDS)
        found = {number: {"moves"} for number in self.chromium.evaluate("actInAll()")}
        self.chromium.settle(QUIET_SECONDS)
        done = [(number, "covers") for number in self._painted_over(mails)]
        done += [(number, "runs") for number in self.chromium.evaluate("ran")]
        requested = self._requested()
        done += [(int(url[1]), "requests") for url in map(re.compile(r".*?leak/(\d+)").match, requested) if url]
        for number, what in done:
            found.setdefault(number, set()).add(what)
        return found, {url for url in requested if "leak/" not in url}

    def _requested(self) -> set[str]:
        sent = (event for event in self.chromium.events if event["method"] == "Network.requestWillBeSent")
        urls = {event["params"]["request"]["url"] for event in sent}
        urls |= {f"http://{host}{path}" for host, path in self.application.requests}
        return {url for url in urls if not re.fullmatch(r"http://app\.example/(mail/\d+|favicon\.ico)", url)}

    def _painted_over(self, mails: list[Mail]) -> Iterator[int]:
        """The numbers of mails outside of whose boxes something is seen."""
        data = self.chromium.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        untouched = None
        for place, mail in enumerate(mails):
            left, top = place % COLUMNS * WIDTH, place // COLUMNS * HEIGHT
            tile = picture.crop((left, top, left + WIDTH, top + HEIGHT))
            tile.paste((0, 0, 0), BOX)
            untouched = untouched or tile
            if mail.context != "document" and ImageChops.difference(tile, untouched).getbbox():
                yield mail.number


def _as_json(mails: list[Mail]) -> str:
    return json.dumps([{**mail._asdict(), "page": mail.page} for mail in mails])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Application() as application:
        chromium = Chromium(tmp_path_factory.mktemp("chromium"), application.server_port)
        try:
            chromium.__enter__()
        except StackError as error:
            unavailable(str(error))
        try:
            yield Browser(chromium, application)
        finally:
            chromium.__exit__()


def test_unsanitised_vectors_are_noticed(browser: Browser) -> None:
    """What the page does not notice here, it could not notice below."""
    mails = [Mail(number, vector, vector.html(number)) for number, vector in enumerate(VECTORS)]
    found = browser.inspect(mails)
    shown, _ = browser.show(mails)
    missed = [
        (mail.vector.trips, mail.vector.what)
        for mail in mails
        if mail.vector.trips not in {"-", "overflows", *found[mail.number], *shown.get(mail.number, ())}
    ]
    assert not missed


def test_sanitised_vectors_do_nothing(browser: Browser) -> None:
    mails = [Mail(number, vector, sanitise(vector.html(number))) for number, vector in enumerate(VECTORS)]
    inserted = [mail._replace(context="inserted") for mail in mails]
    together = "".join(f"<div>{mail.html}</div>" for mail in mails)
    at_once = [
        Mail(len(mails) + place, ALL, together, context) for place, context in enumerate(("inserted", "document"))
    ]
    assert browser.inspect(inserted) == {mail.number: set() for mail in mails}
    done, requested = browser.show(mails + at_once)
    assert done == {}
    assert_no_request_but_pictures(requested)
    # The counter sees what the sanitised page does ask for.
    assert "http://images.example/picture/0/x.gif" in requested


def test_mutated_vectors_do_nothing(browser: Browser) -> None:
    """All in one page, as each tells its number, and in one document."""
    random = Random(20261127)
    written = [mutated(VECTORS[number % len(VECTORS)].html(number), random) for number in range(MUTATIONS)]
    together = "".join(f"<div>{sanitise(html)}</div>" for html in written)
    mails = [
        Mail(MUTATIONS + place, ALL, together, context) for place, context in enumerate(("inserted", "document"))
    ]
    assert browser.inspect(mails[:1]) == {MUTATIONS: set()}
    done, requested = browser.show(mails)
    assert done == {}
    assert_no_request_but_pictures(requested)


def test_reading_and_writing_again_changes_nothing(browser: Browser) -> None:
    """What a browser makes of sanitised HTML, over and over, the sanitiser would leave as it is (no mutation XSS)."""
    random = Random(20261128)
    pieces = [vector.html(number) for number, vector in enumerate(VECTORS)]
    pieces = [sanitise(html) for html in [*pieces, *(mutated(html, random) for html in pieces)]]
    for html, forms in zip(pieces, browser.chromium.evaluate(f"reread({json.dumps(pieces)})"), strict=True):
        assert forms[-1] == forms[-2], html
        for form in set(forms):
            assert names(sanitise(form)) == names(form) <= names(html), html


def names(html: str) -> set[str]:
    """The start tags of HTML without those that a browser adds to make a table whole."""
    return set(re.findall(r"<[a-z][^>]*>", html)) - {"<tbody>", "<tr>", "<colgroup>", "<p>"}


def assert_no_request_but_pictures(requested: set[str]) -> None:
    asked = {urlsplit(url) for url in requested}
    wrong = {url for url in asked if url.scheme not in ("http", "https", "cid") or url.hostname == "app.example"}
    assert wrong == set()
