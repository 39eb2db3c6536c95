"""The exporter as a process of its own, and what it answers."""

import base64
import http.client
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from native.ports import LOOPBACK, free_port
from tasks.monitoring.exporter.metrics import METRICS
from tests.support.worker import wait_until

LOGIN = "admin:sample with : in it"
_ROOT = Path(__file__).parents[2]


class Exporter:
    """The process, and what it answers."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.port, self.process = port, process

    def get(self, path: str, login: str | None = LOGIN, method: str = "GET") -> tuple[int, str]:
        """The status and the text of a page."""
        answer, text = self.ask(path, login, method)
        return answer.status, text

    def ask(self, path: str, login: str | None = LOGIN, method: str = "GET") -> tuple[http.client.HTTPResponse, str]:
        """The answer, and the text of a page."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=30)
        headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer, text

    def is_up(self) -> bool:
        try:
            return self.get("/metrics", None)[0] == 401
        except OSError:
            return False

    def scrape(self) -> dict[tuple[str, ...], float]:
        """The values, by the name of the sample and the values of its labels in their order."""
        status, text = self.get("/metrics")
        assert status == 200
        found = {}
        for family in text_string_to_metric_families(text):
            name = family.name if family.name in METRICS else f"{family.name}_total"
            for sample in family.samples:
                labels = {label: value for label, value in sample.labels.items() if label != "le"}
                assert set(labels) == set(METRICS[name].labels), sample
                of = sample.name, *(labels[label] for label in METRICS[name].labels)
                key = (*of, sample.labels["le"]) if "le" in sample.labels else of
                assert key not in found, key
                found[key] = sample.value
        return found


@contextmanager
def running_exporter(environment: Callable[..., None]) -> Iterator[Exporter]:
    """An exporter with the environment of the test, which answers LOGIN."""
    port = free_port()
    environment(PROMETHEUS_PORT=str(port), FLOWER_BASIC_AUTH=f"other:login,{LOGIN}")
    with subprocess.Popen(
        [sys.executable, "-m", "tasks.exporter"], cwd=_ROOT, env=dict(os.environ), stdin=subprocess.DEVNULL
    ) as process:
        try:
            found = Exporter(port, process)
            wait_until(found.is_up, "the exporter does not answer")
            yield found
        finally:
            process.kill()
