"""Prometheus and its exporters, out of Debian's packages."""

import json
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from native.errors import StackError
from native.ports import LOOPBACK, answers, free_port
from native.process import Server
from tests.support.debian import unpacked

_PROGRAMS = (
    "prometheus",
    "prometheus-alertmanager",
    "prometheus-node-exporter",
    "prometheus-postgres-exporter",
    "prometheus-redis-exporter",
)

# Alertmanager looks for its template in /usr/share, which is that of its package for this process alone.
WITH_SHARE = ("unshare", "--mount", "--map-root-user", "sh", "-c", 'mount --bind "$0" /usr/share && exec "$@"')


def program(name: str) -> str:
    """The path of a program of these packages. Raises StackError where they cannot be had."""
    found = unpacked(_PROGRAMS, ()) / "usr/bin" / name
    if not found.exists():
        raise StackError(f"{name} is in none of the packages {', '.join(_PROGRAMS)} of this Debian")
    return str(found)


class DebiansServer(Server):
    """An exporter of Debian's on a port of its own."""

    def __init__(self, root: Path, name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(root)
        self.name, self.port = name, free_port()
        self.log = root / f"{name}.log"
        self._arguments, self._more = arguments, environment or {}

    def command(self) -> list[str]:
        return [program(self.name), *self._arguments, f"--web.listen-address={LOOPBACK}:{self.port}"]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self._more}

    def is_ready(self) -> bool:
        return answers(self.port)


class Alertmanager(DebiansServer):
    """An Alertmanager of Debian's with the configuration in `root`."""

    def __init__(self, root: Path) -> None:
        files = (f"--config.file={root / 'alertmanager.yml'}", f"--storage.path={root / 'alertmanager'}")
        super().__init__(root, "prometheus-alertmanager", *files, "--cluster.listen-address=")

    def command(self) -> list[str]:
        return [*WITH_SHARE, str(unpacked(_PROGRAMS, ()) / "usr/share"), *super().command()]


class Prometheus(Server):
    """A Prometheus that scrapes these jobs every second, with rules, a console, and the port of an Alertmanager."""

    name = "prometheus"

    def __init__(
        self, root: Path, jobs: Sequence[Mapping[str, Any]], rules: Path, console: Path, alertmanager: int
    ) -> None:
        super().__init__(root)
        self.port = free_port()
        consoles = root / "consoles"
        consoles.mkdir(parents=True)
        (consoles / "metabuilder.html").write_text(console.read_text())
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [dict(job) for job in jobs],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [f"{LOOPBACK}:{alertmanager}"]}]}],
            },
        }
        (root / "prometheus.yml").write_text(yaml.safe_dump(configuration))

    def command(self) -> list[str]:
        return [
            program(self.name),
            f"--config.file={self.root / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.root / 'data'}",
            f"--web.console.templates={self.root / 'consoles'}",
            f"--web.console.libraries={self.root / 'consoles'}",
            f"--web.listen-address={LOOPBACK}:{self.port}",
        ]

    def is_ready(self) -> bool:
        try:
            return self.get("/-/ready")[0] == 200
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, str]:
        """The status and the body of a page. Raises OSError, urllib.error.HTTPError among them."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()

    def ask(self, path: str, **parameters: str) -> Any:
        """What its API answers."""
        return json.loads(self.get(f"/api/v1/{path}?{urlencode(parameters)}")[1])["data"]
