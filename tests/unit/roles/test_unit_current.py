"""When a unit has to be restarted, beside what its files say."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.roles import plugins

unit_current = plugins.load("site/library/unit_current.py")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A shared library of its own, as a package has installed it."""
    (found,) = subprocess.run(
        [sys.executable, "-c", "import _ctypes; print(_ctypes.__file__)"], capture_output=True, text=True, check=True
    ).stdout.split()
    return Path(shutil.copy(found, tmp_path / "libsample.so.1"))


@pytest.fixture
def user(library: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the library in memory."""
    code = f"import ctypes; ctypes.CDLL({str(library)!r}); print('loaded', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
        yield process
        process.communicate("\n")


def test_a_library_that_a_package_replaced_is_a_reason(library: Path, user: subprocess.Popen[str]) -> None:
    below = (f"{library.parent}/",)
    assert unit_current.replaced([user.pid], below) == []

    # As dpkg does: the new file under another name, then renamed over the old one.
    fresh = library.with_suffix(".dpkg-new")
    shutil.copy(library, fresh)
    fresh.replace(library)

    assert unit_current.replaced([os.getpid(), user.pid], below) == [f"{library} was replaced"]
    assert unit_current.replaced([user.pid]) == [], "no package has files there"


def test_a_process_that_has_ended_is_none() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert unit_current.replaced([ended.pid]) == []


def test_a_unit_without_processes_has_none() -> None:
    assert unit_current.processes({"MainPID": "7", "ControlGroup": "/no/such.service"}) == {7}
    assert unit_current.processes({"MainPID": "0", "ControlGroup": ""}) == set()
