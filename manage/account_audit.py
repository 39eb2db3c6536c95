"""`account audit`: compare an account with its server message by message."""

import sys
from typing import TYPE_CHECKING, Any

import click

from manage.examples import example
from manage.output import print_json, say, table, tell
from manage.place import COMMAND
from manage.session import account_argument, connect, tenant_option

if TYPE_CHECKING:
    from tasks.engine.audit import FolderAudit
    from tasks.mail.imap.uidset import UidSet
    from tasks.storage.accounts.rows import Account

_COLUMNS = ("folder", "on the server", "stored", "set aside", "missing here", "gone there", "differ", "")
_MAX_LINE_LENGTH = 400
# Progress is shown for folders with more messages than this, each time this many are compared.
_MANY = 20_000


@example("account audit you@example.org --repair")
@click.command()
@account_argument
@click.option("--repair", is_flag=True, help="Mend the differences by a full sync, then compare again.")
@click.option("--folder", help="Compare only this folder.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@tenant_option
def audit(account_name: str, repair: bool, folder: str | None, as_json: bool, tenant: str) -> None:
    """Compare an account with its server, message by message: messages that are missing here, gone there, or differ.

    Exit code 1 where the two differ. Nothing is changed without --repair.
    """
    connect(broker=repair)
    from tasks.storage.accounts.rows import find_account

    found = find_account(tenant, account_name)
    audits = _compared(found, folder)
    if repair and not all(one.agrees for one in audits):
        _repair(found, quiet=as_json)
        audits = _compared(found, folder)
    _print(audits, as_json=as_json)
    if not all(one.agrees for one in audits):
        if not repair:
            say(f"To mend the differences: {COMMAND} account audit {account_name!r} --repair")
        sys.exit(1)


def _compared(found: "Account", folder: str | None) -> "list[FolderAudit]":
    from tasks.engine.audit import audit as compare

    return list(compare(found, folder, _tell))


def _repair(found: "Account", *, quiet: bool) -> None:
    from manage.progress import queue_sync, watch

    say(
        "There are differences: a full sync fetches missing messages, and removes those that are gone from the server"
    )
    watch(queue_sync(found, full=True), quiet=quiet)


def _tell(name: str, compared: int, total: int) -> None:
    if total > _MANY and (compared == total or compared % _MANY == 0):
        say(f"{name}: {compared} of {total} messages compared")


def _print(audits: "list[FolderAudit]", *, as_json: bool) -> None:
    if as_json:
        print_json([_as_json(one) for one in audits])
        return
    table(_COLUMNS, map(_row, audits), right=_COLUMNS[1:7])
    for one in audits:
        for words, uids in (("missing here", one.missing), ("gone there", one.gone), ("differ", one.differs)):
            if uids.ranges:
                tell(f"{one.name}: {words}: UID {_shown(uids)}")


def _row(one: "FolderAudit") -> tuple[str, ...]:
    counts = (one.on_server, one.stored, one.set_aside, one.missing_count, one.gone.size(), one.differs.size())
    remark = one.problem or (f"{one.hidden} may be outside of the server's window" if one.hidden else "")
    return one.name, *map(str, counts), remark


def _shown(uids: "UidSet") -> str:
    text = uids.to_imap()
    return text if len(text) <= _MAX_LINE_LENGTH else f"{text[:_MAX_LINE_LENGTH]}…"


def _as_json(one: "FolderAudit") -> dict[str, Any]:
    uids = {name: getattr(one, name) for name in ("missing", "gone", "differs")}
    written = {name: found.to_imap() if found.ranges else "" for name, found in uids.items()}
    return {**one._asdict(), **written, "agrees": one.agrees}
