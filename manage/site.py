"""The hosts of an inventory, on which Ansible runs commands for ./manage.sh -i INVENTORY VERB."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from getpass import getpass
from pathlib import Path
from typing import Any

import click

from native.errors import StackError

WORKERS = "celery_workers"
# The groups on whose hosts something of ours runs.
GROUPS = ("redis", "postgresql", WORKERS, "celery_beat", "flower", "exporter")
_KEY = "metabuilder.site"
# Of a command that could not be run: the host is away, or lets nobody become root.
NOT_RUN = 1
_MAX_WHY = 300
# What a person is asked for, by the option of ansible-playbook that takes a file with the answer.
_PASSWORDS = {
    "vault-password-file": "Password of the vault: ",
    "become-password-file": "Password of sudo on the hosts: ",
}


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
            done = self._play(given, self._passwords(Path(folder)))
        try:
            plays = json.loads(done.stdout)["plays"]
        except (ValueError, KeyError):
            raise StackError(f"Ansible fails: {(done.stderr or done.stdout).strip()}") from None
        seen = {
            host: _answer(host, result)
            for play in plays
            for task in play["tasks"]
            for host, result in task["hosts"].items()
        }
        return [seen.get(host) or Answer(host, NOT_RUN, "", "Ansible said nothing of this host") for host in hosts]

    def _passwords(self, folder: Path) -> list[str]:
        """The options that name files with the passwords that are asked for, once for all runs of Ansible."""
        options: list[str] = []
        for option in self.asks:
            file = folder / option
            file.write_text(_password(_PASSWORDS[option]))
            options += [f"--{option}", str(file)]
        return options

    def _play(self, given: Path, options: list[str]) -> "subprocess.CompletedProcess[str]":
        from native.state import ROOT

        command = [sys.executable, "-m", "ansible", "playbook", *options, "--extra-vars", f"run_file={given}"]
        command += [part for inventory in self.inventories for part in ("--inventory", inventory)]
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.json",
            # The hosts' journals are not to say what the command was given.
            "ANSIBLE_NO_TARGET_SYSLOG": "true",
            "ANSIBLE_NOCOLOR": "true",
        }
        command.append(str(ROOT / "playbooks/run.yml"))
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def _answer(host: str, result: dict[str, Any]) -> Answer:
    if "delta" in result:  # how long the command ran
        return Answer(host, int(result["rc"]), result["stdout"], result.get("stderr", ""))
    why = " ".join(str(result.get("msg", "")).split()) or "Ansible does not say why"
    if "cmd" in result:  # the program could not be started; `rc` is the number of the error
        why = f"{shlex.split(result['cmd'])[0]}: {os.strerror(result['rc'])}"
    is_away = bool(result.get("unreachable"))
    what = "cannot be reached" if is_away else "cannot be asked"
    return Answer(host, NOT_RUN, "", f"{what}: {why[-_MAX_WHY:]}", is_away)


def here() -> Site | None:
    """The site that the verb is about, None without -i."""
    found = click.get_current_context().find_root().meta.get(_KEY)
    return found if isinstance(found, Site) else None


def remember(context: click.Context, site: Site) -> None:
    """Make it the site that the verb is about."""
    context.meta[_KEY] = site
