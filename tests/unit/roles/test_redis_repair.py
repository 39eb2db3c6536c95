"""What a power cut does to the end of Redis's append-only file is mended before a start; nothing else is touched."""

import errno
from pathlib import Path

import pytest

from tests.unit.roles.plugins import load

repair = load("redis/files/redis_repair.py")

BASE, INCR = "appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof"
MANIFEST = f"file {BASE} seq 2 type b\nfile {INCR} seq 2 type i\n"
SET = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of an instance whose last file holds two commands."""
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / repair.MANIFEST).write_text(MANIFEST)
    (folder / BASE).write_bytes(b"REDIS0011\0\0")
    (folder / INCR).write_bytes(2 * SET)
    return tmp_path


def append(home: Path, content: bytes) -> bytes:
    """What the last file of the instance holds after that was written to its end."""
    with (home / "appendonlydir" / INCR).open("ab") as file:
        file.write(content)
    return (home / "appendonlydir" / INCR).read_bytes()


@pytest.mark.parametrize("torn", [b"", b"*3\r\n$5\r\nLPUSH\r\n$3\r\nab"], ids=["whole", "torn"])
@pytest.mark.parametrize("zeros", [1, 4095, 65536, 200_001])
def test_nul_bytes_at_the_end_are_cut_off_and_kept(
    home: Path, capsys: pytest.CaptureFixture[str], zeros: int, torn: bytes
) -> None:
    damaged = append(home, torn + zeros * b"\0")

    repair.mend_tail(home)

    assert (home / "appendonlydir" / INCR).read_bytes() == 2 * SET + torn  # Redis leaves the torn command out
    (copy,) = home.glob(f"damaged-*/{INCR}")
    assert copy.read_bytes() == damaged
    said = capsys.readouterr().err
    assert said.startswith("<2>")
    assert f"{zeros} NUL bytes" in said
    assert str(copy) in said


@pytest.mark.parametrize(
    "content",
    [b"", b"*3\r\n$5\r\nLPUSH\r\n$3\r\nab", b"garbage" + SET, 4096 * b"\0" + SET],
    ids=["whole", "torn", "garbage in the middle", "NUL bytes in the middle"],
)
def test_what_does_not_end_in_nul_bytes_is_left_alone(
    home: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    before = append(home, content)

    repair.mend_tail(home)

    assert (home / "appendonlydir" / INCR).read_bytes() == before
    assert list(home.glob("damaged-*")) == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "manifest", ["", "file appendonly.aof.2.ba", MANIFEST + 80 * "\0", f"file {BASE} seq 2 type b\n"]
)
def test_a_manifest_that_says_nothing_of_it_leaves_all_as_it_is(home: Path, manifest: str) -> None:
    before = append(home, 10 * b"\0")
    (home / "appendonlydir" / repair.MANIFEST).write_text(manifest)

    repair.mend_tail(home)

    assert (home / "appendonlydir" / INCR).read_bytes() == before


def test_redis_does_not_begin_anew_beside_data_without_a_manifest(home: Path) -> None:
    folder = home / "appendonlydir"
    (folder / repair.MANIFEST).unlink()
    with pytest.raises(SystemExit, match=r"is gone, .*metabuilder-redis-repair"):
        repair.mend_tail(home)

    # Nothing was written yet
    (folder / INCR).write_bytes(b"")
    repair.mend_tail(home)


def test_a_copy_that_finds_no_room_leaves_nothing_behind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(source: Path, copy: Path) -> None:
        copy.write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = append(home, 10 * b"\0")
    monkeypatch.setattr(repair.shutil, "copy2", fill)
    with pytest.raises(OSError, match="No space"):
        repair.mend_tail(home)
    assert (home / "appendonlydir" / INCR).read_bytes() == before
    assert list(home.glob("damaged-*")) == []


def test_unfinished_rewrites_of_a_redis_that_is_gone_are_removed(home: Path) -> None:
    for name in ("temp-rewriteaof-bg-77.aof", "temp-rewriteaof-77.aof", "temp-77.rdb", "dump.rdb"):
        (home / name).touch()

    repair.mend_tail(home)

    assert sorted(path.name for path in home.iterdir()) == ["appendonlydir", "dump.rdb"]


def test_a_damaged_manifest_is_made_anew_where_the_files_leave_no_doubt(home: Path) -> None:
    folder = home / "appendonlydir"
    (folder / "appendonly.aof.10.incr.aof").touch()
    (folder / repair.MANIFEST).write_text(3 * "\0")
    assert repair.parts(folder) is None

    repair.remake_manifest(folder)

    assert [path.name for path in repair.parts(folder)] == [BASE, INCR, "appendonly.aof.10.incr.aof"]

    (folder / "appendonly.aof.3.base.rdb").touch()
    (folder / repair.MANIFEST).write_text("")
    with pytest.raises(SystemExit, match="cannot be told"):
        repair.remake_manifest(folder)
