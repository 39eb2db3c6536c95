"""The rules on messages that are known to be spam or ham; `./manage.sh bench spam` prints the figures."""

import pytest

from benchmarks.support.labelled import half, measure


@pytest.mark.parametrize(("name", "precision", "recall"), [("tune", 1.0, 0.9), ("held_out", 0.95, 0.75)])
def test_precision_and_recall(name: str, precision: float, recall: float) -> None:
    figures = measure(half(name))
    assert figures.spam >= 30
    assert figures.ham >= 29
    assert figures.precision >= precision, figures.wrong
    assert figures.recall >= recall, figures.missed
