"""deploy.yml brings the next release under load, rollback.yml the one before; a bad release takes itself back."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from testinfra.host import Host

from tests.support.load import Load
from tests.support.site import ROOT, Play, RemoteMailbox, Site, main_pid, reaches, sql, wait_active

# There while nobody has seen that the worker works.
_SETTINGS = "/etc/metabuilder/*.env /etc/systemd/system/celery-*.service"
_MARK = "/opt/metabuilder/celery-worker.unproved"
COUNT = 12_000  # some seconds of work
_LATE = 60  # the most seconds that a task may be late while a release comes: a stop takes a few
_DRAIN = 330  # celery_worker_stop_timeout: the most that a task may be late where a release takes itself back
_LATE_SHARE = 0.5  # of the play's time, on a machine that needs longer for everything
_MIGRATION = """\
\"\"\"A column that the release before knows nothing of.\"\"\"

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("email_client", sa.Column("of_the_next_release", sa.Text()))


def downgrade() -> None:
    op.drop_column("email_client", "of_the_next_release")
"""


# Seen by no import, only by a worker that starts.
_NO_WORKER = """
from celery.signals import worker_init


@worker_init.connect(weak=False)
def _refuse(**_: object) -> None:
    raise SystemExit("a worker that cannot start")
"""

# A worker that starts on the host {host!r}, and whose processes stand still before they begin any task.
_NO_TASK = """
import os
import signal
import socket

from celery.concurrency import asynpool

_start = asynpool.Worker.on_loop_start


def _start_and_stand_still(self, pid):
    _start(self, pid)
    if socket.gethostname() == {host!r}:
        os.kill(pid, signal.SIGSTOP)


asynpool.Worker.on_loop_start = _start_and_stand_still
"""

# What a release from before decision 0030 lacks.
_WITHOUT_WATCHDOG = """
cd /opt/metabuilder/previous/lib/python*/site-packages/tasks
sed -i '/^from tasks.monitoring import /s/, watchdog//; /^ *watchdog.connect(/d' celery_app.py
! grep watchdog celery_app.py
rm monitoring/watchdog.py
rm -f celery_app.pyc __pycache__/celery_app.*.pyc
"""


def copy_of(root: Path, folder: Path) -> Path:
    """The project as it lies in `root`, with this virtual environment."""
    left_out = shutil.ignore_patterns(".git", ".venv", ".state", ".bench", ".*_cache", "__pycache__", "fixtures")
    shutil.copytree(root, folder, ignore=left_out)
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
    return folder


@pytest.fixture(scope="module")
def next_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This code, with another version and a migration more."""
    root = copy_of(ROOT, tmp_path_factory.mktemp("next") / "project")
    project = root / "pyproject.toml"
    project.write_text(re.sub(r'^version = ".*"', 'version = "99.0.0"', project.read_text(), flags=re.M))
    versions = root / "tasks/storage/migrations/versions"
    files = [path.read_text() for path in versions.glob("*.py")]
    named = {
        name: set(re.findall(rf'^{name} = "(\w+)"', "\n".join(files), re.M)) for name in ("revision", "down_revision")
    }
    (head,) = named["revision"] - named["down_revision"]
    (versions / "9999_of_the_next_release.py").write_text(_MIGRATION.format(head=head))
    return root


def broken_release(root: Path, folder: Path, code: str) -> Path:
    """The code of `root`, with `code` at the end of what every unit imports."""
    root = copy_of(root, folder / "project")
    with (root / "tasks/celery_app.py").open("a") as file:
        file.write(code)
    return root


@pytest.fixture(scope="module")
def mailboxes(site: Site) -> tuple[RemoteMailbox, RemoteMailbox]:
    """One mailbox that was synced before, one that is synced meanwhile."""
    stamp = time.time_ns() % 10**9
    before, meanwhile = (RemoteMailbox(site, f"{name}-{stamp}") for name in ("before", "meanwhile"))
    before.deliver(20)
    meanwhile.deliver(COUNT)
    for mailbox in (before, meanwhile):
        mailbox.register()
    before.queue_sync()
    before.wait_stored(20)
    return before, meanwhile


