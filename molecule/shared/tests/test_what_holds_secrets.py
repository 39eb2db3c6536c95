"""No secret in what a play prints, in the journal, in units, in process lists or in files that everybody may read.

After the other tests, whose traces it searches.
"""

import json
import re
import shlex

import pytest
from testinfra.host import Host

from tests.support.site import Site

# Part of every planted secret, whatever quoting does to the rest.
PLANTED = "planted-"


@pytest.fixture
def several_hosts(site: Site) -> None:
    if len(site.names) == 1:
        pytest.skip("test_manners.py looks at what the play prints that puts one host right")


@pytest.mark.usefixtures("several_hosts")
def test_a_play_at_full_verbosity_prints_none_and_renews_them(site: Site) -> None:
    # Given a changed variable in each file that holds secrets
    renewed = {name: f"{PLANTED}renewed {name}" for name in ("redis_password", "postgresql_worker_password")}
    changed = {**renewed, "application_log_level": "DEBUG", "flower_max_tasks": 5000}

    play = site.play("site.yml", "-vvv", "--diff", "--extra-vars", json.dumps(changed))

    # Then no secret is in its differences
    assert play.status == 0, play.output[-3000:]
    assert play.changed > 0
    assert "application_log_level" in play.output or "DEBUG" in play.output
    assert site.lines_with_secrets(play.output) == []
    assert not [secret for secret in renewed.values() if secret in play.output]
    assert site.play("site.yml").status == 0


def test_the_journal_holds_none(site: Site, any_host: Host) -> None:
    assert site.lines_with_secrets(any_host.check_output("journalctl --no-pager -o cat")) == []


def test_units_show_none(site: Site, any_host: Host) -> None:
    for shown in ("show '*'", "cat 'celery-*' 'redis-server@*' 'postgresql@*'"):
        assert site.lines_with_secrets(any_host.check_output(f"systemctl {shown}")) == []


def test_process_lists_show_none(site: Site, any_host: Host) -> None:
    listed = any_host.check_output("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true")
    assert "python" in listed or "systemd" in listed
    assert site.lines_with_secrets(listed) == []


def test_files_that_everybody_may_read_hold_none(site: Site, any_host: Host) -> None:
    folders = "/etc /opt /var/lib /var/log /var/tmp /tmp /run /usr/local /root /home"
    patterns = " ".join(f"-e {shlex.quote(secret)}" for secret in site.secrets)
    # As an ordinary user reads: what its folders forbid is not readable either.
    command = f"grep -rlsF {patterns} {folders} 2>/dev/null || true"
    said = any_host.check_output(f"cd / && runuser -u nobody -- sh -c {shlex.quote(command)}")
    # The command itself is in no file; procfs and sysfs are elsewhere.
    assert re.findall(r"\S+", said) == []


def test_the_secrets_are_where_they_belong(worker: Host) -> None:
    """So that the tests above look for what is really there."""
    assert worker.run(f"grep -q {PLANTED} /etc/metabuilder/celery.env").rc == 0
