"""What is measured of backups, by a program that needs only Debian's Python and pgBackRest.

    backup_watch.py backup        after a backup: writes how old the newest ones are
    backup_watch.py drill JSON    restores the last backup into a scratch cluster, looks whether it is whole and how
                                  old it is, removes it, and writes what it found; JSON has the fields of `Place`

Both write metrics for the exporter of the host (Prometheus' text format) into FOLDER. A drill that fails says why,
and exits with 1. It has no network and cannot write to the backups (metabuilder-backup-drill.service).
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

FOLDER = Path("/var/lib/metabuilder-backup")
STANZA = "metabuilder"
# Beside the database: what is replayed of the log, and room for the host.
SPARE_BYTES = 2**30
# So much of what the ledger counted has to be there: the counts of messages are PostgreSQL's estimates, and accounts
# may have been removed between the last entry and the last transaction.
AT_LEAST = 0.9
# So many stored files are compared with their SHA-256.
SAMPLES = 1000
# The scratch cluster: no network, little memory, and nothing of it has to outlive a crash.
SETTINGS = """\
listen_addresses = ''
unix_socket_directories = '{socket}'
hba_file = '{socket}/pg_hba.conf'
ident_file = '{socket}/pg_ident.conf'
hot_standby = off
archive_mode = off
shared_preload_libraries = ''
shared_buffers = 64MB
maintenance_work_mem = 64MB
max_connections = 10
fsync = off
full_page_writes = off
jit = off
huge_pages = off
autovacuum = off
logging_collector = off
log_destination = stderr
lc_messages = C
"""
LEDGER = "SELECT extract(epoch FROM written), accounts, messages FROM metabuilder_backup.ledger"
COUNTED = {
    "accounts": "SELECT count(*) FROM public.email_client",
    "messages": "SELECT count(*) FROM public.email_message",
}
DAMAGED = """
SELECT count(*), count(*) FILTER (WHERE encode(sha256(content), 'hex') <> sha256)
FROM (SELECT content, sha256 FROM public.blob TABLESAMPLE SYSTEM ({percent}) LIMIT {samples}) AS sample
"""


class DrillError(Exception):
    """Why the backup is not good, or could not be tried."""


class Place(NamedTuple):
    """Where the drill happens: PostgreSQL's programs, pgBackRest's configuration for it, the name of the database,
    and the age in seconds that its last transaction may have."""

    programs: str
    configuration: str
    database: str
    oldest_seconds: float

    @property
    def data(self):
        """The folder of the scratch cluster, and of its socket."""
        return FOLDER / "drill" / "data", FOLDER / "drill"


def main(command, *words):
    """Run one of the commands; the exit code."""
    if command == "backup":
        write("backup", of_backups(info(), is_ok=os.environ.get("SERVICE_RESULT", "success") == "success"))
        return 0
    began, found, why = time.time(), {}, ""
    try:
        drill(Place(**json.loads(words[0])), found)
    except DrillError as error:
        why = str(error)
    said = why or f"the last backup is whole, and was {found['rpo_seconds']:.0f} s old when it was restored"
    sys.stdout.write(f"{said}\n")
    write("drill", of_drill(found, is_ok=not why, began=began, ended=time.time()))
    return 1 if why else 0


def drill(place, found):
    """Restore, look, and remove what was restored. What is measured is put into `found`. Raises DrillError."""
    data, scratch = place.data
    shutil.rmtree(scratch, ignore_errors=True)
    data.mkdir(parents=True, mode=0o700)
    try:
        began = time.time()
        restore(place, newest(info()))
        found["restore_seconds"] = time.time() - began
        start(place)
        ended = time.time()
        try:
            written, ledger = read_ledger(place)
            found["rpo_seconds"] = max(ended - written, 0.0)
            look(place, ledger)
            if found["rpo_seconds"] > place.oldest_seconds:
                raise DrillError(
                    f"the newest transaction that came back is {found['rpo_seconds']:.0f} s old: see whether "
                    "PostgreSQL archives its log (pg_stat_archiver), then make a backup now"
                )
        finally:
            run("stop the scratch cluster", f"{place.programs}/pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def restore(place, backup):
    """The last backup and all of the log that was archived since, into an empty folder."""
    data, scratch = place.data
    size, free = backup["info"]["size"], shutil.disk_usage(scratch).free
    if free < size + SPARE_BYTES:
        raise DrillError(f"{scratch} has {free} bytes free, and the drill needs {size + SPARE_BYTES}: make room")
    if not Path(place.programs, "postgres").exists():
        raise DrillError(f"there is no {place.programs}: install PostgreSQL in the version of the backups here")
    run(
        "restore",
        "pgbackrest",
        f"--config={place.configuration}",
        f"--stanza={STANZA}",
        "--archive-mode=off",
        "restore",
    )
    (data / "postgresql.conf").write_text(SETTINGS.format(socket=scratch))
    (scratch / "pg_hba.conf").write_text("local all postgres peer\n")
    (scratch / "pg_ident.conf").touch()


def start(place):
    """Start the cluster, and wait until it has replayed the log."""
    data, scratch = place.data
    log = scratch / "log"
    control = (f"{place.programs}/pg_ctl", "-D", data)
    try:
        # It comes back before the log is replayed, as there is no hot standby.
        run("start the scratch cluster", *control, "-l", log, "-w", "-t", "86400", "start")
        while not is_ready(place):
            run("replay the archived log", *control, "status")
            time.sleep(1)
    except DrillError as error:
        with contextlib.suppress(OSError):
            sys.stderr.write("\n".join(log.read_text(errors="replace").splitlines()[-20:]) + "\n")
        raise DrillError(f"{error}; its last lines are above") from error


def is_ready(place):
    """Whether the cluster takes connections."""
    command = (f"{place.programs}/pg_isready", "-q", "-h", place.data[1])
    return subprocess.run([str(word) for word in command], check=False).returncode == 0


def read_ledger(place):
    """When the newest entry was written, and what it counted."""
    if ask(place, "SELECT to_regclass('metabuilder_backup.ledger') IS NULL") == "t":
        raise DrillError(
            "the ledger did not come back: the log that was archived after the last backup has a gap, or nothing "
            "of it was replayed; make a backup now"
        )
    row = ask(place, LEDGER)
    if not row:
        raise DrillError("the ledger has no row: see metabuilder-backup-ledger.service on the host of PostgreSQL")
    written, accounts, messages = row.split("|")
    return float(written), {"accounts": int(accounts), "messages": int(messages)}


def look(place, ledger):
    """Count rows, compare stored files with their SHA-256, and read all tables and indexes. Raises DrillError."""
    there = ask(place, "SELECT to_regclass('public.blob') IS NOT NULL") == "t"
    for name, query in COUNTED.items() if there else ():
        count = int(ask(place, query))
        if count < ledger[name] * AT_LEAST:
            raise DrillError(f"{count} {name} came back, of {ledger[name]} that the ledger has")
    if there:
        blobs = int(ask(place, "SELECT count(*) FROM public.blob"))
        percent = min(100.0, 100.0 * SAMPLES / max(blobs, 1))
        _, damaged = ask(place, DAMAGED.format(percent=percent, samples=SAMPLES)).split("|")
        if int(damaged):
            raise DrillError(f"{damaged} stored files are not what their SHA-256 says")
    options = ("--install-missing", "--no-strict-names", "--jobs=1", f"--database={place.database}")
    run("check tables and indexes", f"{place.programs}/pg_amcheck", "-h", place.data[1], "-U", "postgres", *options)


def ask(place, query):
    """What PostgreSQL answers, columns apart by `|`."""
    options = ("-h", place.data[1], "-U", "postgres", "-d", place.database, "-X", "-A", "-t", "-q", "-c", query)
    return run("ask the scratch cluster", f"{place.programs}/psql", *options).strip()


def run(what, *command):
    """What a program says. Raises DrillError with the end of it where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-500:]
        raise DrillError(f"could not {what}: {said or f'exit code {done.returncode}'}")
    return done.stdout


