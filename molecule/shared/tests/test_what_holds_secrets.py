"""No secret in what a play prints, in the journal, in units, in process lists or in files that everybody may read.

After the other tests, whose traces it searches.
"""

import json
import re
import shlex

import pytest
from testinfra.host import Host

from tests.support.load import Load
from tests.support.site import Site, ask_redis

# Part of every planted secret, whatever quoting does to the rest.
PLANTED = "planted-"


# The bound that docs/operations.md states for a task that is queued while passwords are renewed, and the part of the
# play's time that bounds it on a machine that needs longer for everything.
MAX_LATE_SECONDS, MAX_LATE_SHARE = 120, 0.5


@pytest.fixture
def several_hosts(site: Site) -> None:
    if len(site.names) == 1:
        pytest.skip("test_manners.py looks at what the play prints that puts one host right")


def logs_in(site: Site, user: str, password: str) -> set[bool]:
    """Whether each instance of Redis takes this password of a user."""
    server = site.group("redis")[0]
    ports = [instance["port"] for instance in site.variable(server, "redis_instances")]
    return {"PONG" in ask_redis(site, site.host(server), user, "ping", port, password=password) for port in ports}


@pytest.mark.usefixtures("several_hosts")
def test_a_play_at_full_verbosity_prints_none_and_renews_them_under_load(site: Site, load: Load) -> None:
    # Given an application at work, and a changed variable in each file that holds secrets
    users = {"metabuilder": "redis_password", "default": "redis_admin_password"}
    before = {user: site.variable(site.group("redis")[0], name) for user, name in users.items()}
    names = (*users.values(), "postgresql_worker_password")
    renewed = {name: f"{PLANTED}renewed-{name}-@:/#%$\"' secret" for name in names}
    changed = {**renewed, "application_log_level": "DEBUG", "flower_max_tasks": 5000}
    site.secrets.extend(renewed.values())
    load.start()

    play = site.play("site.yml", "-vvv", "--diff", "--extra-vars", json.dumps(changed))

    # Then no secret is in its differences
    assert play.status == 0, play.output[-3000:]
    assert play.changed > 0
    assert "application_log_level" in play.output or "DEBUG" in play.output
    assert site.secrets_in(play.output) == []
    # and only the new passwords are valid, but no task was lost, late or done twice
    for user, name in users.items():
        assert logs_in(site, user, before[user]) == {False}
        assert logs_in(site, user, renewed[name]) == {True}
    assert not load.not_done(load.ledger.queued)
    load.check_mails()
    late, pause = max(load.lateness().values()), load.longest_pause()
    calls = f"{len(load.ledger.queued)} calls in {play.seconds:.0f} s"
    print(f"{calls}, at most {late:.1f} s late and {pause:.1f} s without a mail")
    assert late < max(MAX_LATE_SECONDS, MAX_LATE_SHARE * play.seconds)
    # and a run that leaves out a part refuses no password
    assert site.play("site.yml", "--skip-tags=old_passwords").status == 0
    for user, name in users.items():
        assert logs_in(site, user, before[user]) == logs_in(site, user, renewed[name]) == {True}


def test_the_journal_holds_none(site: Site, any_host: Host) -> None:
    assert site.secrets_in(any_host.check_output("journalctl --no-pager -o cat")) == []


def test_units_show_none(site: Site, any_host: Host) -> None:
    for shown in ("show '*'", "cat 'celery-*' 'metabuilder-*' 'redis-server@*' 'postgresql@*'"):
        assert site.secrets_in(any_host.check_output(f"systemctl {shown}")) == []


def test_process_lists_show_none(site: Site, any_host: Host) -> None:
    listed = any_host.check_output("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true")
    assert "python" in listed or "systemd" in listed
    assert site.secrets_in(listed) == []


def test_files_that_everybody_may_read_hold_none(site: Site, any_host: Host) -> None:
    folders = "/etc /opt /var/lib /var/log /var/tmp /tmp /run /usr/local /root /home"
    patterns = " ".join(f"-e {shlex.quote(beginning)}" for beginning in site.beginnings)
    # As an ordinary user reads: what its folders forbid is not readable either.
    command = f"grep -rlsF {patterns} {folders} 2>/dev/null || true"
    said = any_host.check_output(f"cd / && runuser -u nobody -- sh -c {shlex.quote(command)}")
    # The command itself is in no file; procfs and sysfs are elsewhere.
    assert re.findall(r"\S+", said) == []


def test_the_secrets_are_where_they_belong(worker: Host) -> None:
    """So that the tests above look for what is really there."""
    assert worker.run(f"grep -q {PLANTED} /etc/metabuilder/celery.env").rc == 0