def latest(load: Load, play: Play) -> float:
    """The most seconds that a task of any kind was late under this load."""
    late = load.latest()
    print(f"{play.seconds:.0f} s, {len(load.ledger.queued)} calls, seconds late at most: {late}")
    return max(late.values())


def has_watchdog(host: Host) -> bool:
    """Whether systemd restarts the worker of a host that does not say that it is alive."""
    return host.check_output("systemctl show -P WatchdogUSec celery-worker") != "0"


def releases(site: Site, link: str = "current") -> set[str]:
    workers = [site.host(name) for name in site.group("celery_workers")]
    return {Path(worker.file(f"/opt/metabuilder/{link}").linked_to).name for worker in workers}


def test_the_next_release_comes_while_mail_is_synced(
    site: Site, next_release: Path, mailboxes: tuple[RemoteMailbox, RemoteMailbox], load: Load
) -> None:
    before, meanwhile = mailboxes
    previous = releases(site)
    assert len(previous) == 1
    meanwhile.queue_sync()
    meanwhile.wait_stored(1)
    checked = site.play("playbooks/deploy.yml", "--check", "--diff", root=next_release)
    assert checked.status == 0, checked.output[-4000:]
    announced = re.findall(r"^systemctl restart (\S+)\.service: ", checked.output, re.MULTILINE)
    assert sorted(announced) == ["celery-beat", "celery-flower", "celery-worker", "celery-worker"]
    with load.under_way():
        play = site.play("playbooks/deploy.yml", root=next_release)
        assert play.status == 0, play.output[-4000:]
    assert latest(load, play) < max(_LATE, _LATE_SHARE * play.seconds)
    (current,) = releases(site)
    assert current.startswith("99.0.0-")
    assert releases(site, "previous") == previous
    assert sql(site, "SELECT version_num FROM alembic_version").strip() == "9999"
    for name in site.group("celery_workers"):
        pid = main_pid(site.host(name), "celery-worker")
        assert current in site.host(name).check_output(f"tr '\\0' ' ' </proc/{pid}/cmdline")
    meanwhile.wait_stored(COUNT)
    assert len(set(meanwhile.stored())) == len(meanwhile.stored()) == COUNT
    assert len(before.stored()) == 20


def test_a_release_that_cannot_run_any_more_is_mended(site: Site, next_release: Path) -> None:
    # Given a host whose Debian was upgraded, so that the release's Python is gone, and one whose release is gone
    first, second = (site.host(name) for name in site.group("celery_workers"))
    first.check_output("ln -sfn /usr/bin/python3.10 /opt/metabuilder/current/bin/python")
    first.run("systemctl restart celery-worker")
    second.check_output('rm -rf "$(readlink /opt/metabuilder/current)"')
    with_deleted_files = main_pid(second, "celery-worker")
    assert first.run("/opt/metabuilder/current/bin/celery --version").rc != 0

    play = site.play("playbooks/deploy.yml", root=next_release)

    assert play.status == 0, play.output[-4000:]
    for host in (first, second):
        assert wait_active(host, "celery-worker") != with_deleted_files
        host.check_output("/opt/metabuilder/current/bin/python -c 'import tasks.celery_app'")


def test_it_is_deployed_once(site: Site, next_release: Path) -> None:
    again = site.play("playbooks/deploy.yml", root=next_release)
    assert again.status == 0, again.output[-4000:]
    assert again.changed == 0, again.changed_tasks


def test_nothing_goes_back_to_a_release_that_cannot_run(site: Site) -> None:
    second = site.host(site.group("celery_workers")[1])
    python = "/opt/metabuilder/previous/bin/python"
    link, before = second.file(python).linked_to, releases(site)
    second.check_output(f"ln -sfn /usr/bin/python3.10 {python}")
    play = site.play("playbooks/rollback.yml")
    second.check_output(f"ln -sfn {link} {python}")
    assert play.status != 0
    assert "does not run on this host any more" in " ".join(play.output.split()), play.output[-4000:]
    assert play.changed == 0, play.changed_tasks
    assert releases(site) == before


