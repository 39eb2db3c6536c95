"""Shells complete the verbs with the scripts that `completion` prints: each script in its real shell."""

import os
import pty
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from manage import cli
from native.state import ROOT
from tests.conftest import unavailable

# What is typed before the key, and what the line is then.
COMPLETED = {
    "queue:fl": "queue:flush",
    "queue:list per": "queue:list periodic",
    "account rem": "account remove",
    "queue:list sync --lim": "queue:list sync --limit",
}


class Shell(NamedTuple):
    """How a shell is started without anybody's settings, and reads a script."""

    command: tuple[str, ...]
    read: str


SHELLS = {
    "bash": Shell(("bash", "--norc", "--noprofile", "-i"), "source {}"),
    "zsh": Shell(("zsh", "-f", "-i"), "autoload -Uz compinit; compinit -u -D; source {}"),
    "fish": Shell(("fish", "--no-config"), "source {}"),
}
_BEGINNING_OF_LINE = "\x01"


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_completes(name: str, tmp_path: Path) -> None:
    if not shutil.which(name):
        unavailable(f"{name} is not installed")
    script = tmp_path / "script"
    script.write_text(CliRunner().invoke(cli.main, ["completion", name]).stdout)
    shell = SHELLS[name]
    lines = [
        shell.read.format(script),
        *(f"./manage.sh {typed}\t{_BEGINNING_OF_LINE}echo IS " for typed in COMPLETED),
    ]
    seen = typed_into(shell.command, [*lines, "exit"])
    missing = [line for line in COMPLETED.values() if f"IS ./manage.sh {line}\r\n" not in seen]
    assert not missing, seen


def typed_into(command: tuple[str, ...], lines: list[str]) -> str:
    """What a terminal shows when these lines are typed into a shell."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm", "HISTFILE": "/dev/null"})
    seen = b""
    try:
        signal.alarm(60)
        for line in lines:
            os.write(terminal, f"{line}\n".encode())
        while data := os.read(terminal, 65_536):
            seen += data
    except OSError:  # EIO: the shell has ended
        pass
    finally:
        signal.alarm(0)
        os.close(terminal)
        os.waitpid(pid, 0)
    return seen.decode(errors="replace")
