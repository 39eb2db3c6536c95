"""`bench NAME`: one of the benchmarks."""

import os
import sys

import click


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(name: str | None, arguments: tuple[str, ...]) -> None:
    """Run a benchmark: bench NAME [its options]. Without a name, list them."""
    from native.state import ROOT

    found = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")}
    if name is None or name in ("-h", "--help"):
        click.echo("Benchmarks: " + (", ".join(sorted(found)) or "none") + "\nOptions of one: bench NAME --help")
        return
    if name not in found:
        raise click.UsageError(f"no benchmark {name!r}; there are: {', '.join(sorted(found)) or 'none'}")
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", f"benchmarks.{name}", *arguments])  # noqa: S606 - no shell is wanted
