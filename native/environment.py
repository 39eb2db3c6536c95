"""The environment of the worker, beat, Flower and the command line.

Variables of the real environment win over `.env`, and `.env` wins over the values that the native stack makes itself.
A server that is named in either (REDIS_URL, DATABASE_URL …) is used instead of an embedded server.

Every verb of the native stack loads this module: PostgreSQL's client and the demo's servers are loaded where needed.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from native.errors import StackError
from native.ports import LOOPBACK
from native.redis import Redis
from native.state import ROOT, State, read_json, write_private

if TYPE_CHECKING:
    from native.postgres import Postgres

# If any of these variables names a server, no server is embedded.
REDIS_VARIABLES = ("REDIS_URL", "REDIS_HOST", "REDIS_SENTINELS", "CELERY_BROKER_URL")
# These name a result store beside the broker, which may be the embedded Redis all the same.
RESULTS_VARIABLES = ("CELERY_RESULT_BACKEND", "REDIS_RESULT_HOST")
DATABASE_VARIABLES = ("DATABASE_URL",)
FLOWER_USER = "admin"
_KEYS = "CREDENTIAL_ENCRYPTION_KEY"


def given(dotenv: Path = ROOT / ".env", real: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the operator has set: `.env`, then the real environment, without empty values.

    From the real environment only variables are taken that the settings know or that `.env` names too, so that the
    shell's other variables are not written into the state folder.
    """
    from_file = _read(dotenv)
    known = variables() | set(from_file)
    return {**from_file, **{name: real[name] for name in known if real.get(name)}}


def _read(dotenv: Path) -> dict[str, str]:
    """The variables in the file, without expansion: a `$` in a password stays a `$`.

    Raises StackError that quotes nothing of the file.
    """
    try:
        with dotenv.open(encoding="utf-8") as file:
            found = list(parse_stream(file))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise StackError(f"{dotenv} cannot be read: {error}") from error
    if wrong := [str(one.original.line) for one in found if one.error]:
        lines = f"line {wrong[0]}" if len(wrong) == 1 else f"lines {', '.join(wrong)}"
        raise StackError(f"{dotenv} cannot be read at {lines}: write NAME=value, with a # before a comment")
    return {one.key: one.value for one in found if one.key and one.value}


def variables() -> set[str]:
    """The names of all variables that the settings read, and those of the tools beside them."""
    from tasks.settings import Settings

    names = {"DATABASE_OWNER_URL"}
    for group in Settings.model_fields.values():
        fields = getattr(group.annotation, "model_fields", {})
        names |= {str(field.validation_alias) for field in fields.values() if field.validation_alias}
    return names


def is_external(names: tuple[str, ...], values: Mapping[str, str]) -> bool:
    """Whether the operator has named a server of this kind."""
    return any(name in values for name in names)


def make_secrets(state: State) -> dict[str, str]:
    """The passwords and the key in `secrets.env`, made on first use and never again: data depends on them."""
    known = _known_secrets(state)
    wanted = {
        "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
        "METABUILDER_OWNER_PASSWORD": secrets.token_urlsafe(24),
        "METABUILDER_PASSWORD": secrets.token_urlsafe(24),
        "METABUILDER_WORKER_PASSWORD": secrets.token_urlsafe(24),
        "REDIS_PASSWORD": secrets.token_urlsafe(24),
        "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{secrets.token_urlsafe(18)}",
        "ADMIN_UIS_PASSWORD": secrets.token_urlsafe(18),
        "REDIS_READER_PASSWORD": secrets.token_urlsafe(24),
        "DEMO_PASSWORD": secrets.token_urlsafe(18),
        "INBOX_PASSWORD": secrets.token_urlsafe(18),
    }
    if _KEYS not in known:
        from cryptography.fernet import Fernet

        wanted[_KEYS] = Fernet.generate_key().decode()
    complete = {**wanted, **known}
    if complete != known:
        _write_secrets(state, complete)
    return complete


def encryption_keys(state: State) -> list[str]:
    """The encryption keys that the native stack made; the first one encrypts."""
    return make_secrets(state)[_KEYS].split(",")


def set_encryption_keys(state: State, keys: list[str]) -> None:
    """Use these keys from the next `up` on."""
    _write_secrets(state, {**make_secrets(state), _KEYS: ",".join(keys)})


