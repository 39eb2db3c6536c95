"""A question is asked once for all who want to know, waits for a bounded time, and is logged when that changes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from celery import Celery

from tasks.monitoring.exporter import collector
from tasks.monitoring.exporter.question import Question
from tests.support.worker import wait_until


class Server:
    """Counts how often it is asked; answers when it may, or raises."""

    def __init__(self) -> None:
        self.numbers, self.may_answer = count(1), threading.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    def ask(self) -> int:
        number = next(self.numbers)
        assert self.may_answer.wait(10)
        if self.error:
            raise self.error
        return number


@pytest.fixture
def server() -> Server:
    return Server()


def test_who_asks_meanwhile_or_soon_after_shares_the_answer(server: Server) -> None:
    question = Question("it", server.ask, patience=5, shared_seconds=60)
    server.may_answer.clear()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(question.answer) for _ in range(4)]
        server.may_answer.set()
        assert {answer.result(5) for answer in answers} == {1}
    assert question.answer() == 1
    unshared = Question("it", server.ask, patience=5)
    assert [unshared.answer(), unshared.answer()] == [2, 3]


def is_answered(question: Question[int]) -> bool:
    try:
        question.answer()
    except TimeoutError:
        return False
    return True


def test_silence_and_errors_are_raised_and_logged_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    question = Question("it", server.ask, patience=0.05)
    server.may_answer.clear()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            question.answer()
    server.may_answer.set()
    wait_until(lambda: is_answered(question), "it does not answer again")
    server.error = ValueError("first line\nsecond line")
    for _ in range(2):
        with pytest.raises(ValueError, match="first line"):
            question.answer()
    assert caplog.messages == [
        "it does not answer: TimeoutError: no answer within 0.05 s",
        "it answers again",
        "it does not answer: ValueError: first line",
    ]


def test_questions_asked_together_share_the_time_to_wait(server: Server) -> None:
    server.may_answer.clear()
    quick = Question("quick", lambda: 7, patience=1).ask()
    silent = [Question("it", server.ask, patience=1).ask() for _ in range(3)]
    began = time.monotonic()
    for asked in silent:
        with pytest.raises(TimeoutError):
            asked.answer()
    assert time.monotonic() - began < 3  # one after the other
    server.may_answer.set()
    # How long each took does not count the waiting for others
    assert quick.answer() == 7
    assert quick.seconds < 1 <= silent[0].seconds


def test_a_scrape_of_silent_servers_ends_in_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.may_answer.clear()
    monkeypatch.setattr(collector, "_PATIENCE_SECONDS", 1)
    for name in ("_read_postgresql", "_read_certificates", "broker_client"):
        monkeypatch.setattr(collector, name, lambda *_: server.ask())
    site = collector.SiteCollector(Celery())
    began = time.monotonic()
    found = {metric.name: metric for metric in site.collect()}
    assert time.monotonic() - began < 3  # one after the other
    assert [sample.value for sample in found["metabuilder_source_up"].samples] == [0, 0]
    server.may_answer.set()
