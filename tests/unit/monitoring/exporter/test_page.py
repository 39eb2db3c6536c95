"""What the status page shows where there is more than it has room for."""

from tasks.monitoring.exporter.page import render
from tasks.monitoring.exporter.status import Broker, Status
from tasks.monitoring.readings.beat import Beat
from tasks.monitoring.readings.workers import WorkerReading
from tasks.monitoring.report import Report


def worker(number: int) -> WorkerReading:
    report = Report(
        node=f"w{number:02}@host", host="host", pid=1, release="", seconds=1, concurrency=1, consumes=number != 28,
        is_stopping=False, reserved=0, restarts=0, pss=None, children=(),
    )  # fmt: skip
    return WorkerReading(report.node, 1, None if number == 27 else report)


def test_workers_that_are_not_well_come_first_and_the_rest_is_counted() -> None:
    def shown(number: int) -> list[str]:
        workers = tuple(map(worker, range(1, number + 1)))
        text = render(Status(Broker((), workers, Beat(1, ()), 0, 0), (), None)).decode()
        table = text.partition("<h2>Workers</h2>")[2].partition("</section>")[0]
        return [row.partition("</td>")[0].rpartition(">")[2] for row in table.split("<tr>")[2:]]

    assert shown(30) == ["w27@host", "w28@host", *(f"w{n:02}@host" for n in range(1, 23)), "… and 6 more"]
    assert shown(24) == [f"w{n:02}@host" for n in range(1, 25)]
