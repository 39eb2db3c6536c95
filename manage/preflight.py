"""`preflight`: the production checklist of a site, each item judged."""

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from manage import site
from manage.examples import example
from manage.output import Coloured, print_json, say, tell
from manage.session import json_option
from manage.site import Result, Site

if TYPE_CHECKING:
    from manage.verdict import Known, Verdict

_PLAYBOOK = "playbooks/checklist.yml"
# The task of the playbook that shows values, and the one that shows what preflight found.
_VALUES, _FINDINGS = "Say what the checklist needs of it", "Show all findings at once"
_COLOURS = {"ok": "green", "not ok": "red", "not applicable": "cyan"}
_WIDTH = max(map(len, _COLOURS))


@example("preflight -i inventories/production", fails="an item is not ok")
@click.command()
@site.site_options
@json_option
def preflight(as_json: bool, **_: Any) -> None:
    """Go through the production checklist of a site: `ok`, `not ok` and what to do, or `not applicable` and why.

    Looked at are the inventory, what preflight finds on the hosts before a deployment, and what `health` says of them
    after one. Works before the first deployment too, and changes nothing. docs/production-checklist.md has the same
    items, each with the command that checks it. What no program can see, you note in the inventory: preflight_done.
    """
    from manage.checklist import SECTIONS

    context = click.get_current_context()
    site.remember(context)
    place = site.here()
    if place is None:
        raise click.UsageError("name the site: ./manage.sh preflight -i inventories/NAME", context)
    known = _known(place)
    verdicts = {item.name: _judged(item.name, known) for section in SECTIONS.values() for item in section}
    if as_json:
        _print(verdicts, place.inventories)
    else:
        _show(verdicts)
    sys.exit(any(verdict.word == "not ok" for verdict in verdicts.values()))


def _known(place: Site) -> "Known":
    """Ask Ansible, then the hosts that can be reached."""
    from manage.verdict import Known

    values, looked = _read(place)
    away = {one.host: site.why_not(one.said) for one in looked if site.is_unreachable(one.said)}
    files = _files(place.inventories)
    known = Known(place.inventories[0], files, datetime.now(UTC).date(), values, _findings(looked), away)
    return _with_states(known, [host for host in values if host not in away])


