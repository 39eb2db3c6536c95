"""Numbers and tables for people."""

import pytest

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
