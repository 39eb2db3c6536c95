"""The command line: python -m tests.support.hosts --help."""

import os

import click

from tests.support.hosts import __doc__ as about
from tests.support.hosts import faults
from tests.support.hosts.machine import HostsError, missing
from tests.support.hosts.network import Network, names


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except HostsError as error:
            raise click.ClickException(str(error)) from error


# \b: the examples keep their lines.
@click.group(cls=_Group, help=about and about.replace("\n\n    ", "\n\n\b\n    "))
def main() -> None:
    pass


@main.command()
@click.argument("name")
@click.option("--host", "hosts", multiple=True, required=True, metavar="HOST:RELEASE", help="bookworm or trixie.")
@click.option("--network", metavar="10.X.Y.0/24", help="By default one that is free.")
@click.option("--replace", is_flag=True, help="Take down what is left of a network of this name first.")
def up(name: str, hosts: tuple[str, ...], network: str | None, replace: bool) -> None:
    """Make a network and boot its hosts; print the inventory file that reaches them."""
    made = Network(name)
    if replace:
        made.down()
    made.up([(host, release or "bookworm") for host, _, release in (text.partition(":") for text in hosts)], network)
    click.echo(made.inventory)


@main.command()
@click.argument("name")
def down(name: str) -> None:
    """Remove a network and its hosts, and whatever is left of them."""
    Network(name).down()


@main.command(name="list")
def list_() -> None:
    """Networks, hosts and addresses."""
    for name in names():
        network = Network(name)
        for host in network.hosts:
            state = "running" if network.container(host.name).is_running() else "off"
            click.echo(f"{name}  {host.name}  {host.address}  {host.release}  {state}")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, host: str, command: tuple[str, ...]) -> None:
    """Log in to a host, or run a command there."""
    os.execlp("ssh", "ssh", "-F", str(Network(name).ssh_config), host, *command)


@main.command()
@click.argument("name")
@click.argument("hosts", nargs=-1, required=True)
def reboot(name: str, hosts: tuple[str, ...]) -> None:
    """Reboot hosts and wait until they are back."""
    Network(name).reboot(*hosts)


@main.command()
@click.argument("name")
@click.argument("host")
def kill(name: str, host: str) -> None:
    """Cut a host's power."""
    Network(name).container(host).kill()


@main.command()
@click.argument("name")
@click.argument("host")
def start(name: str, host: str) -> None:
    """Boot a host whose power was cut."""
    Network(name).container(host).start()
    Network(name).wait(host)


@main.command()
@click.argument("name")
@click.argument("one")
@click.argument("other")
def partition(name: str, one: str, other: str) -> None:
    """Drop every packet between two hosts."""
    faults.partition(Network(name), one, other)


@main.command()
@click.argument("name")
def heal(name: str) -> None:
    """End all partitions of a network."""
    faults.heal(Network(name))


@main.command()
def check() -> None:
    """Say what keeps this machine from having test hosts."""
    if wanting := missing():
        raise click.ClickException("; ".join(wanting))


if __name__ == "__main__":
    main(prog_name="python -m tests.support.hosts")