def test_the_release_before_comes_back_and_works_with_the_new_schema(
    site: Site, mailboxes: tuple[RemoteMailbox, RemoteMailbox], load: Load
) -> None:
    before, _ = mailboxes
    wanted = releases(site, "previous")
    first, second = (site.host(name) for name in site.group("celery_workers"))
    second.check_output(_WITHOUT_WATCHDOG)
    with load.under_way():
        play = site.play("playbooks/rollback.yml")
        assert play.status == 0, play.output[-4000:]
    assert latest(load, play) < max(_LATE, _LATE_SHARE * play.seconds)
    assert releases(site) == wanted
    assert sql(site, "SELECT version_num FROM alembic_version").strip() == "9999"
    before.deliver(5, first=21)
    before.queue_sync()
    before.wait_stored(25)
    # A worker that does not say that it is alive is not restarted for it.
    assert (has_watchdog(first), has_watchdog(second)) == (True, False)
    # Run again, it does nothing, except for a worker of which nobody has seen that it works.
    mark = first.file(_MARK)
    assert not mark.exists
    first.check_output(f"touch {_MARK}")
    again = site.play("playbooks/rollback.yml")
    assert again.status == 0, again.output[-4000:]
    (changed,) = again.changed_tasks
    assert changed.startswith("celery_worker : Remember that they do: ")
    assert not mark.exists


def test_a_release_that_cannot_be_imported_stops_nothing(
    site: Site, tmp_path: Path, mailboxes: tuple[RemoteMailbox, RemoteMailbox]
) -> None:
    workers = site.group("celery_workers")
    before = {name: main_pid(site.host(name), "celery-worker") for name in workers}, releases(site)
    root = broken_release(ROOT, tmp_path, '\nraise SystemExit("no release at all")\n')
    play = site.play("playbooks/deploy.yml", root=root)
    assert play.status != 0
    said = " ".join(play.output.split())
    for name in workers:
        assert f"cannot run on {name}: SystemExit: no release at all" in said, play.output[-4000:]
    assert ({name: main_pid(site.host(name), "celery-worker") for name in workers}, releases(site)) == before
    assert mailboxes[0].sync()["status"] == "success"
    # Nor do settings that cannot be read, of the release in use.
    option = ("--extra-vars", '{"application_environment": {"REDIS_BROKER_DB": "first"}}')
    play = site.play("site.yml", "--tags", "application", *option)
    assert play.status != 0
    assert "REDIS_BROKER_DB: Input should be a valid integer" in " ".join(play.output.split()), play.output[-4000:]
    assert ({name: main_pid(site.host(name), "celery-worker") for name in workers}, releases(site)) == before
    for name in workers:
        assert not site.host(name).file("/run/metabuilder-proof").exists
        assert "first" not in site.host(name).check_output("cat /etc/metabuilder/celery.env")


def test_a_release_that_fails_on_the_second_host_takes_the_first_back_under_load(
    site: Site, next_release: Path, tmp_path: Path, load: Load
) -> None:
    workers = site.group("celery_workers")
    second = site.host(workers[1])
    (before,) = releases(site)
    settings = {name: site.host(name).check_output(f"sha256sum {_SETTINGS}") for name in workers}
    second_name = second.check_output("hostname")
    # A release that lacks the last migration would be refused before any host is switched.
    root = broken_release(next_release, tmp_path, _NO_TASK.format(host=second_name))
    with load.under_way():
        play = site.play("playbooks/deploy.yml", "--extra-vars", "celery_worker_stop_timeout=331", root=root)
    assert play.status != 0
    said = " ".join(play.output.split())
    assert f"celery-worker.service on {workers[1]} runs, and does no task" in said, play.output[-4000:]
    assert f"worker@{second_name} ready." in said, "its journal"
    assert f"As before the roll-out again, with release {before}: {', '.join(workers)}." in said, play.output[-4000:]
    assert "NOT taken back" not in said
    assert "Finish the migration of the database" not in said
    assert releases(site) == {before}
    # With the settings and units of that time; and each of them was seen to work.
    assert {name: site.host(name).check_output(f"sha256sum {_SETTINGS}") for name in workers} == settings
    for name in workers:
        host = site.host(name)
        assert before in host.check_output(f"tr '\\0' ' ' </proc/{main_pid(host, 'celery-worker')}/cmdline")
        assert not host.file(_MARK).exists
        assert not host.file("/run/metabuilder-before").exists
    assert latest(load, play) < max(_DRAIN, _LATE_SHARE * play.seconds)