def info():
    """What pgBackRest says of the backups."""
    found = json.loads(run("list the backups", "pgbackrest", f"--stanza={STANZA}", "info", "--output=json"))
    return found[0] if found else {"backup": []}


def newest(said):
    """The newest backup. Raises DrillError where there is none."""
    if not said["backup"]:
        raise DrillError("there is no backup")
    return max(said["backup"], key=lambda one: one["timestamp"]["stop"])


def of_backups(said, *, is_ok):
    """The metrics of the backups: names, what they mean, values."""
    ends = {
        kind: [one["timestamp"]["stop"] for one in said["backup"] if kind in ("any", one["type"])]
        for kind in ("any", "full")
    }
    yield "metabuilder_backup_ok", "Whether the last try to make a backup succeeded.", int(is_ok)
    if ends["any"]:
        yield "metabuilder_backup_timestamp_seconds", "When the newest backup ended.", max(ends["any"])
        yield "metabuilder_backup_first_timestamp_seconds", "When the oldest backup ended.", min(ends["any"])
        yield (
            "metabuilder_backup_bytes",
            "The size of the database in the newest backup.",
            newest(said)["info"]["size"],
        )
    if ends["full"]:
        yield "metabuilder_backup_full_timestamp_seconds", "When the newest full backup ended.", max(ends["full"])


def of_drill(found, *, is_ok, began, ended):
    """The metrics of a drill: names, what they mean, values."""
    yield "metabuilder_restore_drill_ok", "Whether the last backup could be restored and was whole.", int(is_ok)
    yield "metabuilder_restore_drill_timestamp_seconds", "When that was tried.", ended
    yield "metabuilder_restore_drill_duration_seconds", "How long all of it took.", ended - began
    for name, meaning in {
        "restore_seconds": "How long it took to bring the files back.",
        "rpo_seconds": "How old the newest transaction was that came back.",
    }.items():
        if name in found:
            yield f"metabuilder_restore_drill_{name}", meaning, found[name]


def write(name, metrics):
    """Put metrics in the place of those that were there, for everybody to read."""
    lines = [
        f"# HELP {metric} {meaning}\n# TYPE {metric} gauge\n{metric} {value}\n" for metric, meaning, value in metrics
    ]
    file = FOLDER / "metrics" / f"{name}.prom"
    file.parent.mkdir(mode=0o755, exist_ok=True)
    file.parent.chmod(0o755)
    fresh = file.with_suffix(".new")
    fresh.write_text("".join(lines))
    fresh.chmod(0o644)
    fresh.replace(file)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
