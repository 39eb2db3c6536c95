"""The hosts of an inventory, on which Ansible runs commands for ./manage.sh -i INVENTORY VERB."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from getpass import getpass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from native.errors import StackError

WORKERS = "celery_workers"
# The groups on whose hosts something of ours runs.
GROUPS = (
    "redis",
    "postgresql",
    WORKERS,
    "celery_beat",
    "flower",
    "exporter",
    "admin_uis",
    "log_collection",
    "backup",
    "mail_watchers",
)
_KEY = "metabuilder.site"
# Of a command that could not be run: the host is away, or lets nobody become root.
NOT_RUN = 1
_MAX_WHY = 300
# What a person is asked for, by the option of ansible-playbook that takes a file with the answer.
_PASSWORDS = {
    "vault-password-file": "Password of the vault: ",
    "become-password-file": "Password of sudo on the hosts: ",
}


VerbT = TypeVar("VerbT", bound=click.Command | Callable[..., Any])
# The options that ask for these, by the names of their parameters.
_ASKING = {"ask_vault_pass": "vault-password-file", "ask_become_pass": "become-password-file"}


def site_options(command: VerbT) -> VerbT:
    """The options that say which site is meant, and how it is entered."""
    for option in (
        click.option(
            "-i",
            "--inventory",
            "inventories",
            multiple=True,
            metavar="INVENTORY",
            help="Have the hosts of inventories/NAME do it, instead of the native stack.",
        ),
        click.option("--limit", metavar="PATTERN", help="With -i: only these hosts of it, as for ansible-playbook."),
        click.option("--ask-vault-pass", is_flag=True, help="With -i: ask for the password of the vault."),
        click.option("-K", "--ask-become-pass", is_flag=True, help="With -i: ask for the password of sudo."),
    ):
        command = option(command)
    return command


@lru_cache
def _password(prompt: str) -> str:
    return getpass(prompt)


@dataclass(frozen=True)
class Answer:
    """What a command said on a host, and how it ended. `out` is empty and `said` says why where it was not run."""

    host: str
    exit_code: int
    out: str
    said: str
    is_away: bool = False


class Result(NamedTuple):
    """What a task of a playbook did on a host, as Ansible says it."""

    task: str
    host: str
    said: dict[str, Any]


@dataclass(frozen=True)
class Site:
    """The hosts of `inventories`, as ansible-playbook takes them, or those of them that `limit` leaves."""

    inventories: tuple[str, ...]
    limit: str | None = None
    asks: tuple[str, ...] = ()  # of _PASSWORDS

    def hosts(self, *groups: str) -> list[str]:
        """The names of the hosts of these groups. Raises StackError where there are none."""
        from ansible.errors import AnsibleError
        from ansible.inventory.manager import InventoryManager
        from ansible.parsing.dataloader import DataLoader

        try:
            inventory = InventoryManager(loader=DataLoader(), sources=list(self.inventories))
            inventory.subset(self.limit)
            known = [group for group in groups if group in inventory.groups]
            found = [host.name for host in inventory.get_hosts(":".join(known))] if known else []
        except AnsibleError as error:
            raise StackError(f"the inventory cannot be read: {error}") from error
        if not found:
            limited = f" that matches --limit {self.limit}" if self.limit else ""
            raise StackError(f"{', '.join(self.inventories)} has no host of {' or '.join(groups)}{limited}")
        return found

    def run(self, hosts: Sequence[str], argv: Sequence[str], stdin: str = "") -> list[Answer]:
        """Run a command as root on these hosts, all at once. Raises StackError where Ansible does not even try."""
        from tempfile import TemporaryDirectory

        columns = str(shutil.get_terminal_size().columns) if sys.stdout.isatty() else ""
        wanted = {"hosts": list(hosts), "argv": list(argv), "stdin": stdin, "columns": columns}
        with TemporaryDirectory() as folder:  # which only this user may enter
            given = Path(folder) / "run.json"
            given.write_text(json.dumps(wanted))
            plays = self.play("playbooks/run.yml", "--extra-vars", f"run_file={given}")
        seen = {host: _answer(host, result) for play in plays for _, host, result in play}
        return [seen.get(host) or Answer(host, NOT_RUN, "", "Ansible said nothing of this host") for host in hosts]

    def play(self, playbook: str, *options: str) -> list[list[Result]]:
        """Run a playbook: of each play, what its tasks did on each host. Raises StackError where none began."""
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:  # which only this user may enter
            done = self._play(playbook, [*options, *self._passwords(Path(folder))])
        try:
            plays = json.loads(done.stdout)["plays"]
        except (ValueError, KeyError):
            raise StackError(f"Ansible fails: {(done.stderr or done.stdout).strip()}") from None
        return [
            [
                Result(task["task"]["name"], host, result)
                for task in play["tasks"]
                for host, result in task["hosts"].items()
            ]
            for play in plays
        ]

    def _passwords(self, folder: Path) -> list[str]:
        """The options that name files with the passwords that are asked for, once for all runs of Ansible."""
        options: list[str] = []
        for option in self.asks:
            file = folder / option
            file.write_text(_password(_PASSWORDS[option]))
            options += [f"--{option}", str(file)]
        return options

    def _play(self, playbook: str, options: list[str]) -> "subprocess.CompletedProcess[str]":
        from native.state import ROOT

        command = [sys.executable, "-m", "ansible", "playbook", *options]
        command += [part for inventory in self.inventories for part in ("--inventory", inventory)]
        environment = {
            # No log of Ansible's is kept: it would have what the command was given and what it said.
            **{name: value for name, value in os.environ.items() if name != "ANSIBLE_LOG_PATH"},
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.json",
            # The hosts' journals are not to say what the command was given.
            "ANSIBLE_NO_TARGET_SYSLOG": "true",
            "ANSIBLE_NOCOLOR": "true",
        }
        command.append(str(ROOT / playbook))
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def _answer(host: str, result: dict[str, Any]) -> Answer:
    if "delta" in result:  # how long the command ran
        return Answer(host, int(result["rc"]), result["stdout"], result.get("stderr", ""))
    if is_away := is_unreachable(result):
        return Answer(host, NOT_RUN, "", f"cannot be reached: {why_not(result)}", is_away)
    why = why_not(result)
    if "cmd" in result:  # the program could not be started; `rc` is the number of the error
        why = f"{shlex.split(result['cmd'])[0]}: {os.strerror(result['rc'])}"
    return Answer(host, NOT_RUN, "", f"cannot be asked: {why}")


def is_unreachable(said: dict[str, Any]) -> bool:
    """Whether Ansible could not reach the host."""
    return bool(said.get("unreachable"))


def why_not(said: dict[str, Any]) -> str:
    """Why a task failed, in Ansible's words."""
    return (" ".join(str(said.get("msg", "")).split()) or "Ansible does not say why")[-_MAX_WHY:]


def here() -> Site | None:
    """The site that the verb is about, None without -i."""
    found = click.get_current_context().find_root().meta.get(_KEY)
    return found if isinstance(found, Site) else None


def remember(context: click.Context) -> None:
    """Make the site that the options of this context name, if they name one, that which the verb is about.

    Raises UsageError for options without -i.
    """
    given = context.params
    if inventories := given.get("inventories"):
        asks = tuple(option for name, option in _ASKING.items() if given[name])
        context.find_root().meta[_KEY] = Site(inventories, given["limit"], asks)
    elif any(given.get(name) for name in ("limit", *_ASKING)):
        raise click.UsageError("--limit, --ask-vault-pass and --ask-become-pass go with -i INVENTORY", context)
