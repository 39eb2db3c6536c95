"""Every statement that changes what events tell of writes the event, or says here why it tells of nothing."""

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

from tasks.storage.outbox import TOLD_AS
from tasks.storage.states import EventType, OutboxState

ROOT = Path(__file__).parents[2]

# Statements on the tables that events tell of, in SQL, in SQLAlchemy, and by COPY.
_WRITES = re.compile(
    r"""\b(?:UPDATE|INSERT\ INTO|DELETE\ FROM)\s+(?:ONLY\s+)?
          (?:email_message|email_folder|email_client|outbox_message)\b
      | \b(?:update|insert|delete)\(\s*(?:EmailMessage|EmailFolder|EmailClient|OutboxMessage)\b
      | \b(?:bulk_insert|copy_into)\(\s*connection,\s*"(?:email_message|email_folder|email_client|outbox_message)"
    """,
    re.VERBOSE,
)
_TELLS = re.compile(r"\bINSERT_EVENTS\b|\b_?tell(?:_of_\w+)?\(")

_COUNTS = "counts and checkpoints of a folder, which follow from its messages"
_NUMBERS = "where a message is on its server, which nobody outside refers to"
_LEASE = "leases, and when an account or a message is due"
# Those that tell of nothing, by file and the name of the constant or function, with the reason.
QUIET: Mapping[str, Mapping[str, str]] = {
    "native/demo.py": {"follow_servers": "where the demo mailbox's servers listen"},
    "tasks/storage/accounts/choices.py": {"_set": "what its server refuses, and what its owner chose"},
    "tasks/storage/accounts/leases.py": dict.fromkeys(("_TAKE", "_RENEW", "_WANT", "_QUEUE", "_RELEASE"), _LEASE),
    "tasks/storage/accounts/logins.py": {
        "begin_login": _LEASE,
        "note_refusal": "its first statement; the one that follows tells, when it is known what error is shown",
    },
    "tasks/storage/accounts/watches.py": {"_change": "who watches the account, and how well that goes"},
    "tasks/storage/accounts/rows/last_error.py": {"record_incomplete": "an error of an account that works"},
    "tasks/storage/accounts/rows/registration.py": {"add_account": "its owner has just made it"},
    "tasks/storage/messages/batch.py": {"_CHECKPOINT": _COUNTS},
    "tasks/storage/messages/changes.py": {
        **dict.fromkeys(("_COUNT", "_RECOUNT"), _COUNTS),
        "_SET_APART": _NUMBERS,
        "_MOVE_TO_NEW_UIDS": "told by finish_renumbering, which runs it",
    },
    "tasks/storage/messages/deletions.py": {"_COUNT": _COUNTS},
    "tasks/storage/messages/folders.py": {
        "change_folder": "counts and checkpoints; it refuses another name",
        "vacate_path": "the path until adopt_folder, in the same transaction",
        "file_now": "the time from which TRASH_RETENTION_DAYS counts",
    },
    "tasks/storage/messages/maildrop.py": {"_PART": _NUMBERS},
    "tasks/storage/messages/readings.py": dict.fromkeys(
        ("_ASSIGN", "_REPLACE"), "told by replace_readings, which runs it"
    ),
    "tasks/storage/messages/rereading.py": dict.fromkeys(("_SPEND", "_OLDER_WAS_ASKED"), _LEASE),
    "tasks/storage/outbox.py": {"_ADD": "a message that is still to be sent"},
    "tasks/storage/waiting.py": dict.fromkeys(("_UNCLAIM", "_ASK_AGAIN"), "a message that is still to be sent"),
}


def pieces(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """The constants and functions of a module, by name, with those of its classes."""
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        for piece in inner:
            if isinstance(piece, ast.FunctionDef):
                yield piece.name, piece
            elif isinstance(piece, ast.Assign) and isinstance(piece.targets[0], ast.Name):
                yield piece.targets[0].id, piece
            elif isinstance(piece, ast.AnnAssign) and isinstance(piece.target, ast.Name):
                yield piece.target.id, piece


def writing() -> dict[str, dict[str, bool]]:
    """By file and name, what writes to those tables, and whether it tells of it."""
    found: dict[str, dict[str, bool]] = {}
    for folder in ("tasks", "manage", "native"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "migrations" in path.parts:
                continue
            source = path.read_text()
            if not _WRITES.search(source):
                continue
            for name, piece in pieces(ast.parse(source)):
                text = ast.get_source_segment(source, piece) or ""
                if _WRITES.search(text):
                    found.setdefault(str(path.relative_to(ROOT)), {})[name] = bool(_TELLS.search(text))
    return found


def test_whatever_changes_what_events_tell_of_writes_the_event() -> None:
    found = writing()
    assert sum(tells for names in found.values() for tells in names.values()) > 10, "the test finds the statements"
    silent = {
        path: {name for name, tells in names.items() if not tells}
        for path, names in found.items()
        if not all(names.values())
    }
    assert silent == {path: set(names) for path, names in QUIET.items()}


def test_each_outcome_of_a_message_that_is_sent_is_told_once() -> None:
    """By the states of tasks/engine/send/outbox.py: `accepted`, then `sent`, is one outcome."""
    steps = product(OutboxState, repeat=2)
    told = {(old, new) for old, new in steps if TOLD_AS.get(new) not in (None, TOLD_AS.get(old))}
    accepted, sent, failed, unknown = (
        OutboxState.ACCEPTED,
        OutboxState.SENT,
        OutboxState.FAILED,
        OutboxState.UNKNOWN,
    )
    unsent = (OutboxState.QUEUED, OutboxState.SENDING)
    assert told == {
        *product((*unsent, failed, unknown), (accepted, sent)),
        *product((*unsent, accepted, sent, unknown), (failed,)),
        *product((*unsent, accepted, sent, failed), (unknown,)),
    }


def test_the_page_explains_each_type() -> None:
    page = (ROOT / "docs/application.md").read_text()
    explained = re.findall(r"^\| `([a-z]+\.[a-z]+)` \|", page, re.MULTILINE)
    assert explained == [kind.value for kind in EventType]