def test_a_release_whose_worker_cannot_start_takes_the_first_host_back(
    site: Site, next_release: Path, tmp_path: Path, mailboxes: tuple[RemoteMailbox, RemoteMailbox]
) -> None:
    first, *others = site.group("celery_workers")
    (release,), before = releases(site), {name: main_pid(site.host(name), "celery-worker") for name in others}
    play = site.play("playbooks/deploy.yml", root=broken_release(next_release, tmp_path, _NO_WORKER))
    assert play.status != 0
    said = " ".join(play.output.split())
    assert f"{first}: Run the workers with their current release and configuration: systemctl" in said
    assert "a worker that cannot start" in said, "its journal"
    assert f"As before the roll-out again, with release {release}: {first}." in said, play.output[-4000:]
    assert releases(site) == {release}
    assert {name: main_pid(site.host(name), "celery-worker") for name in others} == before
    wait_active(site.host(first), "celery-worker")
    assert mailboxes[0].sync()["status"] == "success"
    # There is no step left that a person would have to take.
    back = site.play("playbooks/rollback.yml")
    assert back.status == 0, back.output[-4000:]
    assert back.changed == 0, back.changed_tasks


def test_an_update_whose_worker_cannot_start_is_stopped_at_the_first_host(
    site: Site, next_release: Path, mailboxes: tuple[RemoteMailbox, RemoteMailbox]
) -> None:
    first, *others = site.group("celery_workers")
    before = {name: main_pid(site.host(name), "celery-worker") for name in others}
    options = "/etc/systemd/system/celery-worker.service.d"
    for name in (first, *others):
        site.host(name).check_output(
            f"mkdir {options} && printf '[Service]\nExecStartPre=/bin/false\n' >{options}/no.conf"
        )
    play = site.play("playbooks/update.yml", root=next_release)  # whose schema it is
    for name in (first, *others):
        site.host(name).check_output(f"rm -r {options} && systemctl daemon-reload")
    assert play.status != 0
    assert "systemctl restart celery-worker.service failed" in " ".join(play.output.split()), play.output[-4000:]
    assert {name: main_pid(site.host(name), "celery-worker") for name in others} == before
    assert mailboxes[0].sync()["status"] == "success"  # by the others


def test_a_lost_folder_of_the_authority_is_made_anew(
    site: Site, next_release: Path, tmp_path: Path, mailboxes: tuple[RemoteMailbox, RemoteMailbox]
) -> None:
    # Given a folder that is gone, without which the site goes on, and a copy of it
    folder, copy = site.tls_directory, tmp_path / "copy"
    folder.rename(copy)
    assert mailboxes[0].sync()["status"] == "success"
    authority = (copy / "ca.crt").read_text()
    # The copy is all that is needed
    shutil.copytree(copy, folder)
    renewal = site.play("playbooks/certificates.yml", root=next_release)
    assert renewal.status == 0, renewal.output[-4000:]
    assert renewal.changed == 0, renewal.changed_tasks

    # Without one
    shutil.rmtree(folder)
    play = site.play("site.yml", root=next_release)  # whose schema it is

    # Then all hosts trust another authority, whose certificates the servers show
    assert play.status == 0, play.output[-4000:]
    assert (folder / "ca.crt").read_text() != authority
    worker, address = site.host(site.group("celery_workers")[1]), site.address(site.group("redis")[0])
    trusted = "/etc/metabuilder/tls/ca.crt"
    assert worker.file(trusted).content_string == (folder / "ca.crt").read_text()
    for port, start in ((6379, ""), (5432, "-starttls postgres")):
        worker.check_output(
            f"openssl s_client {start} -connect {address}:{port} -CAfile {trusted} -verify_return_error </dev/null"
        )
    mailboxes[0].deliver(1, first=26)
    mailboxes[0].queue_sync()
    mailboxes[0].wait_stored(26)


