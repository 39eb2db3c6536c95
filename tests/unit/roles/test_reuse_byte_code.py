"""A release takes byte code over from the one before, as far as files are the same."""

import compileall
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from tests.unit.roles.plugins import load

reuse = load("application/files/reuse_byte_code.py").reuse

_BUILT = 1_600_000_000  # as packages are that can be reproduced: all files of all versions have one time


def release(folder: Path, **modules: str) -> Path:
    (folder / "package").mkdir(parents=True)
    for name, code in modules.items():
        path = folder / "package" / f"{name}.py"
        path.write_text(code)
        os.utime(path, (_BUILT, _BUILT))
    return folder


def compile_all(folder: Path) -> None:
    compileall.compile_dir(folder, quiet=1)


def byte_code(folder: Path, name: str) -> bytes:
    path = Path(cache_from_source(folder / "package" / f"{name}.py"))
    return path.read_bytes() if path.exists() else b""


def test_only_the_byte_code_of_files_that_are_the_same_is_taken(tmp_path: Path) -> None:
    old = release(tmp_path / "old", same="x = 1", changed="x = 1", removed="x = 1", later="x = 1")
    compile_all(old)
    new = release(tmp_path / "new", same="x = 1", changed="x = 2", added="x = 1", later="x = 1")
    os.utime(new / "package/later.py", (_BUILT + 60, _BUILT + 60))  # as where the code was copied anew

    assert reuse(old, new) == 2

    assert byte_code(new, "same") == byte_code(old, "same") != b""
    assert [byte_code(new, name) for name in ("changed", "added", "removed")] == [b"", b"", b""]
    # Nor does the compiler make anew what was taken, or leave out what was not
    taken = {name: byte_code(new, name) for name in ("same", "later")}
    compile_all(new)
    assert {name: byte_code(new, name) for name in taken} == taken
    assert b"" not in [byte_code(new, name) for name in ("changed", "added")]
    shown = subprocess.run(
        [sys.executable, "-c", "from package import changed, same; print(same.x, changed.x)"],
        cwd=new,
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout == "1 2\n"


@pytest.mark.parametrize("content", [lambda whole: whole[:40], lambda whole: whole[:16] + bytes(len(whole))])
def test_damaged_byte_code_is_made_anew(tmp_path: Path, content: Callable[[bytes], bytes]) -> None:
    old, new = (release(tmp_path / name, module="x = 1") for name in ("old", "new"))
    compile_all(old)
    damaged = Path(cache_from_source(old / "package/module.py"))
    damaged.write_bytes(content(damaged.read_bytes()))
    assert reuse(old, new) == 0
    (old / "package/module.py").unlink()
    assert reuse(old, new) == 0


def test_byte_code_that_came_with_the_release_stays(tmp_path: Path) -> None:
    old, new = (release(tmp_path / name, module="x = 1") for name in ("old", "new"))
    compile_all(old)
    compile_all(new)
    before = byte_code(new, "module")
    assert reuse(old, new) == 0
    assert byte_code(new, "module") == before
