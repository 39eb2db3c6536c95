"""The production checklist, as far as running hosts say it: by preflight, and by the checks of `health`."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from manage.checklist_values import watchdogs
from manage.verdict import Judge, Known, Verdict, listed, not_applicable, well, wrong
from native.check import Check

# The components of `health` that an item is about; of those that end with a space, all that begin so. The rest are
# about whether the parts work.
DISKS = ("disk ",)
CERTIFICATES = ("certificate ",)
CLOCKS = ("clock", "clocks")
RELEASES = ("releases", "releases at work")
DEAD_LETTERS = ("dead letters", "outbox in doubt")
SCHEDULE = ("beat",)
LATENESS = ("queues", "accounts", "outbox")
_OTHERS = (*DISKS, *CERTIFICATES, *CLOCKS, *RELEASES, *DEAD_LETTERS, *SCHEDULE, *LATENESS)
_LISTS_DAYS = 35
_SHOWN = 5


def reachable(known: Known) -> Verdict:
    """Ansible reaches every host."""
    if known.away:
        said = [f"{host}: {why}" for host, why in known.away.items()]
        return wrong(_some(said), "Look whether they are up and whether ssh and sudo work, or name others by --limit")
    return well(f"{len(known.values)} of {len(known.values)}")


def ground(known: Known) -> Verdict:
    """The role preflight finds nothing."""
    if known.findings is None:
        return not_applicable("not all hosts can be reached")
    if known.findings:
        return wrong(_some(known.findings), "Mend what is named: site.yml stops at it, before it changes anything")
    return well("nothing is found")


def works(known: Known) -> Verdict:
    """All that `health` says and no other item is about."""
    return _by_health(known, [one for one in known.checks if not _is_about(one[1], _OTHERS)])


def health(*components: str) -> Judge:
    """The item is what `health` says of these components."""

    def judge(known: Known) -> Verdict:
        return _by_health(known, [one for one in known.checks if _is_about(one[1], components)])

    return judge


def _is_about(check: Check, components: Sequence[str]) -> bool:
    beginnings = tuple(name for name in components if name.endswith(" "))
    return check.component in components or check.component.startswith(beginnings)


def _by_health(known: Known, found: Sequence[tuple[str, Check]]) -> Verdict:
    if not_running := known.not_running():
        return not_running
    if not found:
        return not_applicable("no host has any, or health could not ask")
    if bad := [one for one in found if one[1].warns or not one[1].ok]:
        advice = "; ".join(dict.fromkeys(check.advice for _, check in bad[:_SHOWN] if check.advice))
        return wrong(_some(_said(host, check) for host, check in bad), advice)
    said = dict.fromkeys(_said("", check) for _, check in found)
    return well(next(iter(said)) if len(said) == 1 else f"{len(found)} checks of health are well")


def _said(host: str, check: Check) -> str:
    return f"{f'{host}: ' if host else ''}{check.component}: {check.detail.rstrip('.')}"


def _some(said: Iterable[str]) -> str:
    """The first of many findings, and how many more there are."""
    found = list(said)
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


def restarts(known: Known) -> Verdict:
    """systemd starts every unit that dies, that hangs, and with its host."""
    if off := watchdogs(known):
        return wrong(_some(off), "Leave the variable out, so that a program that hangs is restarted")
    if not_running := known.not_running():
        return not_running
    units = [(host, unit) for host, state in (known.states or {}).items() for unit in state["units"]]
    bad = [f"{host}: {unit['unit']} is not restarted" for host, unit in units if unit["restart_policy"] == "no"]
    bad += [
        f"{host}: {unit['unit']} does not start with the host" for host, unit in units if not unit["starts_with_host"]
    ]
    if bad:
        return wrong(_some(bad), "Run site.yml, which configures the units; see what changed one: systemctl cat UNIT")
    return well(f"{len(units)} units are restarted and start with their hosts")


def updates(known: Known) -> Verdict:
    """No security update waits, and no host needs a reboot for one."""
    if not known.states:
        return not_applicable("no host can be reached")
    now = datetime.combine(known.today, datetime.max.time(), UTC).timestamp()
    bad = []
    for host, state in known.states.items():
        found = state["updates"]
        days = None if found["fetched"] is None else int((now - found["fetched"]) // 86_400)
        if found["security"]:
            bad.append(f"{host}: {found['security']} security updates wait")
        if found["reboot"]:
            bad.append(f"{host}: needs a reboot")
        if days is None or days > _LISTS_DAYS:
            bad.append(f"{host}: nobody has looked for updates" + ("" if days is None else f" for {days} days"))
    if bad:
        playbook = f"ansible-playbook -i {known.inventory} playbooks/update.yml"
        return wrong(_some(bad), f"{playbook}, then reboot the hosts that need it, one after the other")
    return well(f"none waits on {listed(list(known.states))}")
