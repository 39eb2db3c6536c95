"""`credentials`: the keys that stored passwords and tokens are encrypted with."""

import os
from typing import TYPE_CHECKING

import click

from manage.examples import example
from manage.output import print_json, say, table, tell
from manage.place import COMMAND, IS_HOST
from manage.session import connect
from manage.stdin import read_line

if TYPE_CHECKING:
    from native.stack import Stack
    from tasks.storage.rotation import Lost


@click.group()
def credentials() -> None:
    """Look at and rotate the keys that stored passwords and tokens are encrypted with."""


@example("credentials new-key")
@credentials.command(name="new-key")
def new_key() -> None:
    """Print a new key, for CREDENTIAL_ENCRYPTION_KEY."""
    tell(_new_key())


@example("credentials public-key")
@credentials.command(name="public-key")
@click.option("--key-stdin", is_flag=True, help="Read CREDENTIAL_ENCRYPTION_KEY from standard input.")
def public_key(key_stdin: bool) -> None:
    """Print what encrypts for the first key and opens nothing, for CREDENTIAL_PUBLIC_KEY of an application."""
    if key_stdin:
        os.environ["CREDENTIAL_ENCRYPTION_KEY"] = read_line()
    else:
        connect(database=False)
    from tasks.storage.credentials import public_key_in_use

    tell(public_key_in_use())


@example("credentials keys --json")
@credentials.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def keys(as_json: bool) -> None:
    """List the keys by name, what each does, and how many secrets are under it; exit 1 if one is missing."""
    connect()
    from tasks.storage.credentials import key_ids
    from tasks.storage.rotation import count_by_key, find_lost

    known, counts = key_ids(), dict[str, int]()
    for use in count_by_key():
        counts[use.key_id] = counts.get(use.key_id, 0) + use.credentials
    lost = find_lost()
    rows = [(name, _role(name, known), counts.get(name, 0)) for name in dict.fromkeys([*known, *sorted(counts)])]
    if as_json:
        found = [{"key": name, "role": role, "credentials": count} for name, role, count in rows]
        print_json({"keys": found, "lost": [one._asdict() for one in lost]})
    else:
        table(("key", "role", "secrets"), [(name, role, str(count)) for name, role, count in rows], right=["secrets"])
    _fail_if_lost(lost)


@example("credentials rotate")
@credentials.command()
def rotate() -> None:
    """Encrypt all secrets anew under a new key, while the workers run.

    The native stack makes the new key itself. Where you have set CREDENTIAL_ENCRYPTION_KEY, put the new key first and
    keep the old one behind it, restart the workers, and run this; it says when the old one can go.
    """
    stack = _stack_with_its_own_keys()
    # Check first that the programs, which are restarted with the new key, can start.
    connect(broker=stack is not None)
    if stack is None:
        _rotate_to_first()
        return
    from native.environment import encryption_keys

    keys = encryption_keys(stack.state)
    if len(keys) == 1:  # with two keys, this goes on with an interrupted rotation
        keys = [_new_key(), *keys]
        say("A new key is made. The workers restart with both keys, and keep the old key until no secret needs it")
        _use(stack, keys)
    _rotate_to_first()
    _use(stack, keys[:1])
    say("The old key is forgotten")


def _rotate_to_first() -> None:
    from tasks.storage.credentials import key_ids
    from tasks.storage.rotation import count_by_key, rotate

    current, *others = key_ids()
    done = 0
    lost: list[Lost] = []
    # Repeat until no secret has the old key: a worker that is not restarted yet may still write with it.
    while any(use.key_id != current for use in count_by_key()):
        rotation = rotate()
        done, lost = done + rotation.rewritten, rotation.lost
        if not rotation.rewritten:
            break
    say(
        f"{done} secrets are encrypted anew; all are under key {current} now"
        if not lost
        else f"{done} secrets are encrypted anew"
    )
    _fail_if_lost(lost)
    if others:
        say(f"No secret needs {', '.join(others)} any more")
    elif not done:
        say(
            f"There is one key. To change it, put the output of `{COMMAND} credentials new-key` and a comma before it"
        )


def _use(stack: "Stack", keys: list[str]) -> None:
    """Restart the application with these keys, and take them for this process too."""
    from native.environment import set_encryption_keys
    from tasks.settings import get_settings

    set_encryption_keys(stack.state, keys)
    stack.up()
    get_settings.cache_clear()


def _fail_if_lost(lost: "list[Lost]") -> None:
    """Raises an error that names the accounts whose secrets cannot be read, and says what to do."""
    if not lost:
        return
    from tasks.errors import CredentialUnreadableError

    number = sum(len(one.credential_ids) for one in lost)
    for one in lost:
        say(f"Tenant {one.tenant_id}: {', '.join(one.accounts) or 'secrets that no account uses'}")
    raise CredentialUnreadableError(
        f"{number} secrets are under a key that CREDENTIAL_ENCRYPTION_KEY does not hold. Put that key back behind "
        "the first; if it is lost, so are these passwords and tokens, and each has to be entered again. Mail that "
        "was synced is not encrypted with it and stays"
    )


def _role(name: str, known: list[str]) -> str:
    if name == known[0]:
        return "encrypts"
    return "decrypts" if name in known else ("from before keys had names" if not name else "missing")


def _new_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


def _stack_with_its_own_keys() -> "Stack | None":
    """The native stack, if it made the key itself, so that it can make another one. To be called before `connect`."""
    if IS_HOST:
        return None
    from native.environment import given
    from native.stack import Stack
    from native.state import State

    return None if "CREDENTIAL_ENCRYPTION_KEY" in given() else Stack(State.default(), say)
