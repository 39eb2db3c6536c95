"""How well the spam rules tell spam from ham, and what they cost; SpamAssassin on the same messages in the same run.

Three sets: the half of the labelled messages that weights were chosen on, the half that was only ever counted, and
messages that Debian packages bring. Run with spamd installed, and python3-flufl.bounce for the third.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich.console import Console
from rich.table import Table

from benchmarks.support.engines import Spamd
from benchmarks.support.labelled import RECIPIENT, Figures, from_debian, half, measure
from benchmarks.support.mailbox import build
from native.errors import StackError
from tasks.mail.parse.message import parse
from tasks.mail.spam import judge
from tasks.mail.spam.engines import ask_spamd

_TIMEOUT = 60.0


@click.command()
@click.option("--messages", default=1000, show_default=True, help="Ordinary messages to time the rules with.")
@click.option("--repeat", default=5, show_default=True, help="Times; the best counts.")
def main(messages: int, repeat: int) -> None:
    """Precision, recall and cost of the spam rules."""
    console = Console()
    sets = {"tune": half("tune"), "held out": half("held_out"), "Debian packages": from_debian()}
    table = Table("set", "engine", "spam", "ham", "precision", "recall", "false alarms", "missed")
    with TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        spamd = _start(Path(folder), console)
        for name, labelled in sets.items():
            _row(table, name, "rules", measure(labelled))
            if spamd:
                _row(table, name, "spamd -L", measure(labelled, partial(_ask_all, pool, spamd)))
        if spamd:
            spamd.stop()
    console.print(table)
    console.print(f"rules: {_microseconds(messages, repeat):.0f} µs of CPU for an ordinary message, once parsed")


def _start(folder: Path, console: Console) -> Spamd | None:
    spamd = Spamd(folder)
    try:
        spamd.start()
    except StackError as error:
        console.print(f"Without SpamAssassin: {error}")
        return None
    return spamd


def _ask_all(pool: ThreadPoolExecutor, spamd: Spamd, raws: list[bytes]) -> list[float]:
    opinions = pool.map(lambda raw: ask_spamd(raw, spamd.host, spamd.port, _TIMEOUT), raws)
    return [opinion.score or 0.0 for opinion in opinions]


def _row(table: Table, name: str, engine: str, figures: Figures) -> None:
    shares = (f"{figures.precision:.3f}", f"{figures.recall:.3f}") if figures.spam else ("–", "–")
    counts = (str(len(figures.wrong)), str(len(figures.missed)))
    table.add_row(name, engine, str(figures.spam), str(figures.ham), *shares, *counts)


def _microseconds(messages: int, repeat: int) -> float:
    with TemporaryDirectory() as folder:
        build(Path(folder), messages)
        parsed = [parse(path.read_bytes()) for path in Path(folder, "cur").iterdir()]
    best = float("inf")
    for _ in range(repeat):
        started = time.process_time()
        for message in parsed:
            judge(message, RECIPIENT)
        best = min(best, time.process_time() - started)
    return best / messages * 1e6


if __name__ == "__main__":
    main()
