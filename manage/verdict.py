"""What is known of a site, and what is said of one item of the production checklist."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any

from native.check import Check


class Word(StrEnum):
    """How it is with an item."""

    OK = "ok"
    NOT_OK = "not ok"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Verdict:
    """How it is with an item, what was seen (of one that is not applicable: why it is not), and what to do."""

    word: Word
    detail: str
    advice: str = ""


def well(detail: str) -> Verdict:
    """The item is as it should be."""
    return Verdict(Word.OK, detail)


def wrong(detail: str, advice: str) -> Verdict:
    """Somebody has to do something."""
    return Verdict(Word.NOT_OK, detail, advice)


def not_applicable(why: str) -> Verdict:
    """The item means nothing for this site, or cannot be judged yet."""
    return Verdict(Word.NOT_APPLICABLE, why)


@dataclass(frozen=True)
class Known:
    """What is known of a site.

    `files` are those of the inventories; `values` are variables by host, as Ansible renders them; `findings` what
    preflight found, None where it could not look at all hosts; `away` why a host could not be reached, by host;
    `states` what manage/on_host.py says of each host that can be; `checks` what `health` finds, each with its host;
    `waits` how many tasks waited no longer than each number of seconds (and longer than the number before it), by the
    short name of the task, None where no worker's host says so.
    """

    inventory: str
    files: Sequence[Path]
    today: date
    values: Mapping[str, Mapping[str, Any]]
    findings: Sequence[str] | None = None
    away: Mapping[str, str] | None = None
    states: Mapping[str, Mapping[str, Any]] | None = None
    checks: Sequence[tuple[str, Check]] = ()
    waits: Mapping[str, Mapping[str, int]] | None = None

    def of(self, *groups: str) -> list[str]:
        """The hosts of these groups; of none: all hosts."""
        return [host for host, values in self.values.items() if not groups or {*groups} & {*values["group_names"]}]

    def each(self, name: str, *groups: str) -> Iterator[tuple[str, Any]]:
        """The hosts of these groups, each with its value of a variable."""
        return ((host, self.values[host][name]) for host in self.of(*groups))

    def one(self, name: str) -> Any:
        """A variable that is the same for the whole site."""
        return next(iter(self.values.values()))[name]

    def not_running(self) -> Verdict | None:
        """The verdict on items about running hosts, where nothing runs or no host can be asked."""
        if not self.states:
            return not_applicable("no host can be reached")
        is_deployed = any(state["units"] for state in self.states.values())
        return None if is_deployed else not_applicable("not deployed yet")


Judge = Callable[[Known], Verdict]


def listed(hosts: Sequence[str]) -> str:
    """The names of hosts, for people."""
    return ", ".join(hosts)
