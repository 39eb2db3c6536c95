"""Ends processes of the tests with all that they started."""

import contextlib
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from tests.support.programs import Program


def kill_tree(started: "Program") -> None:
    """SIGKILL for a process and its descendants, also those with sessions of their own.

    Ansible's workers have such, and under Mitogen would wait for their killed play for ever.
    """
    if started.poll() is not None:
        return  # its number may be somebody else's by now
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(started.pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
