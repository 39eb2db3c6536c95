"""The demo's SMTP server, spoken to by another program."""

import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from native import demo
from native.environment import make_secrets
from native.ports import LOOPBACK, free_port, wait_until_answers
from native.state import ROOT, State

MESSAGE = "From: a@example.org\r\nSubject: Grüße\r\n\r\nHello\r\n.\r\n".encode()


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state")
    state.create()
    for part in ("tmp", "new", "cur"):
        (demo.mail_root(state) / demo.USER / part).mkdir(parents=True)
    return state


@pytest.fixture
def client(state: State) -> Iterator[smtplib.SMTP]:
    make_secrets(state)
    port = free_port()
    server = subprocess.Popen(demo.smtp_command(state, port), cwd=ROOT)
    try:
        assert wait_until_answers(port, 30)
        with smtplib.SMTP(LOOPBACK, port, timeout=10) as client:
            yield client
    finally:
        server.kill()
        server.wait()


def inbox(state: State) -> list[bytes]:
    return [path.read_bytes() for path in (demo.mail_root(state) / demo.USER / "new").iterdir()]


def test_mail_for_the_demo_is_delivered_as_it_is(client: smtplib.SMTP, state: State) -> None:
    client.login(demo.USER, make_secrets(state)["DEMO_PASSWORD"])
    for _ in range(2):
        assert client.sendmail("a@example.org", [demo.ADDRESS], MESSAGE) == {}
    head = f"Return-Path: <a@example.org>\r\nDelivered-To: {demo.ADDRESS}\r\n".encode()
    assert inbox(state) == [head + MESSAGE] * 2
    assert not list((demo.mail_root(state) / demo.USER / "tmp").iterdir())


def test_mail_for_others_is_not_passed_on(client: smtplib.SMTP, state: State) -> None:
    client.login(demo.USER, make_secrets(state)["DEMO_PASSWORD"])
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        client.sendmail(demo.ADDRESS, ["somebody@example.com"], MESSAGE)
    assert inbox(state) == []


@pytest.mark.parametrize(("user", "password"), [(demo.USER, "wrong"), ("other", None)])
def test_a_wrong_login_is_refused(client: smtplib.SMTP, state: State, user: str, password: str | None) -> None:
    with pytest.raises(smtplib.SMTPAuthenticationError):
        client.login(user, password or make_secrets(state)["DEMO_PASSWORD"])


def test_without_a_login_nothing_is_taken(client: smtplib.SMTP, state: State) -> None:
    with pytest.raises(smtplib.SMTPSenderRefused, match="530"):
        client.sendmail("a@example.org", [demo.ADDRESS], MESSAGE)
    assert inbox(state) == []
