"""IMAP and POP3 servers that answer a login with what was sent to log in: nobody gets to see that."""

import base64
import re
import traceback
from collections.abc import Callable, Iterator

import pytest

from tasks.errors import (
    AuthenticationFailedError,
    LoginFailedError,
    MailServerBusyError,
    MailServerUnavailableError,
    ProtocolError,
)
from tasks.storage.accounts.rows import find_account
from tests.conftest import TENANT, Database, register, sync
from tests.support.imap_faults import Action, before, bye, refuse, rewrite
from tests.support.imap_server import BASIC, ImapServer
from tests.support.pop3_server import EVERYTHING, Pop3Server
from tests.support.tcp_server import ScriptedServer

SECRET = 'a"long"wörd'
PLAIN = base64.b64encode(f"\0ada\0{SECRET}".encode()).decode()
COMMAND = r'LOGIN "ada" "a\"long\"wörd"'

IMAP = {
    "refused": (lambda line: refuse(f"NO [AUTHENTICATIONFAILED] you said {line}"), AuthenticationFailedError),
    "unclear": (lambda line: refuse(f"NO you said {line}"), LoginFailedError),
    "busy": (lambda line: refuse(f"NO [UNAVAILABLE] {'x' * 170} {line}"), MailServerBusyError),
    "not understood": (lambda line: refuse(f"BAD what is {line}"), LoginFailedError),
    "goodbye": (lambda line: bye(f"no {line}"), MailServerUnavailableError),
}
POP3 = {
    "refused": (lambda line: f"-ERR [AUTH] you said {line}", AuthenticationFailedError),
    "unclear": (lambda line: f"-ERR you said {line}", LoginFailedError),
    "busy": (lambda line: f"-ERR [SYS/TEMP] {'x' * 170} {line}", MailServerBusyError),
    "no answer": (lambda line: line.rpartition(" ")[2], ProtocolError),
}


@pytest.fixture
def imap(database: Database) -> Iterator[ImapServer]:
    with ImapServer() as server:
        yield server


@pytest.fixture
def pop3(database: Database) -> Iterator[Pop3Server]:
    with Pop3Server() as server:
        yield server


@pytest.mark.parametrize(("action", "error"), IMAP.values(), ids=IMAP)
@pytest.mark.parametrize(
    ("capabilities", "line"), [(BASIC, COMMAND), (f"{BASIC} AUTH=PLAIN", PLAIN)], ids=["login", "sasl"]
)
def test_what_an_imap_server_repeats_is_not_shown(
    imap: ImapServer, capabilities: str, line: str, action: Callable[[str], Action], error: type[Exception]
) -> None:
    imap.capabilities = capabilities
    imap.on(f"{re.escape(PLAIN)}|{re.escape(COMMAND)}", action(line), times=None)
    fails_without_showing(imap, line, error)


@pytest.mark.parametrize(
    ("capabilities", "line"), [(BASIC, COMMAND), (f"{BASIC} AUTH=PLAIN", PLAIN)], ids=["login", "sasl"]
)
def test_what_is_no_answer_is_passed_over_and_not_shown(
    imap: ImapServer, capabilities: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    imap.capabilities = capabilities
    imap.on(re.escape(line), before(f"{line}\r\n".encode()))
    account = register(imap, password=SECRET)

    with pytest.raises(AuthenticationFailedError) as raised:
        sync(account)

    everything = "".join(traceback.format_exception(raised.value)) + caplog.text
    assert not any(said in everything for said in (SECRET, line, PLAIN[:20], "long"))


@pytest.mark.parametrize(("answer", "error"), POP3.values(), ids=POP3)
@pytest.mark.parametrize(
    ("capabilities", "line"), [("USER UIDL", f"PASS {SECRET}"), (EVERYTHING, PLAIN)], ids=["pass", "sasl"]
)
def test_what_a_pop3_server_repeats_is_not_shown(
    pop3: Pop3Server, capabilities: str, line: str, answer: Callable[[str], str], error: type[Exception]
) -> None:
    pop3.capabilities = capabilities
    pop3.on(f"{re.escape(PLAIN)}|PASS", rewrite(rb"(?s).+", f"{answer(line)}\r\n".encode()), times=None)
    fails_without_showing(pop3, line, error, protocol="pop3")


def fails_without_showing(server: ScriptedServer, line: str, error: type[Exception], **changes: object) -> None:
    account = register(server, password=SECRET, **changes)

    with pytest.raises(error) as raised:
        sync(account)

    stored = str(find_account(TENANT, account.id).last_error)
    # (imaplib takes note of a BYE only between two commands)
    assert "its answer repeats a secret" in stored or "socket error: EOF" in stored
    everything = stored + "".join(traceback.format_exception(raised.value))
    for said in (SECRET, line, repr(SECRET.encode())[2:-1], PLAIN[:20], "long"):
        assert said not in everything