def _files(inventories: Sequence[str]) -> list[Path]:
    """The files that Ansible reads for inventories, which are folders, files, or lists of names."""
    found: list[Path] = []
    for given in map(Path, inventories):
        folders = [given] if given.is_dir() else [given.parent / name for name in ("group_vars", "host_vars")]
        found += [given] if given.is_file() else []
        found += [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    return found


def _with_states(known: "Known", hosts: Sequence[str]) -> "Known":
    from dataclasses import replace

    from manage.health import of_hosts, of_site
    from manage.units import ask

    if not hosts:
        return known
    began = time.time()
    answers = ask("readiness", *filter(None, [str(known.one("preflight_backup_files"))]), hosts=hosts)
    found = of_hosts(answers, (began, time.time()))
    states = {answer.host: json.loads(answer.out) for answer in answers if not answer.exit_code}
    known = replace(known, states=states, checks=found)
    if known.not_running():
        return known
    waits = _waits() if known.one("preflight_promised_waits") else None
    return replace(known, checks=[*found, *of_site()], waits=waits)


def _waits() -> "Mapping[str, Mapping[str, int]] | None":
    """How long tasks waited until they began, as the first host of the workers says that can be reached."""
    from manage.messages import short
    from manage.passed_on import PROGRAM
    from native.errors import StackError

    place = site.here()
    assert place is not None
    try:
        hosts = place.hosts(site.WORKERS)
    except StackError:
        return None
    for host in hosts:
        [answer] = place.run([host], (PROGRAM, "stats", "--json"))
        with suppress(ValueError, KeyError):
            return {short(row["task"]): row["waits"] for row in json.loads(answer.out)}
    return None


def _read(place: Site) -> tuple[dict[str, Mapping[str, Any]], list[Result]]:
    """The values of the inventory by host, and what became of the look at the hosts.

    Raises StackError where the inventory cannot be read.
    """
    from manage.checklist import VARIABLES
    from native.errors import StackError

    place.hosts(*site.GROUPS)
    options = ["--skip-tags", "defaults_alone", *(("--limit", place.limit) if place.limit else ())]
    with TemporaryDirectory() as folder:
        (given := Path(folder) / "variables.json").write_text(json.dumps({"checklist_variables": VARIABLES}))
        first, *others = place.play(_PLAYBOOK, "--extra-vars", f"@{given}", *options)
    shown = [one for one in first if one.task == _VALUES]
    if failed := [one for one in shown if one.said.get("failed")]:
        raise StackError(f"the inventory of {failed[0].host} cannot be read: {site.why_not(failed[0].said)}")
    values = {one.host: one.said["msg"] for one in shown}
    for name in ("preflight_done", "preflight_not_applicable"):
        _check_names(name, next(iter(values.values()))[name])
    return values, [one for play in others for one in play]


def _check_names(variable: str, given: Any) -> None:
    """Raise StackError where the variable names an item that the list does not have."""
    from manage.checklist import items
    from native.errors import StackError

    if not isinstance(given, dict):
        raise StackError(f"{variable} is no mapping: write it like {{backup: …}}")
    names = [item.name for item in items()]
    if unknown := [name for name in given if name not in names]:
        raise StackError(f"{variable} has {unknown[0]}, which is no item of the checklist: {', '.join(names)}")


def _findings(looked: Sequence[Result]) -> list[str] | None:
    """What preflight found; None where it did not get so far because a host is away."""
    found: list[str] = []
    for task, host, said in looked:
        if said.get("failed"):
            message = said.get("msg")
            found += message[1:] if isinstance(message, list) else [f"{host}: {task}: {site.why_not(said)}"]
    is_through = any(one.task.endswith(_FINDINGS) and not site.is_unreachable(one.said) for one in looked)
    return found if found or is_through else None


def _judged(name: str, known: "Known") -> "Verdict":
    from manage.checklist import items
    from manage.verdict import not_applicable

    if why := known.one("preflight_not_applicable").get(name):
        return not_applicable(str(why))
    return next(item for item in items() if item.name == name).judge(known)


def _print(verdicts: "Mapping[str, Verdict]", inventories: Sequence[str]) -> None:
    from manage.checklist import items

    rows = (
        {"item": item.name, "what": item.what, "verdict": verdicts[item.name].word.value}
        | {"detail": verdicts[item.name].detail, "advice": verdicts[item.name].advice}
        | {"command": _with_inventories(item.command, inventories)}
        for item in items()
    )
    print_json(list(rows))


def _with_inventories(command: str, inventories: Sequence[str]) -> str:
    """A command of the checklist with the inventories of this site; files of the inventory are those of the first."""
    name, quoted = "inventories/NAME", [shlex.quote(given) for given in inventories]
    command = command.replace(f"-i {name}", " ".join(f"-i {given}" for given in quoted))
    first = Path(inventories[0])
    return command.replace(name, shlex.quote(str(first if first.is_dir() else first.parent)))


def _show(verdicts: "Mapping[str, Verdict]") -> None:
    from manage.checklist import SECTIONS

    for title, section in SECTIONS.items():
        tell(title)
        for item in section:
            verdict = verdicts[item.name]
            word = Coloured(f"  {verdict.word:{_WIDTH}}  ", _COLOURS[verdict.word])
            tell(word, f"{item.name}: {item.what.replace('`', '')}: {verdict.detail}")
            if verdict.advice:
                tell(f"  {'':{_WIDTH}}  {verdict.advice}")
    counts = {word: sum(one.word == word for one in verdicts.values()) for word in _COLOURS}
    say(", ".join(f"{count} {word}" for word, count in counts.items()))
