"""Every command that the engine sends, answered in every odd way.

The mailbox is synced in the end, or the account says what is wrong; no row and no message is lost, none is there
twice, and nothing hangs. Scripted, since no real server does these on request.

A test is a command; in it, each way has an account and a server of its own, which go through a first sync, changes
and a full sync, or a copy in Sent and deleting. What is odd happens once in each of these steps, or always.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from tasks.engine.delete.messages import DeleteRequest, delete_messages
from tasks.engine.send.sent_copy import file_copy
from tasks.errors import EmailError
from tasks.storage.accounts.rows import Account, find_account
from tasks.storage.outbox import Outgoing
from tests.conftest import TENANT, USER, Database, register, sync
from tests.support.imap_faults import Action, Answer, Rule, before, refuse
from tests.support.imap_server import BASIC, CONDSTORE, QRESYNC, ImapServer
from tests.support.mailbox import message
from tests.support.stored import rows

MOVE = f"{QRESYNC} MOVE"
PLAIN = f"{BASIC} UIDPLUS"
# Connections that are waited for, and much that is done beside on a busy machine.
MAX_STEP_SECONDS = 20

COMMANDS = {
    "CAPABILITY": ("CAPABILITY", MOVE),
    "ID": ("ID", MOVE),
    "ENABLE": ("ENABLE", MOVE),
    "LIST": ("LIST", PLAIN),
    "LIST RETURN": ("LIST", MOVE),
    "STATUS": ("STATUS", PLAIN),
    "EXAMINE": ("EXAMINE", MOVE),
    "EXAMINE (CONDSTORE)": ("EXAMINE", CONDSTORE),
    "SELECT": ("SELECT", MOVE),
    "SEARCH": ("UID SEARCH", PLAIN),
    "SEARCH RETURN": ("UID SEARCH", MOVE),
    "FETCH of messages": (r"UID FETCH .*BODY\.PEEK\[\]", MOVE),
    "FETCH of flags": (r"UID FETCH \S+ \(UID FLAGS\)$", PLAIN),
    "FETCH of changes": ("UID FETCH .*CHANGEDSINCE", CONDSTORE),
    "FETCH of changes and removals": ("UID FETCH .*CHANGEDSINCE", MOVE),
    "FETCH of envelopes": (r"UID FETCH .*HEADER\.FIELDS", MOVE),
    "MOVE": ("UID MOVE", MOVE),
    "COPY": ("UID COPY", QRESYNC),
    "STORE": ("UID STORE", QRESYNC),
    "EXPUNGE": ("UID EXPUNGE", QRESYNC),
    "APPEND": ("APPEND", MOVE),
    "CREATE": ("CREATE", MOVE),
    "SUBSCRIBE": ("SUBSCRIBE", MOVE),
    "LOGOUT": ("LOGOUT", MOVE),
}

# Those that tasks send which change something.
TASKS = (
    "SELECT",
    "FETCH of envelopes",
    "MOVE",
    "COPY",
    "STORE",
    "EXPUNGE",
    "APPEND",
    "CREATE",
    "SUBSCRIBE",
    "LOGOUT",
)

_UNTAGGED = re.compile(rb"\* (?:[^\r\n{]|\{(?!\d+\}\r\n))*(?:\{(\d+)\}\r\n)?")


def untagged(data: bytes) -> list[bytes]:
    """The untagged answers, each with its literal."""
    found, at = [], 0
    while match := _UNTAGGED.match(data, at):
        end = match.end() + int(match[1] or 0)
        end = data.index(b"\r\n", end) + 2
        found.append(data[at:end])
        at = end
    return found


def empty(answer: Answer) -> None:
    """The tagged line alone."""
    answer.data = answer.data[sum(map(len, untagged(answer.data))) :]


def one_line_less(answer: Answer) -> None:
    """Without the last of the untagged answers."""
    lines = untagged(answer.data)
    kept = b"".join(lines[:-1])
    answer.data = kept + answer.data[sum(map(len, lines)) :]


def in_lower_case(answer: Answer) -> None:
    """The words of the protocol, in all lines that hold no names."""
    lines = untagged(answer.data)
    tagged = answer.data[sum(map(len, lines)) :]
    low = [line.lower() if b"LIST" not in line and b"{" not in line else line for line in lines]
    answer.data = b"".join(low) + re.sub(
        rb"(?m)^(\S+ )(OK|NO|BAD)", lambda m: m[1] + m[2].lower() + b" [alert] mind", tagged
    )


UNKNOWN = b"* XYZZY 12 [x] (y\r\n* 7 PLUGH {3}\r\nabc)\r\n* OK [ALERT] Please mind [the gap]\r\n"
MALFORMED = (
    b"* (((\r\n* LIST (((\r\n* STATUS\r\n* SEARCH x -1\r\n* ESEARCH\r\n* VANISHED x\r\n* VANISHED (EARLIER) 0\r\n"
    b"* 1 FETCH (UID x FLAGS (\r\n* FETCH\r\n* OK [COPYUID\r\n* OK [UIDNEXT x] y\r\nhello\r\n\r\n* \r\n*\r\n"
)
OF_ITS_OWN_ACCORD = b"* 99 EXISTS\r\n* 1 RECENT\r\n* 1 FETCH (FLAGS (\\Answered))\r\n* 99 EXPUNGE\r\n* FLAGS (x)\r\n"
WAYS: dict[str, Action] = {
    "NO": refuse("NO not now"),
    "BAD": refuse("BAD what"),
    "empty": empty,
    "lines more": before(UNKNOWN + MALFORMED + OF_ITS_OWN_ACCORD),
    "a line less": one_line_less,
    "lower case and an alert": in_lower_case,
}
ALWAYS = ("NO", "BAD")


@dataclass
class Case:
    """One server, its account, and what went wrong on the way."""

    server: ImapServer
    account: Account
    pattern: str
    way: str
    is_always: bool
    errors: list[EmailError] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)

    def misbehave(self) -> None:
        """Be odd, from now on or once more."""
        self.behave()
        times = None if self.is_always else 1
        action = WAYS[self.way]
        if self.way in ("NO", "BAD"):
            answer = Answer(b"", b"")
            action(answer)
            self.rules.append(self.server.decline(self.pattern, answer.data.decode().strip(), times=times))
        else:
            self.rules.append(self.server.on(self.pattern, action, times=times))

    def behave(self) -> None:
        self.server.rules.clear()
        self.server.declined.clear()

    def step(self, do: Callable[[], object]) -> None:
        """What went wrong is kept. None may take long, and none may take a message away."""
        before_it, started = self.stored(), time.monotonic()
        try:
            do()
        except EmailError as error:
            self.errors.append(error)
        assert time.monotonic() - started < MAX_STEP_SECONDS, f"{self}: it hangs"
        self.check_nothing_is_lost(before_it)

    def sync(self, **options: float) -> None:
        sync(find_account(TENANT, self.account.id), **options)

    def stored(self) -> dict[str, str]:
        """Message-ID by id of our rows."""
        query = "SELECT id, message_id FROM email_message WHERE email_client_id = :account"
        return {str(key): str(value) for key, value in rows(query, account=self.account.id)}

    def on_server(self) -> list[str]:
        raws = [m.content() for folder in self.server.folders.values() for m in folder.messages.values()]
        return sorted(
            re.findall(rb"<(.*)>\r\n", next(iter(re.findall(rb"Message-ID: .*\r\n", raw))))[0].decode()
            for raw in raws
        )

    def check_nothing_is_lost(self, before_it: dict[str, str]) -> None:
        after, there = self.stored(), set(self.on_server())
        lost = {name for key, name in before_it.items() if key not in after and name in there}
        assert not lost, f"{self}: rows are lost of {lost}"
        doubles = [name for name in set(after.values()) if list(after.values()).count(name) > 1]
        assert not doubles or self.pattern in ("UID STORE", "UID EXPUNGE", "APPEND"), (
            f"{self}: {doubles} are there twice"
        )

    def check_is_synced(self) -> None:
        state = rows(
            "SELECT path, imap_uid, is_read FROM email_message AS message JOIN email_folder AS folder "
            "ON folder.id = folder_id WHERE message.email_client_id = :account ORDER BY 1, 2",
            account=self.account.id,
        )
        expected = sorted(
            (path.decode(), uid, "\\Seen" in found.flags)
            for path, folder in self.server.folders.items()
            for uid, found in folder.messages.items()
        )
        assert state == expected, f"{self}: {self.errors}"

    def __str__(self) -> str:
        return f"{self.pattern}: {self.way}{', always' if self.is_always else ''}"


def outgoing(account: Account, number: int) -> Outgoing:
    values = dict.fromkeys(Outgoing._fields)
    now = datetime(2026, 3, 2, 10, tzinfo=UTC)
    values |= {
        "tenant_id": TENANT, "id": f"out-{number}", "email_client_id": account.id, "created_at": now,
        "message_id": f"<{number}@example.org>",
    }  # fmt: skip
    return Outgoing(**values)  # type: ignore[arg-type]


def go_through_syncs(case: Case) -> None:
    """A first sync; new mail, a flag, a removal and a new name; a sync that compares everything."""
    server = case.server
    work = server.folders[b"Work"]
    case.misbehave()
    case.step(case.sync)
    case.misbehave()
    server.inbox.append(message(11))
    server.inbox.set_flags(1, "\\Seen")
    work.expunge(2)
    if not case.is_always:
        # A folder that can never be opened is not known again under another name.
        work.path = b"Office"
        server.folders[b"Office"] = server.folders.pop(b"Work")
    case.step(case.sync)
    case.misbehave()
    case.step(lambda: case.sync(full_since=time.time()))


def go_through_tasks(case: Case) -> None:
    """A copy of what was sent; a message into Trash, and one for good. Each is tried again, as its task would be."""
    case.step(case.sync)
    case.misbehave()
    sent = outgoing(case.account, 20)
    case.step(lambda: file_copy(find_account(TENANT, case.account.id), sent, message(20)))
    for number, permanent in ((1, False), (3, True)):
        case.misbehave()
        ids = [key for key, name in case.stored().items() if name == f"{number}@example.org"]
        request = DeleteRequest(TENANT, USER, ids, permanent)
        task = f"{case.account.id} {number}"
        case.step(lambda request=request, task=task: delete_messages(request, task, task, 60))
    case.step(case.sync)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_answer_to_every_command(database: Database, environment: Callable[..., None], name: str) -> None:
    environment(MAIL_TIMEOUT="1")
    pattern, capabilities = COMMANDS[name]
    hits = 0
    ways = [*((way, False) for way in WAYS), *((way, True) for way in ALWAYS)]
    for number, (way, is_always) in enumerate(ways):
        with ImapServer(capabilities) as server:
            server.inbox.append(*(message(n) for n in (1, 2, 3)))
            if name in TASKS and name not in ("CREATE", "SUBSCRIBE"):
                server.add_folder("Trash", attributes="\\Trash", uidvalidity=7).append(message(4), message(5))
                server.add_folder("Sent", attributes="\\Sent", uidvalidity=8).append(message(6))
            else:
                server.add_folder("Work").append(message(4), message(5), message(6))
            case = Case(server, register(server, f"{number}"), pattern, way, is_always)

            (go_through_tasks if name in TASKS else go_through_syncs)(case)

            hits += sum(rule.hits for rule in case.rules)
            kept = {f"{n}@example.org" for n in (2, 4, 6)}
            assert set(case.on_server()) >= kept, f"{case}: mail is gone from the server"
            # In the end, or when the server is mended of what the account says
            if not is_always or find_account(TENANT, case.account.id).last_error or name in TASKS:
                case.behave()
            case.step(lambda case=case: case.sync(full_since=time.time()))
            if find_account(TENANT, case.account.id).last_error:
                case.step(lambda case=case: case.sync(full_since=time.time()))
            case.check_is_synced()
            assert find_account(TENANT, case.account.id).last_error is None, str(case)
    assert hits, "the command is not sent"
