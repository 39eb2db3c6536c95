"""systemd's journal itself takes the entries, with their fields. It runs here in a mount namespace of its own."""

import json
import subprocess
import sys
from pathlib import Path

from native.state import ROOT
from tests.conftest import unavailable

_JOURNALD = "/usr/lib/systemd/systemd-journald"
_LINES = 3000

# Writes as a worker does; `where` is the journal's socket.
_WRITER = f"""
import logging
from tasks.log_fields import logged_with
from tasks.runtime import log
from tasks.runtime.log import journal

log.is_standard_error = lambda _: True
logger = logging.getLogger("tasks.sync")
logger.propagate = False
logger.setLevel(logging.DEBUG)
log.set_up(logger)
with logged_with(task="sync_emails", account="01a2", folder="a b"):
    try:
        raise ValueError("two\\nlines")
    except ValueError:
        logger.exception("it went wrong for ann@mail.example")
journal.Journal(journal.SOCKET).write(dict(MESSAGE="long " + "x" * 1_000_000, METABUILDER_ACCOUNT="01a2"))
with logged_with(account="burst"):
    for number in range({_LINES}):
        logger.info("line %s", number)
"""
_IN_NAMESPACE = f"""
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/log/journal
{_JOURNALD} & journald=$!
trap 'kill $journald; wait $journald' EXIT
until [ -S /run/systemd/journal/socket ]; do sleep 0.05; done
"$1" -c "$2"
# Written when all datagrams before it have been read.
find() {{ journalctl --directory /run/log/journal --output json --all --no-pager "$@"; }}
for try in $(seq 100); do
    [ "$(find METABUILDER_ACCOUNT=burst | wc -l)" -ge {_LINES} ] && break
    sleep 0.1
done
find METABUILDER_ACCOUNT=01a2
find METABUILDER_ACCOUNT=burst
"""


def test_the_journal_finds_entries_by_their_fields() -> None:
    if not Path(_JOURNALD).exists():
        unavailable("systemd-journald is not installed")
    alone = ("unshare", "--map-root-user", "--mount", "--propagation", "private")
    if subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", "/run"], check=False).returncode:
        unavailable("namespaces are not allowed here")
    command = [*alone, "bash", "-c", _IN_NAMESPACE, "-", sys.executable, _WRITER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    wrong, long, *burst = map(json.loads, done.stdout.splitlines())
    assert wrong["MESSAGE"].startswith("it went wrong for …@mail.example\ttask=sync_emails account=01a2")
    assert wrong["MESSAGE"].endswith("\n    ValueError: two\n    lines")
    assert (wrong["PRIORITY"], wrong["METABUILDER_TASK"], wrong["METABUILDER_FOLDER"]) == ("3", "sync_emails", "a b")
    assert wrong["CODE_FUNC"] == "<module>"
    assert long["MESSAGE"] == f"long {'x' * 1_000_000}"
    # All of them, in their order, from a writer that is faster than the journal
    assert [entry["MESSAGE"].split("\t")[0] for entry in burst] == [f"line {number}" for number in range(_LINES)]
