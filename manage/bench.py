"""`bench NAME`: one of the benchmarks."""

import os
import sys

import click

from manage.checks import how_to_install, install_missing
from manage.examples import example
from manage.output import say, tell_lines

# The Debian packages that a benchmark needs, and the packages of its
# peers, which are left out of the figures if they are not installed.
_NEEDED = dict.fromkeys(("sync", "send", "dispatch", "freshness", "tuning"), ("dovecot-imapd",))
_PEERS = {"sync": ("isync", "offlineimap3"), "spam": ("spamd",)}


@example("bench", "bench sync")
@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(name: str | None, arguments: tuple[str, ...]) -> None:
    """Run a benchmark: bench NAME [its options]. Without a name, list them."""
    from native.state import ROOT

    found = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")}
    if name is None or name in ("-h", "--help"):
        tell_lines("Benchmarks: " + (", ".join(sorted(found)) or "none") + "\nOptions of one: bench NAME --help")
        return
    if name not in found:
        raise click.UsageError(f"no benchmark {name!r}; there are: {', '.join(sorted(found)) or 'none'}")
    _require_packages(name)
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", f"benchmarks.{name}", *arguments])  # noqa: S606 - no shell is wanted


def _require_packages(name: str) -> None:
    """Install the packages that the benchmark needs, as `test` does.

    Raises StackError with the command where it cannot.
    """
    from native.errors import StackError

    needed, peers = _NEEDED.get(name, ()), _PEERS.get(name, ())
    missing = install_missing((*needed, *peers))
    if set(missing) & set(needed):
        raise StackError(f"{name} needs {' and '.join(set(missing) & set(needed))}. {how_to_install(missing)}")
    if missing:
        say(f"Measured without {' and '.join(missing)}. {how_to_install(missing)}")
