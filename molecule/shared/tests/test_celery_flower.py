"""celery-flower.service"""

import signal

from testinfra.host import Host

from tests.support.site import Site, ask_page, main_pid, reaches, run_code, wait_active
from tests.support.worker import wait_until

UNIT = "celery-flower.service"


def status(flower: Host, path: str, login: str | None = None, *, method: str = "GET") -> int:
    return ask_page(flower, 5556, path, login, method=method)[0]


def test_it_runs_and_starts_with_the_host(flower: Host) -> None:
    assert flower.service(UNIT).is_running
    assert flower.service(UNIT).is_enabled
    shown = f"systemctl show --property=StatusText --value {UNIT}"
    wait_until(lambda: flower.check_output(shown) == "Hears the workers", "it does not hear the workers")


def test_nobody_is_answered_without_a_password(flower: Host) -> None:
    for path in ("/", "/workers", "/api/workers", "/api/tasks", "/metrics", "/healthcheck", "/static/css/flower.css"):
        assert status(flower, path) == 401, path
    assert status(flower, "/api/worker/shutdown/worker", method="POST") == 401
    assert status(flower, "/", "admin:wrong") == 401


def test_it_answers_with_the_password(site: Site, flower: Host) -> None:
    password = site.variable(site.group("flower")[0], "flower_password")
    assert status(flower, "/api/workers", f"admin:{password}") == 200
    # It asks Redis itself, which must be verified with the site's CA.
    assert status(flower, "/api/queues/length", f"admin:{password}") == 200
    # It hears of tasks from the workers, and keeps what it has heard
    code = (
        "import json; from tasks.celery_app import cleanup_stale_results as task\nprint(json.dumps(task.delay().id))"
    )
    page = f"/task/{run_code(site.first('celery_workers'), code)}"
    wait_until(lambda: "SUCCESS" in ask_page(flower, 5556, page, f"admin:{password}")[1], "no finished task", 60)


def test_it_listens_on_loopback_only(site: Site, flower: Host) -> None:
    address = site.address(site.group("flower")[0])
    assert flower.socket("tcp://127.0.0.1:5556").is_listening
    assert not reaches(site.first("celery_workers"), address, 5556)


def test_it_comes_back_when_killed(flower: Host) -> None:
    before = main_pid(flower, UNIT)
    flower.check_output(f"systemctl kill -s {signal.SIGKILL:d} {UNIT}")
    wait_active(flower, UNIT, not_pid=before)
    assert status(flower, "/") == 401  # started means that it answers
