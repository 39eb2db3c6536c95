"""The verbs of docs/troubleshooting.md are run, as an operator runs them: each exists, and takes its options.

All its commands are run on a host (molecule/shared/tests/test_troubleshooting.py).
"""

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from native.postgres import wheel_binaries
from native.state import ROOT
from tasks.errors import codes
from tasks.runtime.dead_letters import NOT_PUBLISHED
from tasks.storage.accounts.rows import Account
from tests.conftest import TENANT, Database
from tests.support.page_commands import PAGE, commands
from tests.support.servers import RedisServer
from tests.support.verbs import Verb, run_all

# They change something, wait for an answer, or are about the native stack, which does not run here.
NOT_RUN = ("account password", "account audit", "dlq retry", "health")
# No worker and no beat runs, and there is no dead letter.
SAID = re.compile(r"^(No worker has reported|No beat has looked|error: Not found\. \(dead letter)")
UNITS = {path.stem for path in (Path(ROOT) / "templates/systemd").glob("*.service")}


def test_each_command_that_looks_works(
    database: Database, redis: RedisServer, environment: Callable[..., None], account: Account, tmp_path: Path
) -> None:
    environment(REDIS_URL=redis.url)
    verbs = [line.removeprefix("metabuilder ") for line in commands() if line.startswith("metabuilder ")]
    looks = [line for line in verbs if not line.startswith(NOT_RUN)]
    assert len(looks) > 15
    path = {"PATH": f"{wheel_binaries()}:{os.environ['PATH']}"}
    calls = {str(number): Verb(arguments(line, account), path) for number, line in enumerate(looks)}
    done = {looks[int(number)]: ended for number, ended in run_all(tmp_path / "verbs", calls).items()}
    assert {line: ended for line, ended in done.items() if ended.status and not SAID.search(ended.stderr)} == {}
    assert sum(ended.status == 0 for ended in done.values()) > 10


def arguments(line: str, account: Account) -> list[str]:
    words = [{"ACCOUNT": account.account_name, "ID": "no-such-id"}.get(word, word) for word in shlex.split(line)]
    return [*words, "--tenant", TENANT] if words[0] == "account" and words[1] != "list" else words


def test_units_exist() -> None:
    text = PAGE.read_text()
    named = set(re.findall(r"(?:-u|status|start|reset-failed) (celery-[a-z]+)", text))
    assert named == {"celery-worker", "celery-beat"}
    assert named <= UNITS


def test_codes_of_errors_exist() -> None:
    rows = re.findall(r"^\| `metabuilder (?:dlq|account) list` \| (.+?) \|", PAGE.read_text(), re.MULTILINE)
    intro = re.findall(r"^`metabuilder account list` shows (.+)", PAGE.read_text(), re.MULTILINE)
    named = {code for words in (*rows, *intro) for code in re.findall(r"`([a-z_]+)`", words)}
    assert named >= {"poisoned", "server_busy", "login_delayed"}
    assert named - {*codes(), NOT_PUBLISHED} == set()


def test_variables_exist() -> None:
    named = set(re.findall(r"`((?:celery_worker|application|redis|postgresql)_[a-z_]+)`", PAGE.read_text()))
    defaults = "".join(path.read_text() for path in Path(ROOT).glob("roles/*/defaults/main.yml"))
    assert {name for name in named if f"\n{name}:" not in defaults} == set()
    assert named
