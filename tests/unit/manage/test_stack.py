"""What `ps` says of the programs of the native stack."""

import subprocess
import sys

from manage.stack import _memory

MB = 1 << 20
# A process and its child that share so many MB, until standard input ends.
_SHARING = """
import os, sys
held = b"x" * (64 << 20)
if os.fork():
    print("ready", flush=True)
sys.stdin.read()
"""


def test_memory_that_processes_share_is_counted_once() -> None:
    with subprocess.Popen([sys.executable, "-c", _SHARING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        found = _memory(process.pid)
        process.communicate()
    assert 64 * MB <= found < 120 * MB
    assert _memory(process.pid) == 0
