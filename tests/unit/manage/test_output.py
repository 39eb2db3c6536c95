"""Numbers and tables for people."""

import pytest
from rich.cells import cell_len

from manage.output import duration, size, table


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_340_000, "2.3 MB"), (5 * 10**12, "5000.0 GB")],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "00:00:00"), (3661, "01:01:01"), (2 * 86_400 + 5, "2 d 00:00:05")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_square_brackets_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    table(("folder", "n"), [("[Gmail]/All [bold]Mail", "1")])
    assert "[Gmail]/All [bold]Mail" in capsys.readouterr().out


def test_columns_stay_aligned_whatever_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("INBOX", "日本語", "Entwürfe", "e\u0301te\u0301", "Входящие", "a\x1b[2J\u202e\n\tb", "한국어 ｆｕｌｌ")
    table(("folder", "n"), [(name, "|") for name in names])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.rstrip().endswith("|")]
    assert len(lines) == len(names)
    assert len({cell_len(line[: line.index("|")]) for line in lines}) == 1
