"""celery-beat.service"""

import signal

from testinfra.host import Host

from tests.support.site import Site, journal, main_pid, run_code, wait_active

UNIT = "celery-beat.service"


def test_it_runs_and_starts_with_the_host(beat: Host) -> None:
    assert beat.service(UNIT).is_running
    assert beat.service(UNIT).is_enabled


def test_its_journal_reads_well(beat: Host) -> None:
    assert "celery-beat[" in journal(beat, "celery-beat", 200)


def test_each_due_task_is_queued_once_however_many_beats_there_are(site: Site) -> None:
    entry = "sync-emails-every-5min"
    beats = [site.host(name) for name in site.group("celery_beat")]
    rounds = 2 * len(beats)  # several may each win some
    # Given that the entry has just run, and then, as often as it has run since, that it last ran an hour ago
    make_due = (
        "import json, time\nfrom tasks.runtime.scheduler import LAST_RUNS\nfrom tasks.celery_app import celery_app\n"
        "with celery_app.connection_for_write() as broker, broker.default_channel.conn_or_acquire() as redis:\n"
        f"    redis.hset(LAST_RUNS, {entry!r}, time.time())\n"
        "    time.sleep(6)  # a beat that was about to queue it has done so\n"
        "    began = time.time()\n"
        f"    for _ in range({rounds}):\n"
        "        due = time.time() - 3600\n"
        f"        redis.hset(LAST_RUNS, {entry!r}, due)\n"
        f"        while float(redis.hget(LAST_RUNS, {entry!r})) == due: time.sleep(0.1)\n"
        "        time.sleep(6)  # a beat that looks late looks within five seconds\n"
        "print(began)"
    )
    began = run_code(site.first("celery_workers"), make_due)
    assert sum(_sent(beat, entry, began) for beat in beats) == rounds


def _sent(beat: Host, entry: str, since: float) -> int:
    """How often this beat has queued an entry of the schedule since then."""
    said = beat.check_output(f"journalctl --no-pager -o cat --since=@{since} -u {UNIT}")
    return str(said).count(f"Sent due task {entry} ")


def test_it_publishes_what_the_application_queued_in_sql(site: Site) -> None:
    queue = (
        "import json\nfrom tasks.storage.queued_tasks import list_queued_tasks\n"
        "from tasks.storage.session import tenant_transaction\n"
        "import time\n"
        "with tenant_transaction('queued-in-sql') as connection:\n"
        "    arguments = json.dumps({'email_id': 'nobody', 'user_id': 'nobody'})\n"
        "    connection.exec_driver_sql('SELECT queue_task(%s, %s)', ('check_spam', arguments))\n"
        "while list_queued_tasks(10): time.sleep(0.1)\n"
        "print('true')"
    )
    assert run_code(site.first("celery_workers"), queue) is True


def test_it_has_a_login_at_the_database_and_no_keys(beat: Host) -> None:
    environment = beat.check_output(f"tr '\\0' '\\n' </proc/{main_pid(beat, UNIT)}/environ")
    assert "DATABASE_URL" in environment
    assert "CREDENTIAL_ENCRYPTION_KEY" not in environment


def test_it_comes_back_when_killed(beat: Host) -> None:
    before = main_pid(beat, UNIT)
    beat.check_output(f"systemctl kill -s {signal.SIGKILL:d} {UNIT}")
    wait_active(beat, UNIT, not_pid=before)
