"""Ends processes of the tests with all that they started."""

import contextlib
import subprocess

import psutil


def kill_tree(started: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
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
