"""`lock`: makes the three files of locked requirements from the lists in pyproject.toml, and finds newer versions."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from manage.examples import example
from manage.output import print_json, say, table

# Each file is constrained by the one before, so that hosts, native stack and tests never run different versions.
_FILES = (
    ("requirements.txt", ()),
    ("requirements-native.txt", ("native",)),
    ("requirements-dev.txt", ("native", "dev")),
)
# What a package is for, by the first of these files that lists it. Hosts install the packages for runtime.
_KINDS = {"requirements.txt": "runtime", "requirements-native.txt": "native", "requirements-dev.txt": "dev"}
_LOCKED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
# The command that locks for all supported versions of Python at once.
_COMPILE = (
    *(sys.executable, "-m", "uv", "pip", "compile", "--quiet"),
    *("--universal", "--python-version", "3.11", "--no-annotate", "--no-header"),
)


class Outdated(NamedTuple):
    """A locked package with a newer version on the index; `kind`
    says what the package is for: runtime, native or dev."""

    name: str
    locked: str
    newest: str
    kind: str


@example("lock", "lock --outdated --json")
@click.command()
@click.option("--upgrade", is_flag=True, help="Take the newest versions instead of keeping the locked ones.")
@click.option("--upgrade-package", "packages", multiple=True, metavar="NAME", help="The same for this one alone.")
@click.option("--outdated", is_flag=True, help="Change nothing: list the packages that have newer versions.")
@click.option("--json", "as_json", is_flag=True, help="With --outdated: for machines.")
def lock(upgrade: bool, packages: tuple[str, ...], outdated: bool, as_json: bool) -> None:
    """Lock the requirements again after a change of pyproject.toml, or look for newer versions."""
    from native.state import ROOT

    if outdated and (upgrade or packages):
        raise click.UsageError("--outdated changes nothing: give it without --upgrade and --upgrade-package.")
    if as_json and not outdated:
        raise click.UsageError("--json goes with --outdated.")
    if outdated:
        _show(find_outdated(ROOT), as_json)
    else:
        _lock(ROOT, ["--upgrade"] * upgrade + [f"--upgrade-package={name}" for name in packages])


def find_outdated(root: Path) -> list[Outdated]:
    """Compare the lock files of `root` with the newest releases of their packages on the package index.

    A newest release must run on every supported Python; the other packages need not allow it. Pre-releases do not
    count. Raises StackError where the index does not answer.
    """
    kinds: dict[str, str] = {}
    locked: dict[str, list[str]] = {}
    for file, _ in _FILES:
        for name, versions in _versions((root / file).read_text()).items():
            kinds.setdefault(name, _KINDS[file])
            locked[name] = versions
    newest = _versions(_newest(root, list(locked)))
    return [
        Outdated(name, ", ".join(locked[name]), ", ".join(newest[name]), kinds[name])
        for name in sorted(locked, key=lambda name: (list(_KINDS.values()).index(kinds[name]), name))
        if _is_newer(newest[name], locked[name])
    ]


def _lock(root: Path, upgrades: Sequence[str]) -> None:
    from native.errors import StackError

    former: str | None = None
    for name, extras in _FILES:
        say(f"Locking {name} …")
        command = [*_COMPILE, "pyproject.toml", "--generate-hashes", "-o", name]
        command += [part for extra in extras for part in ("--extra", extra)]
        command += ["-c", former] if former else []
        command += upgrades
        if subprocess.run(command, cwd=root, check=False).returncode:
            raise StackError(f"uv could not lock {name}: see above")
        former = name


def _versions(requirements: str) -> dict[str, list[str]]:
    """The locked versions of each package, ascending.

    There are several where they depend on the version of Python.
    """
    from packaging.version import Version

    found: dict[str, list[str]] = {}
    for name, version in _LOCKED.findall(requirements):
        found.setdefault(name, []).append(version)
    return {name: sorted(set(versions), key=Version) for name, versions in found.items()}


def _newest(root: Path, names: Sequence[str]) -> str:
    """The newest version of each package, as the text of a requirements file."""
    from native.errors import StackError

    # Without dependencies, so that no package holds another one back.
    command = [*_COMPILE, "--no-deps", "-"]
    asked = subprocess.run(command, cwd=root, input="\n".join(names), capture_output=True, text=True, check=False)
    if asked.returncode:
        why = " ".join(line.strip().removeprefix("error: ") for line in asked.stderr.strip().splitlines()[:2])
        raise StackError(
            f"the package index could not be asked what is new ({why}): look at the network, or at the index that "
            "uv is configured with, and try again"
        )
    return asked.stdout


def _is_newer(newest: Sequence[str], locked: Sequence[str]) -> bool:
    from packaging.version import Version

    # If both lists have as many versions, old and new Pythons are compared separately; else only the newest Python's.
    pairs = zip(newest, locked, strict=True) if len(newest) == len(locked) else [(newest[-1], locked[-1])]
    return any(Version(new) > Version(old) for new, old in pairs)


def _show(found: Sequence[Outdated], as_json: bool) -> None:
    if as_json:
        print_json([package._asdict() for package in found])
        return
    if not found:
        say("No package has a newer version than the locked one")
        return
    table(Outdated._fields, found)
    say("./manage.sh lock --upgrade takes the newest versions that the requirements allow")
    say("How they reach the hosts: docs/operations.md")
