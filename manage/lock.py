"""`lock`: the three files of locked requirements, from the lists in pyproject.toml."""

import subprocess
import sys

import click

from manage.output import say

# Each file is constrained by the one before, so that hosts, native stack and tests never run different versions.
_FILES = (
    ("requirements.txt", ()),
    ("requirements-native.txt", ("native",)),
    ("requirements-dev.txt", ("native", "dev")),
)


@click.command()
@click.option("--upgrade", is_flag=True, help="Take the newest versions instead of keeping the locked ones.")
def lock(upgrade: bool) -> None:
    """Lock the requirements again after a change of pyproject.toml."""
    from native.errors import StackError
    from native.state import ROOT

    former: str | None = None
    for name, extras in _FILES:
        say(f"Locking {name} …")
        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet", "-o", name]
        command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header"]
        command += [part for extra in extras for part in ("--extra", extra)]
        command += ["-c", former] if former else []
        command += ["--upgrade"] if upgrade else []
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise StackError(f"uv could not lock {name}: see above")
        former = name
