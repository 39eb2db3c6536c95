"""`account show`: everything that is known about an account. To show more, add a function to `_SECTIONS`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from manage.account_all_mail import advice as advice_on_doubles
from manage.account_watch import standing
from manage.advice import advice, advice_for_code, said_here
from manage.examples import example
from manage.output import Cell, ago, duration, good_or_bad, print_json, say, table, tell
from manage.session import account_argument, connect, tenant_option

if TYPE_CHECKING:
    from tasks.storage.accounts.rows import Account
    from tasks.storage.messages.completeness import Standing


class Fact(NamedTuple):
    """A line: `label` and `text` for people, `name` and `value` for machines."""

    name: str
    label: str
    text: Cell
    value: Any


@example("account show you@example.org")
@click.command()
@account_argument
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@tenant_option
def show(account_name: str, as_json: bool, tenant: str) -> None:
    """Show an account: its servers, its state, and of each folder what is on the server, stored, and missing."""
    connect()
    from tasks.storage.accounts.rows import find_account
    from tasks.storage.messages.completeness import standings

    found = find_account(tenant, account_name)
    facts = [fact for section in _SECTIONS for fact in section(found)]
    folders = standings(found)
    if as_json:
        print_json({**{fact.name: fact.value for fact in facts}, "folders": [_as_json(folder) for folder in folders]})
        return
    width = max(len(fact.label) for fact in facts)
    for fact in facts:
        tell(f"{fact.label:{width}}  ", fact.text)
    table(_COLUMNS, map(_row, folders), right=_COLUMNS[1:5])
    for what_to_do in remedies(found):
        say(what_to_do)


def state(found: "Account") -> Cell:
    """What is wrong with an account, or that it is well."""
    troubles = [] if found.is_enabled else ["switched off"]
    if found.last_error is not None:
        paused = "receiving is paused: " if found.paused_at else ""
        troubles.append(f"{paused}{found.last_error_code}: {said_here(found.last_error)}")
    if found.smtp_last_error is not None:
        troubles.append(f"sending{' is paused' if found.smtp_paused_at else ''}: {found.smtp_last_error}")
    if troubles:
        return good_or_bad(False, "; ".join(troubles))
    if not found.is_sync_enabled:
        return "not synced by schedule"
    if found.is_overdue:
        return good_or_bad(False, f"overdue: is to be synced every {duration(found.sync_interval)}")
    return good_or_bad(True, "ok") if found.last_sync_at else "not synced yet"


def remedies(found: "Account") -> list[str]:
    """What a person can do about the errors of an account; the same advice for both sides is given once."""
    from tasks.errors import Remedy

    sending = Remedy.STORE_SMTP_PASSWORD if found.smtp_paused_at else Remedy.TRY_LOGIN
    both = (
        advice_for_code(found.last_error_code, found.account_name),
        advice(sending, found.account_name) if found.smtp_last_error else None,
    )
    return list(dict.fromkeys(filter(None, both)))


def _identity(found: "Account") -> Iterator[Fact]:
    yield Fact("account_name", "account", found.account_name, found.account_name)
    yield Fact("id", "id", found.id, found.id)
    yield Fact("email_address", "address", found.email_address, found.email_address)
    yield Fact("user_id", "user", found.user_id, found.user_id)


def _servers(found: "Account") -> Iterator[Fact]:
    receiving = f"{found.username} at {found.hostname}:{found.port} ({found.protocol}, {found.encryption})"
    yield Fact("receiving", "receives from", receiving, _server(found, ""))
    if found.smtp_hostname is None:
        yield Fact("sending", "sends by", "no server", None)
    else:
        user = found.smtp_username or found.username
        sending = f"{user} at {found.smtp_hostname}:{found.smtp_port} ({found.smtp_encryption})"
        yield Fact("sending", "sends by", sending, {**_server(found, "smtp_"), "username": user})


def _health(found: "Account") -> Iterator[Fact]:
    yield Fact("last_error", "state", state(found), found.last_error)
    yield Fact("last_error_code", "code", found.last_error_code or "none", found.last_error_code)
    yield Fact("paused_at", "receiving paused", ago(found.paused_at, found.read_at), found.paused_at)
    yield Fact("smtp_paused_at", "sending paused", ago(found.smtp_paused_at, found.read_at), found.smtp_paused_at)
    yield Fact("last_sync_at", "last sync", ago(found.last_sync_at, found.read_at), found.last_sync_at)
    yield Fact("next_sync_at", "next sync", _next_sync(found), found.next_sync_at)
    yield Fact("sync_interval", "synced every", duration(found.sync_interval), found.sync_interval)


def _next_sync(found: "Account") -> str:
    if found.paused_at or not (found.is_enabled and found.is_sync_enabled):
        return "none by schedule"
    seconds = (found.next_sync_at - found.read_at).total_seconds()
    return f"in {duration(seconds)}" if seconds > 0 else "due"


def _logins(found: "Account") -> Iterator[Fact]:
    for prefix, side in (("", "receive"), ("smtp_", "send")):
        since, retry_at = (getattr(found, f"{prefix}login_{name}") for name in ("refused_since", "retry_at"))
        is_paused = getattr(found, f"{prefix}paused_at") is not None
        if since is not None:
            yield Fact(
                f"{prefix}login_refused_since", f"logins to {side} refused since", ago(since, found.read_at), since
            )
        if retry_at is not None and not is_paused:
            next_try = f"{retry_at:%Y-%m-%d %H:%M %Z}"
            yield Fact(f"{prefix}login_retry_at", f"next login to {side}", next_try, retry_at)


def _choices(found: "Account") -> Iterator[Fact]:
    doubles = advice_on_doubles(found)
    yield Fact("all_mail", "all mail", found.all_mail + (f": {doubles}" if doubles else ""), found.all_mail)
    yield Fact("watch", "watched", standing(found), found.watch)
    refused = ", ".join(found.refused_extensions)
    yield Fact("refused_extensions", "offers and refuses", refused or "nothing", found.refused_extensions)


def _readings(found: "Account") -> Iterator[Fact]:
    from tasks.storage.messages.rereading import counts

    counted = counts(found)
    if counted.old or counted.waiting:
        text = f"{counted.old:,} messages: {counted.waiting:,} wait to be read again, {counted.gone:,} are gone"
        yield Fact("readings", "read by an older parser", text, counted._asdict())


_SECTIONS = (_identity, _servers, _health, _logins, _choices, _readings)
_COLUMNS = ("folder", "server at last sync", "stored", "set aside", "missing", "why")


def _server(found: "Account", prefix: str) -> dict[str, Any]:
    return {name: getattr(found, prefix + name) for name in ("hostname", "port", "encryption", "username")}


def _row(folder: "Standing") -> tuple[str, ...]:
    on_server = "?" if folder.on_server is None else str(folder.on_server)
    missing = "?" if folder.missing_reason and not folder.missing else str(folder.missing)
    return folder.name, on_server, str(folder.stored), str(folder.set_aside), missing, folder.why


def _as_json(folder: "Standing") -> dict[str, Any]:
    return {**folder._asdict(), "why": folder.why}
