"""celery-beat.service"""

import signal

from testinfra.host import Host

from tests.support.site import journal, main_pid, wait_active

UNIT = "celery-beat.service"


def test_it_runs_and_starts_with_the_host(beat: Host) -> None:
    assert beat.service(UNIT).is_running
    assert beat.service(UNIT).is_enabled


def test_its_journal_reads_well(beat: Host) -> None:
    assert "celery-beat[" in journal(beat, "celery-beat", 200)


def test_it_holds_neither_database_nor_keys(beat: Host) -> None:
    environment = beat.check_output(f"tr '\\0' '\\n' </proc/{main_pid(beat, UNIT)}/environ")
    assert "DATABASE_URL" not in environment
    assert "CREDENTIAL_ENCRYPTION_KEY" not in environment


def test_it_comes_back_when_killed(beat: Host) -> None:
    before = main_pid(beat, UNIT)
    beat.check_output(f"systemctl kill -s {signal.SIGKILL:d} {UNIT}")
    wait_active(beat, UNIT, not_pid=before)
