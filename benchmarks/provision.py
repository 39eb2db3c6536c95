"""From empty hosts to a running site: a bare shell script, site.yml for the first time and again; one host and five.

./manage.sh bench provision           as root; containers made for it, on this machine
./manage.sh bench provision --json    for machines
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from manage.secrets import generate
from native.state import ROOT
from tests.support.hosts.machine import HostsError
from tests.support.hosts.network import Network

_NAME = "provision"
# What the site installs on one host, by hand: the least that anything could do.
_SCRIPT = """\
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends redis-server postgresql python3-venv nftables
python3 -m venv /opt/bare
export PIP_CERT=/etc/ssl/certs/ca-certificates.crt
/opt/bare/bin/pip install --quiet --no-deps --require-hashes -r /root/requirements.txt
"""
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_TARGETS = {"first ÷ script": 2.5, "second, seconds": 15.0, "five hosts ÷ one": 2.0}

console = Console(stderr=True)


@dataclass(frozen=True)
class Result:
    """Seconds, medians of the rounds."""

    script_seconds: float
    first_seconds: float
    second_seconds: float
    five_hosts_seconds: float
    five_hosts_second_seconds: float

    @property
    def figures(self) -> dict[str, float]:
        """What there are targets for."""
        return {
            "first ÷ script": self.first_seconds / self.script_seconds,
            "second, seconds": self.second_seconds,
            "five hosts ÷ one": self.five_hosts_seconds / self.first_seconds,
        }


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True, help="Medians of how many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(rounds: int, as_json: bool) -> None:
    try:
        measured = [_measure() for _ in range(rounds)]
    except HostsError as error:
        raise click.ClickException(str(error)) from error
    finally:
        Network(_NAME).down()
    medians = [round(statistics.median(column), 1) for column in zip(*measured, strict=True)]
    result = Result(*medians)
    if as_json:
        click.echo(json.dumps(asdict(result), indent=2))
    else:
        _show(result)


def _measure() -> tuple[float, ...]:
    with _hosts(1) as network:
        console.print("a bare script on a fresh host …")
        for source, target in (
            (_AUTHORITIES, str(_AUTHORITIES)),
            (ROOT / "requirements.txt", "/root/requirements.txt"),
        ):
            (network.container("host1").root / target.lstrip("/")).write_bytes(source.read_bytes())
        script = _script(network)
    with _hosts(1) as network:
        console.print("site.yml on a fresh host, twice …")
        first, second = _site(network, 1), _site(network, 1)
    with _hosts(5) as network:
        console.print("site.yml on five fresh hosts, twice …")
        five, five_again = _site(network, 5), _site(network, 5)
    return script, first, second, five, five_again


def _script(network: Network) -> float:
    began = time.monotonic()
    done = network.ssh("host1", _SCRIPT, timeout=900)
    if done.returncode:
        raise HostsError(f"the bare script failed: {(done.stderr or done.stdout)[-2000:]}")
    return time.monotonic() - began


@contextmanager
def _hosts(count: int) -> Iterator[Network]:
    network = Network(_NAME)
    network.down()
    network.up([(f"host{number}", "bookworm") for number in range(1, count + 1)])
    try:
        yield network
    finally:
        network.down()


def _site(network: Network, count: int) -> float:
    """Seconds that site.yml takes: workers on all hosts, and on the first one everything else."""
    inventory = network.folder / "groups.json"
    if not inventory.exists():
        inventory.touch(mode=0o600)
        inventory.write_text(json.dumps(_groups(count)))
    ansible = Path(sys.executable).with_name("ansible-playbook")
    command = [str(ansible), f"--inventory={network.inventory}", f"--inventory={inventory}", "site.yml"]
    with tempfile.TemporaryFile("w+") as output:
        began = time.monotonic()
        play = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False)
        seconds = time.monotonic() - began
        if play.returncode:
            output.seek(0)
            raise HostsError(f"site.yml failed: {output.read()[-3000:]}")
    return seconds


def _groups(count: int) -> dict[str, object]:
    first: dict[str, object] = {"hosts": {"host1": {}}}
    return {
        "all": {"vars": generate()},
        "celery_workers": {"hosts": {f"host{number}": {} for number in range(1, count + 1)}},
        **dict.fromkeys(("redis", "postgresql", "celery_beat", "flower", "exporter"), first),
    }


def _show(result: Result) -> None:
    table = Table(title="From an empty Debian 12 host to a running site")
    for heading in ("", "1 host", "5 hosts"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("bare shell script", f"{result.script_seconds:.1f} s", "")
    table.add_row("first site.yml", f"{result.first_seconds:.1f} s", f"{result.five_hosts_seconds:.1f} s")
    table.add_row("second site.yml", f"{result.second_seconds:.1f} s", f"{result.five_hosts_second_seconds:.1f} s")
    Console().print(table)
    for name, value in result.figures.items():
        verdict = "met" if value <= _TARGETS[name] else "missed"
        Console().print(f"{name}: {value:.2f} (target: at most {_TARGETS[name]:g}, {verdict})")


if __name__ == "__main__":
    main()
