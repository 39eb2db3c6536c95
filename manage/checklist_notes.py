"""Items of the production checklist of which a person has to see the last part, and notes the day in the inventory.

What a program can know of such an item is judged first: from the inventory, its files and the hosts.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from manage.messages import short
from manage.verdict import Judge, Known, Verdict, Word, listed, not_applicable, well, wrong
from tasks.registry import TASKS

# The figures of a load test, in the folder of the inventory.
LOAD_TEST = "load-test.json"
# A queue keeps up if so large a share of what comes is worked off while it comes.
_KEEPS_UP = 0.9
# So large a share of the tasks of a name has to begin in the time that was promised.
_PROMISED_SHARE = 0.95
_HOUR, _DAY = 3600, 86_400


def noted(name: str, how: str, look: Callable[[Known], Verdict] | None = None) -> Judge:
    """A person notes in the inventory when it was done, once `look` finds nothing wrong."""

    def judge(known: Known) -> Verdict:
        seen = look(known) if look else well("")
        if seen.word != Word.OK:
            return seen
        done, days = known.one("preflight_done").get(name), int(known.one("preflight_done_days"))
        note = f"{how}; then note the day in the inventory: preflight_done: {{{name}: {known.today}}}"
        before = f"{seen.detail}; " if seen.detail else ""
        if done is None:
            return wrong(f"{before}nobody has noted it", note)
        try:
            age = (known.today - date.fromisoformat(str(done))).days
        except ValueError:
            return wrong(f"preflight_done.{name} {done} is no day", f"Write it like {known.today}")
        if age < 0:
            return wrong(f"preflight_done.{name} {done} is in the future", "Write the day on which it was done")
        if age > days:
            return wrong(f"{before}noted on {done}, {age} days ago", note)
        return well(f"{before}noted on {done}")

    return judge


def delivery(known: Known) -> Verdict:
    """The site's own Alertmanager knows to whom alerts go. A Prometheus elsewhere is left to the note."""
    hosts = known.of("monitoring")
    own = [host for host in hosts if known.values[host]["monitoring_server"]]
    silent = [host for host in own if not (_told(known.values[host]))]
    if silent:
        detail = f"nobody is told of the alerts of {listed(silent)}"
        return wrong(detail, "Set monitoring_mail_to or monitoring_webhook_url: docs/operations.md, Alerts")
    if own:
        return well(f"{listed(own)} tells {' and '.join(dict.fromkeys(_told(known.values[host]) for host in own))}")
    if hosts:
        return well(f"rules are on {listed(hosts)}, for a Prometheus of your own")
    return well("no host is in the group monitoring, so the alerts are those of a Prometheus elsewhere")


def _told(values: Mapping[str, Any]) -> str:
    mail, webhook = values["monitoring_mail_to"], values["monitoring_webhook_url"]
    return " and ".join([*([str(mail)] if mail else []), *(["a webhook"] if webhook else [])])


def journals(known: Known) -> Verdict:
    """All hosts send their journals to the collector, which gets them. A collector elsewhere is left to a note."""
    collectors = known.of("log_collection")[:1]
    if not collectors:
        elsewhere = noted(
            "log_collection",
            "Put a host into the group log_collection, or write a line with logger on each host and find it where "
            "you collect logs",
        )
        return elsewhere(known)
    if not_running := known.not_running():
        return not_running
    states = known.states or {}
    advice = "Look at systemctl status systemd-journal-upload there, then run site.yml"
    if silent := [
        host for host, state in states.items() if host not in collectors and not state["journals"]["sends"]
    ]:
        return wrong(f"{listed(silent)} sends nothing to {collectors[0]}", advice)
    if len(known.values) == 1:
        return wrong(f"{collectors[0]} is the only host", "Collect logs on a host of its own, or say why not")
    if collectors[0] not in states:
        return not_applicable(f"{collectors[0]} cannot be reached")
    collector = states[collectors[0]]
    received = collector["journals"]["received"]
    if received is None or collector["clock"] - received > _DAY:
        since = "ever" if received is None else f"since {_day(received)}"
        advice = "Look at systemctl status metabuilder-log-collector there, then run site.yml"
        return wrong(f"{collectors[0]} has received nothing {since}", advice)
    return well(f"{len(states) - 1} hosts send to {collectors[0]}, which received lines on {_day(received)}")


def load(known: Known) -> Verdict:
    """The figures that were written while the load came: every queue kept up."""
    file = _folder(known) / LOAD_TEST
    command = (
        f"While the load comes, run ./manage.sh -i {known.inventory} queue:status --rate 60 --json > {file}, "
        "and note the day"
    )
    if not file.exists():
        return wrong(f"there is no {file}", command)
    try:
        [rows] = json.loads(file.read_text()).values()
        rates = {str(row["queue"]): (float(row["in_per_second"]), float(row["out_per_second"])) for row in rows}
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return wrong(f"{file} has no figures of queue:status --rate", command)
    total, wanted = sum(out for _, out in rates.values()), float(known.one("preflight_busy_rate"))
    if total == 0:
        return wrong(f"no task ended while {file} was written", command)
    behind = [
        f"{queue} got {come:.1f} tasks a second and ended {out:.1f}"
        for queue, (come, out) in rates.items()
        if out < come * _KEEPS_UP
    ]
    if behind:
        return wrong(
            "; ".join(behind), "Give the workers more processes or hosts (docs/tuning.md), and measure again"
        )
    if total < wanted:
        detail = f"{total:.1f} tasks a second were measured, of {wanted:g} in a busy hour (preflight_busy_rate)"
        return wrong(detail, command)
    return well(f"{total:.1f} tasks a second ended, and every queue kept up")


