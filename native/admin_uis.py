"""Adminer and Redis Commander beside the native stack: `./manage.sh up --with-admin`.

They are started as on hosts, by the programs of the role `admin_uis`, on loopback and with a password. They show the
embedded servers alone.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from native import redis_commander
from native.environment import (
    DATABASE_VARIABLES,
    FLOWER_USER,
    REDIS_VARIABLES,
    embedded_redis,
    is_external,
    make_secrets,
)
from native.errors import StackError
from native.ports import LOOPBACK
from native.postgres import APPLICATION, DATABASE
from native.state import ROOT, State, read_json, write_json
from native.supervisor import Program

ADMINER, REDIS_COMMANDER = "adminer", "redis-commander"
# A page of each that is shown to nobody without the password.
PATHS = {ADMINER: "/", REDIS_COMMANDER: "/connections"}
NAMES = tuple(PATHS)
TITLES = {ADMINER: "Adminer", REDIS_COMMANDER: "Redis Commander"}
USER = FLOWER_USER
PASSWORD = "ADMIN_UIS_PASSWORD"  # noqa: S105 - the name of the variable
_PROGRAMS = ROOT / "roles" / "admin_uis" / "files"
# Where Debian's package has it; adminer.php reads it there.
_ADMINER = Path("/usr/share/adminer/adminer.php")
_OF_DEBIAN = "As root, run: apt-get install --no-install-recommends adminer php-cgi php-cli php-pgsql"


def lacking(operator: Mapping[str, str], state: State) -> dict[str, str]:
    """Why a page cannot be had here, by its name; what is left out can."""
    found = {ADMINER: _adminer_lacks(operator), REDIS_COMMANDER: _redis_commander_lacks(operator, state)}
    return {name: why for name, why in found.items() if why}


def _adminer_lacks(operator: Mapping[str, str]) -> str:
    if is_external(DATABASE_VARIABLES, operator):
        return "it shows the embedded PostgreSQL alone, and DATABASE_URL names another"
    if shutil.which("php") is None:
        return f"php is not installed. {_OF_DEBIAN}"
    if not _ADMINER.exists():
        return f"there is no {_ADMINER}. {_OF_DEBIAN}"
    has_driver = ["php", "-r", "exit(extension_loaded('pgsql') ? 0 : 1);"]
    if subprocess.run(has_driver, capture_output=True, check=False).returncode:
        return f"php has no module pgsql. {_OF_DEBIAN}"
    return ""


def _redis_commander_lacks(operator: Mapping[str, str], state: State) -> str:
    if is_external(REDIS_VARIABLES, operator):
        return "it shows the embedded Redis alone, and REDIS_URL or another variable names another"
    if shutil.which("node") is None:
        return "node is not installed. As root, run: apt-get install --no-install-recommends nodejs"
    if not _packages(state).exists():
        try:
            redis_commander.install(_packages(state))
        except StackError as error:
            return str(error)
    return ""


def _packages(state: State) -> Path:
    return state.folder / f"redis-commander-{redis_commander.version()}"


def programs(state: State, ports: Mapping[str, int]) -> list[Program]:
    """Both programs. Their own environment is in the files that `write_environments` makes."""
    node = ("node", "--jitless", "--no-expose-wasm", str(_PROGRAMS / "start-redis-commander.js"))
    commands = {
        ADMINER: (str(_PROGRAMS / "start-adminer"), str(ports[ADMINER])),
        REDIS_COMMANDER: (*node, str(_packages(state)), str(ports[REDIS_COMMANDER])),
    }
    return [
        Program(name, command, stop_seconds=8, needs_environment=False, own_environment=f"{name}.json")
        for name, command in commands.items()
    ]


def write_environments(state: State, ports: Mapping[str, int]) -> list[str]:
    """Write what the programs are started with, for the owner only. Returns those for which it has changed."""
    generated = make_secrets(state)
    login = {"ADMIN_UIS_USER": USER, "ADMIN_UIS_PASSWORD": generated[PASSWORD]}
    sessions = state.folder / ADMINER
    sessions.mkdir(mode=0o700, exist_ok=True)
    adminer = {
        "ADMINER_SERVER": f"{LOOPBACK}:{ports['postgres']}",
        "ADMINER_DATABASE": DATABASE,
        "ADMINER_ROLE": APPLICATION,
        "ADMINER_PASSWORD": generated["METABUILDER_PASSWORD"],
        "ADMINER_READ_ONLY": "true",
        "TMPDIR": str(sessions),
    }
    redis = embedded_redis(state, generated, ports["redis"])
    server = {"host": LOOPBACK, "port": redis.port, "username": redis.READER, "password": redis.reader_password}
    connections = [{"label": "broker", "dbIndex": 0, **server}, {"label": "results", "dbIndex": 1, **server}]
    of_redis = {"REDIS_COMMANDER_CONNECTIONS": json.dumps(connections), "REDIS_COMMANDER_READ_ONLY": "true"}
    wanted = {ADMINER: {**login, **adminer}, REDIS_COMMANDER: {**login, **of_redis}}
    changed = [name for name, variables in wanted.items() if read_json(state.folder / f"{name}.json") != variables]
    for name in changed:
        write_json(state.folder / f"{name}.json", wanted[name])
    return changed
