"""The end of the logs, and what follows."""

import io
from pathlib import Path

from native.logs import _Tail, show


def test_the_last_lines_of_each_with_the_name_in_front(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("1\n2\n3\n")
    (tmp_path / "beat.log").write_text("tick\n")
    out = io.StringIO()
    show(tmp_path, ["worker", "beat", "redis"], lines=2, follow=False, out=out)
    assert out.getvalue() == "worker | 2\nworker | 3\nbeat   | tick\n"


def test_one_log_has_no_name_in_front(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_bytes(b"caf\xe9\n")
    out = io.StringIO()
    show(tmp_path, ["worker"], lines=5, follow=False, out=out)
    assert out.getvalue() == "caf\ufffd\n"


def test_new_lines_are_printed_when_they_are_whole(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("old\n")
    out = io.StringIO()
    tail = _Tail(log, "")
    tail.print_end(0, out)
    with log.open("a") as file:
        file.write("new\nhal")
        file.flush()
        assert tail.print_new(out)
        assert not tail.print_new(out)
        file.write("f\n")
    assert tail.print_new(out)
    assert out.getvalue() == "new\nhalf\n"


def test_a_rotated_log_is_followed_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("a long line before the rotation\n")
    out = io.StringIO()
    tail = _Tail(log, "")
    tail.print_end(0, out)
    log.rename(tmp_path / "worker.log.1")
    assert not tail.print_new(out)
    log.write_text("after\n")
    tail.print_new(out)
    assert out.getvalue() == "after\n"