def promise(known: Known) -> Verdict:
    """What is promised is in the inventory, and the waits that workers have counted keep it."""
    promised = known.one("preflight_promised_waits")
    names = [short(row.name) for row in TASKS]
    if unknown := [task for task in promised if task not in names]:
        return wrong(f"preflight_promised_waits has {unknown[0]}, which is no task", f"Name one of {listed(names)}")
    if not promised:
        advice = "Write down within how many seconds tasks begin: preflight_promised_waits: {send_email: 60}"
        return wrong("nothing is promised in the inventory", advice)
    if not_running := known.not_running():
        return not_running
    if known.waits is None:
        return not_applicable("no worker's host says how long tasks waited")
    broken, kept = [], []
    for task, seconds in promised.items():
        counts = known.waits.get(task, {})
        whole = sum(counts.values())
        within = sum(count for bound, count in counts.items() if float(bound) <= float(seconds))
        if whole and within / whole < _PROMISED_SHARE:
            broken.append(f"{within / whole:.1%} of {whole:,} tasks {task} began within {seconds} s")
        elif whole:
            kept.append(f"{within / whole:.1%} of {task} within {seconds} s")
    if broken:
        advice = f"See what they wait for: ./manage.sh -i {known.inventory} queue:status; docs/tuning.md"
        return wrong("; ".join(broken), advice)
    return well("; ".join(kept)) if kept else not_applicable(f"no task {' or '.join(promised)} has run yet")


def backup(known: Known) -> Verdict:
    """The newest file of the backup is young enough. A backup that makes no files here is left to the note."""
    pattern = known.one("preflight_backup_files")
    if not pattern and not known.one("backup_enabled"):
        advice = "Leave it out, or have a tool of your own make backups, and name its files: preflight_backup_files"
        return wrong("backup_enabled is off: a lost disk is lost mail", advice)
    if not pattern:
        return well("no program looks at the newest one (preflight_backup_files)")
    if not_running := known.not_running():
        return not_running
    found = [(host, state) for host, state in (known.states or {}).items() if state["backup"]["written"]]
    advice = "Look why the backup was not made, on its host"
    if not found:
        return wrong(f"no file matches {pattern} on any host", advice)
    host, state = max(found, key=lambda one: one[1]["backup"]["written"])
    newest = state["backup"]
    if state["clock"] - newest["written"] > float(known.one("preflight_backup_hours")) * _HOUR:
        return wrong(f"the newest, {newest['path']} on {host}, is of {_day(newest['written'])}", advice)
    if not newest["bytes"]:
        return wrong(f"{newest['path']} on {host} is empty", advice)
    return well(f"the newest is {newest['path']} on {host}, of {_day(newest['written'])}")


def copied(known: Known) -> Verdict:
    """The secrets are still those of which somebody kept a copy, as their digest in the inventory shows."""
    files = [file for file in known.files if file.name == "secrets.yml"]
    files += [file for file in [Path(str(known.one("tls_directory"))) / "ca.key"] if file.exists()]
    if not files:
        return well("secrets are not in files here")
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    command = f"cat {' '.join(map(str, files))} | sha256sum"
    noted_digest = str(known.one("preflight_secrets_digest"))
    if not noted_digest:
        advice = f"Copy them, run {command} with the files of the copy, and note it: preflight_secrets_digest"
        return wrong("nobody has noted which secrets were copied", advice)
    if noted_digest != digest:
        advice = f"Copy them again, and note what {command} says of the copy: preflight_secrets_digest"
        return wrong("the secrets were changed since they were copied", advice)
    return well("the copy has the secrets of today")


def way_back(known: Known) -> Verdict:
    """Hosts that run the application have a release to go back to, or none has: then nothing was deployed twice."""
    states = {host: state for host, state in (known.states or {}).items() if state["release"]}
    without = [host for host, state in states.items() if not state["previous"]]
    if without and len(without) < len(states):
        advice = "Run playbooks/deploy.yml, or know that rollback.yml refuses while a host has none"
        return wrong(f"{listed(without)} has no release to go back to", advice)
    if not states or without:
        return well("")
    return well("every host has a release to go back to")


def _folder(known: Known) -> Path:
    given = Path(known.inventory)
    return given if given.is_dir() else given.parent


def _day(moment: float) -> str:
    return str(datetime.fromtimestamp(moment, UTC).date())