def _known_secrets(state: State) -> dict[str, str]:
    return {name: value or "" for name, value in dotenv_values(state.secrets, interpolate=False).items()}


def _write_secrets(state: State, values: Mapping[str, str]) -> None:
    write_private(state.secrets, "".join(f"{name}='{value}'\n" for name, value in sorted(values.items())))


def embedded_postgres(state: State, generated: Mapping[str, str], port: int) -> "Postgres":
    """The embedded PostgreSQL of a state folder."""
    from native.postgres import Passwords, Postgres

    passwords = Passwords(
        superuser=generated["POSTGRES_PASSWORD"],
        owner=generated["METABUILDER_OWNER_PASSWORD"],
        application=generated["METABUILDER_PASSWORD"],
        worker=generated["METABUILDER_WORKER_PASSWORD"],
    )
    return Postgres(state.postgres, port, passwords, socket_folder=state.run)


def embedded_redis(state: State, generated: Mapping[str, str], port: int) -> Redis:
    """The embedded Redis of a state folder."""
    return Redis(state.redis, port, generated["REDIS_PASSWORD"], generated["REDIS_READER_PASSWORD"])


def effective(state: State, operator: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, str]:
    """The whole environment of the application's programs. Raises StackError when something needed is missing."""
    from native import demo
    from native.postgres import OWNER, WORKER

    generated = make_secrets(state)
    values = {name: generated[name] for name in (_KEYS, "FLOWER_BASIC_AUTH")}
    if not is_external(REDIS_VARIABLES, operator):
        values["REDIS_URL"] = embedded_redis(state, generated, ports["redis"]).url
    if not is_external(DATABASE_VARIABLES, operator):
        postgres = embedded_postgres(state, generated, ports["postgres"])
        values |= {"DATABASE_URL": postgres.url(WORKER), "DATABASE_OWNER_URL": postgres.url(OWNER)}
    elif "DATABASE_OWNER_URL" not in operator:
        raise StackError(
            "DATABASE_URL is set, DATABASE_OWNER_URL is not: the migrations need the role that owns the tables. "
            "Set DATABASE_OWNER_URL in .env, beside DATABASE_URL"
        )
    # Only the ports of the demo mailbox are allowed on loopback:
    # accounts must not lead to Redis, PostgreSQL or Flower.
    demo_servers = [f"{LOOPBACK}={ports[name]}" for name in demo.SERVERS] if demo.exists(state) else []
    networks = ",".join(filter(None, (*demo_servers, operator.get("MAIL_ALLOWED_NETWORKS"))))
    if state.read().get("with_inbox"):
        values["WATCH_ENABLED"] = "true"  # a page that changes as mail arrives wants to hear of it at once
    chosen = {"FLOWER_PORT": str(ports["flower"]), "PROMETHEUS_PORT": str(ports["exporter"])}
    return {**values, **operator, "MAIL_ALLOWED_NETWORKS": networks, **chosen}


def write_client(state: State, operator: Mapping[str, str], ports: Mapping[str, int]) -> None:
    """Write what an application connects with to the embedded servers, as variables that a shell can read.

    It is the role of an application, which sees one tenant at a time, and of the key what encrypts and opens nothing.
    """
    from native.postgres import APPLICATION, libpq
    from tasks.storage.credentials import public_key

    generated = make_secrets(state)
    values = {"CREDENTIAL_PUBLIC_KEY": public_key({**generated, **operator}[_KEYS].partition(",")[0].strip())}
    if not is_external(DATABASE_VARIABLES, operator):
        values["DATABASE_URL"] = libpq(embedded_postgres(state, generated, ports["postgres"]).url(APPLICATION))
    if not is_external(REDIS_VARIABLES, operator):
        values["REDIS_URL"] = embedded_redis(state, generated, ports["redis"]).url
    write_private(state.client, "".join(f"{name}='{value}'\n" for name, value in values.items()))


def apply(state: State) -> dict[str, str]:
    """Put the environment of the running stack into this process, overridden by what the operator sets now."""
    started_with = {str(name): str(value) for name, value in read_json(state.environment).items()}
    if not started_with:
        raise StackError("the native stack has not been started yet: ./manage.sh up")
    values = {**started_with, **{name: os.environ[name] for name in started_with if os.environ.get(name)}}
    os.environ.update(values)
    return values
