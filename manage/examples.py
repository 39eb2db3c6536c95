"""What the help of every verb ends with: an example, and the exit codes."""

from collections.abc import Callable
from typing import TypeVar

import click

from manage.place import COMMAND

CommandT = TypeVar("CommandT", bound=click.Command)

_FAILS = "it failed; a line on standard error says why and what to do"


def example(*lines: str, fails: str = _FAILS) -> Callable[[CommandT], CommandT]:
    """Adds examples, without the name of the program, to the help of a verb, and what its exit code 1 means."""

    def add(command: CommandT) -> CommandT:
        shown = "\n".join(f"  {COMMAND} {line}" for line in lines)
        codes = f"  0  it did what was asked\n  1  {fails}\n  2  the command line is wrong"
        command.epilog = f"\b\nExample:\n{shown}\n\n\b\nExit codes:\n{codes}"
        return command

    return add
