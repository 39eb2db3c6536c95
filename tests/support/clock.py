"""A clock of processes that a test sets, ahead or back, before they start and while they run (libfaketime)."""

from pathlib import Path

from tests.conftest import unavailable

_FOLDERS = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime")
# Where monotonic time is left alone, the clock_nanosleep() of libfaketime 0.9.10 always fails (EINVAL): Python's
# time.sleep() has to do without.
_SLEEP = """
import select, time
time.sleep = lambda seconds: select.select((), (), (), seconds) and None
"""


class Clock:
    """Of whatever runs with its `environment`: right until it is `set`. time.monotonic() stays what it is."""

    def __init__(self, folder: Path) -> None:
        found = [path for name in _FOLDERS if (path := Path(name) / "libfaketime.so.1").exists()]
        if not found:
            unavailable("faketime is not installed: apt-get install faketime")
        self._file = folder / "clock"
        self.set(0)
        of_python = folder / "python"
        of_python.mkdir()
        (of_python / "sitecustomize.py").write_text(_SLEEP)
        self.environment = {
            "PYTHONPATH": str(of_python),
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """So many seconds ahead of this machine's clock, or behind."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}s\n")
        new.rename(self._file)  # nobody reads half a line