def test_a_host_of_workers_leaves_under_load_and_nobody_misses_it(
    site: Site, next_release: Path, tmp_path: Path, load: Load
) -> None:
    """The next test gives it back to the site."""
    first, second = site.group("celery_workers")
    with load.under_way():
        off = site.play("playbooks/decommission.yml", "--limit", second, "--extra-vars", "confirm=yes")
        assert off.status == 0, off.output[-4000:]
    assert latest(load, off) < max(_DRAIN, _LATE_SHARE * off.seconds)
    assert [path for path in ("/opt/metabuilder", "/etc/metabuilder") if site.host(second).file(path).exists] == []

    smaller = site.without(second, tmp_path)
    play = smaller.play("site.yml", root=next_release)

    assert play.status == 0, play.output[-4000:]
    left = site.host(first)
    assert not reaches(site.host(second), site.address(first), 6379)
    assert not reaches(site.host(second), site.address(first), 5432)
    health = left.run("metabuilder health")
    assert health.rc == 0, health.stdout + health.stderr
    answered = json.loads(left.check_output("metabuilder worker:ping --json"))
    assert [worker["worker"].partition("@")[2] for worker in answered] == [left.check_output("hostname")]


def test_taken_off_it_leaves_the_data_and_comes_back_over_it(
    site: Site, next_release: Path, mailboxes: tuple[RemoteMailbox, RemoteMailbox]
) -> None:
    stored = mailboxes[0].stored()
    off = site.play("playbooks/decommission.yml", "--extra-vars", "confirm=yes")
    assert off.status == 0, off.output[-4000:]
    back = site.play("site.yml", root=next_release)  # whose schema it is
    assert back.status == 0, back.output[-4000:]
    for name in site.group("celery_workers"):
        wait_active(site.host(name), "celery-worker")
    assert mailboxes[0].sync()["status"] == "success"
    assert mailboxes[0].stored() == stored


def test_it_is_taken_off_when_a_person_says_so(site: Site) -> None:
    """The last: nothing of it is left, and the hosts can still be reached."""
    untouched = site.play("playbooks/decommission.yml", "--extra-vars", "confirm=no")
    assert untouched.status != 0
    assert untouched.changed == 0, untouched.changed_tasks
    confirmed = ("--extra-vars", "confirm=yes decommission_data=yes")
    play = site.play("playbooks/decommission.yml", *confirmed)
    assert play.status == 0, play.output[-4000:]
    assert sorted(sql(site, "SELECT datname FROM pg_database", database="postgres").split()) == [
        "postgres",
        "template0",
        "template1",
    ]
    for name in site.names:
        host = site.host(name)
        assert host.run("systemctl list-units --all --plain --no-legend 'celery-*' 'metabuilder-*'").stdout == ""
        left = ("/opt/metabuilder", "/etc/metabuilder", "/var/lib/metabuilder", "/usr/local/bin/metabuilder")
        assert [path for path in left if host.file(path).exists] == []
        assert not host.user("celery").exists
        assert "metabuilder" not in host.check_output("nft list tables")
        assert host.run("systemctl is-enabled redis-server").stdout.strip() != "masked"
    access = site.first("postgresql").check_output("cat /etc/postgresql/*/main/pg_[hi]*.conf")
    assert "metabuilder" not in access
    assert "administrators" not in access
    again = site.play("playbooks/decommission.yml", *confirmed)
    assert again.status == 0, again.output[-4000:]
    assert again.changed == 0, again.changed_tasks


def test_a_tag_whose_ground_is_missing_is_refused(site: Site) -> None:
    """Where nothing of ours is by now."""
    play = site.play("site.yml", "--tags", "worker")
    assert play.status != 0
    assert "first with --tags tls,redis,postgresql,application." in " ".join(play.output.split()), play.output[-4000:]
    assert play.changed == 0, play.changed_tasks


def test_there_is_nothing_to_take_off_a_host_that_never_had_it(site: Site) -> None:
    """Not even the packages."""
    for name in site.names:
        site.host(name).check_output("apt-get purge --yes --quiet --quiet redis-server 'postgresql*'")
    play = site.play("playbooks/decommission.yml", "--extra-vars", "confirm=yes decommission_data=yes")
    assert play.status == 0, play.output[-4000:]
    assert play.changed == 0, play.changed_tasks
