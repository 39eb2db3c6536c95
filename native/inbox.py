"""The example application beside the native stack: `./manage.sh demo --with-inbox`.

It is examples/inbox, on loopback and with a password, and acts in PostgreSQL as an application does, by its role.
"""

import sys
from collections.abc import Mapping

from native import TENANT, USER
from native.environment import DATABASE_VARIABLES, embedded_postgres, is_external, make_secrets
from native.ports import LOOPBACK
from native.postgres import APPLICATION
from native.state import ROOT, State, read_json, write_json
from native.supervisor import Program

NAME = "inbox"
TITLE = "Inbox"
# A page that is shown to nobody without the password.
PATH = "/"
PASSWORD = "INBOX_PASSWORD"  # noqa: S105 - the name of the variable


def lacking(operator: Mapping[str, str]) -> dict[str, str]:
    """Why the page cannot be had here, by its name."""
    if is_external(DATABASE_VARIABLES, operator):
        return {NAME: "it reads the embedded PostgreSQL alone, and DATABASE_URL names another"}
    return {}


def program(port: int) -> Program:
    """The program. Its environment is in the file that `write_environment` makes."""
    server = (sys.executable, "-m", "uvicorn", "app:app", "--app-dir", str(ROOT / "examples" / "inbox"))
    options = ("--host", LOOPBACK, "--port", str(port), "--no-access-log", "--timeout-graceful-shutdown", "2")
    return Program(NAME, (*server, *options), stop_seconds=8, needs_environment=False, own_environment=_file_name())


def write_environment(state: State, ports: Mapping[str, int]) -> list[str]:
    """Write what the program is started with, for the owner only. Returns its name if that has changed."""
    generated = make_secrets(state)
    wanted = {
        "DATABASE_URL": embedded_postgres(state, generated, ports["postgres"]).url(APPLICATION),
        "INBOX_TENANT": TENANT,
        "INBOX_USER": USER,
        PASSWORD: generated[PASSWORD],
    }
    path = state.folder / _file_name()
    if read_json(path) == wanted:
        return []
    write_json(path, wanted)
    return [NAME]


def _file_name() -> str:
    return f"{NAME}.json"
