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


class Module:
    """What Ansible gives to the module: it notes each command and runs none."""

    def __init__(self, *, check_mode: bool = False, mark: str | None = None) -> None:
        self.check_mode = check_mode
        self.params = {"name": "sample.service", "reads": [], "reloads": [], "needs": "restart", "mark": mark}
        self.commands: list[list[str]] = []

    def run_command(self, command: list[str], **_: object) -> tuple[int, str, str]:
        self.commands.append(command)
        return 0, "", ""


RUNNING = {
    **dict.fromkeys(unit_current.PROPERTIES, ""),
    "ActiveState": "active",
    "MainPID": "0",
    "ExecMainStartTimestamp": "Fri 2026-11-27 09:00:00.000000 UTC",
}


@pytest.mark.parametrize("check_mode", [True, False])
def test_what_a_unit_is_known_to_need_is_announced_in_check_mode_and_else_done(check_mode: bool) -> None:
    module = Module(check_mode=check_mode)
    unit = unit_current.Unit(module)

    because = unit_current.bring_up(unit, RUNNING, module.params)

    assert unit.told(because)["prepared"].startswith("systemctl restart sample.service: ")
    assert module.commands == ([] if check_mode else [["systemctl", "restart", "sample.service"]])


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_unit_that_is_about_to_start_is_marked_first(check_mode: bool, tmp_path: Path) -> None:
    mark = tmp_path / "sample.unproved"

    class Looks(Module):
        def run_command(self, command: list[str], **_: object) -> tuple[int, str, str]:
            assert command[1] == "reset-failed" or mark.exists(), command
            return super().run_command(command)

    module = Looks(check_mode=check_mode, mark=str(mark))
    unit_current.bring_up(unit_current.Unit(module), {**RUNNING, "ActiveState": "inactive"}, module.params)
    assert mark.exists() is not check_mode


def test_a_unit_that_is_enabled_or_reloaded_is_not_marked(tmp_path: Path) -> None:
    module = Module(mark=str(tmp_path / "sample.unproved"))
    module.params["needs"] = "reload"
    unit = unit_current.Unit(module)
    unit.act("enable", "sample.service")
    unit_current.bring_up(unit, RUNNING, module.params)
    assert unit.done == ["enable", "reload"]
    assert not (tmp_path / "sample.unproved").exists()
