"""Plays on a running site: what a second, a partial, an interrupted and a changed run do to it.

These run where everything is on one host, which is enough and fast.
"""

import re
import time

import pytest
from testinfra.host import Host

from tests.support.processes import kill_tree
from tests.support.site import Play, Site, main_pid, wait_active

UNITS = (
    *("redis-server@broker", "celery-worker", "celery-beat", "celery-flower"),
    *("metabuilder-exporter", "metabuilder-adminer", "metabuilder-redis-commander"),
)

_ANOTHER_PORT = "/etc/ssh/sshd_config.d/another-port.conf"

# Debian's own package of a library, as a newer version in a repository of the host's own.
_NEWER_LIBRARY = """
set -e
mkdir -p /srv/updates && cd /srv/updates
apt-get -qq update && apt-get -qq download libffi8
dpkg-deb --raw-extract libffi8_*.deb tree && rm libffi8_*.deb
sed -i 's/^Version: .*/&+newer/' tree/DEBIAN/control
dpkg-deb --build tree newer.deb
{ dpkg-deb --field newer.deb; stat --format='Size: %s' newer.deb; echo 'Filename: ./newer.deb'
  echo "SHA256: $(sha256sum newer.deb | cut -d ' ' -f 1)"; } >Packages
chmod -R o+rX /srv
echo 'deb [trusted=yes] file:/srv/updates ./' >/etc/apt/sources.list.d/updates.list
"""


@pytest.fixture(autouse=True)
def _one_host(site: Site) -> None:
    if len(site.names) > 1:
        pytest.skip("covered by the scenario with one host")


@pytest.fixture
def one(site: Site) -> Host:
    return site.host(site.names[0])


def pids(host: Host) -> dict[str, int]:
    postgresql = f"postgresql@{host.check_output('ls /etc/postgresql')}-main"
    return {unit: main_pid(host, unit) for unit in (*UNITS, postgresql)}


@pytest.mark.parametrize(("tag", "role"), [("redis", "redis"), ("postgresql", "postgresql"), ("beat", "celery_beat")])
def test_a_tag_is_one_concern_and_changes_nothing(site: Site, tag: str, role: str) -> None:
    """The tag `worker` is that of the test of pools, which changes something."""
    play = site.play("site.yml", "--limit", site.names[0], "--tags", tag)
    assert play.status == 0, play.output[-3000:]
    assert play.changed == 0, play.changed_tasks
    assert concerns(play) == {role}


def concerns(play: Play) -> set[str]:
    """The roles with services of which the play ran tasks. Arguments are validated whatever the tag."""
    ran = set(re.findall(r"TASK \[(\w+) : (?!Validating)", play.output))
    return ran & {"redis", "postgresql", "celery_worker", "celery_beat", "flower", "exporter", "admin_uis"}


def test_a_changed_variable_restarts_only_what_it_touches_as_check_says_before(site: Site, one: Host) -> None:
    before = pids(one)
    changed = ("--extra-vars", "celery_worker_concurrency=1 redis_maxmemory=300mb postgresql_max_connections=150")
    checked = site.play("site.yml", "--check", "--diff", *changed)
    assert checked.status == 0, checked.output[-3000:]
    assert pids(one) == before
    announced = set(re.findall(r"^systemctl restart (\S+)\.service: ", checked.output, re.MULTILINE))
    play = site.play("site.yml", *changed)
    assert play.status == 0, play.output[-3000:]
    after = pids(one)
    # Only the worker's env file has the first, not the one that beat and Flower read too.
    restarted = {unit for unit in after if after[unit] != before[unit]}
    assert restarted == {"celery-worker", "redis-server@broker", *(set(after) - set(UNITS))}
    assert announced == restarted
    children = one.check_output(f"pgrep -c -P {after['celery-worker']}")
    assert int(children) == 1


def test_pools_that_are_named_no_more_are_removed(site: Site, one: Host) -> None:
    # Given the pool of the inventory, and another one with a name that systemd does not load
    assert one.service("celery-worker@sending").is_running
    units = [f"/etc/systemd/system/celery-worker@{name}.service" for name in ("sending", "a b")]
    one.check_output(f"touch '{units[1]}'")
    before = pids(one)
    pools = '{"celery_worker_pools": [{"name": "passing", "queues": ["send"], "concurrency": 1}]}'

    play = site.play("site.yml", "--tags", "worker", "--extra-vars", pools)

    # Then only that of the variable is left, and the rest of the site is as it was
    assert play.status == 0, play.output[-3000:]
    assert concerns(play) == {"celery_worker"}
    assert one.service("celery-worker@passing").is_running
    assert [unit for unit in units if one.file(unit).exists] == []
    assert one.run("systemctl is-active celery-worker@sending").stdout.strip() == "inactive"
    assert {unit: pid for unit, pid in pids(one).items() if unit != "celery-worker"} == {
        unit: pid for unit, pid in before.items() if unit != "celery-worker"
    }


def test_a_play_that_died_before_the_restart_is_completed(site: Site, one: Host) -> None:
    before = main_pid(one, "celery-worker")
    # Written long before the worker's turn, and to no unit, which would be a reason of its own. At DEBUG the journal,
    # which test_what_holds_secrets.py reads later, says the most.
    environment = '{"application_environment": {"FLOWER_DIED_AFTER": "this"}}'
    options = ("--extra-vars", environment, "--extra-vars=application_log_level=DEBUG flower_max_tasks=5000")
    with site.start_play("site.yml", *options) as play:
        _wait_until_written(one, "FLOWER_DIED_AFTER=")
        kill_tree(play)
    assert main_pid(one, "celery-worker") == before, "it was killed too late to prove anything"
    # And ssh listens on another port besides, by a file of its own
    one.check_output(f"printf 'Port 22\\nPort 2222\\n' >{_ANOTHER_PORT}")
    completed = site.play("site.yml", *options)
    one.check_output(f"rm {_ANOTHER_PORT}")
    assert completed.status == 0, completed.output[-3000:]
    after = wait_active(one, "celery-worker")
    assert after != before
    assert "FLOWER_DIED_AFTER=this" in one.check_output(f"tr '\\0' '\\n' </proc/{after}/environ")
    # Each port at which ssh listens is let in
    assert "tcp dport { 22, 2222 } accept" in one.check_output("nft list chain inet metabuilder input")


def _wait_until_written(host: Host, line: str) -> None:
    """The host itself looks, so that nothing else of the play is done before this is seen."""
    look = f"until grep -q {line} /etc/metabuilder/celery.env; do sleep 0.05; done"
    assert host.run(f"timeout 900 sh -c '{look}'").rc == 0, "the env file was not written"


def test_a_held_dpkg_lock_is_waited_for(site: Site, one: Host) -> None:
    # Given somebody who installs something for 15 s, and a package that is still to be installed
    one.run("dpkg --purge hello")
    one.check_output(
        "systemd-run --quiet --collect --unit=hold-dpkg python3 -c "
        '\'import fcntl, time; f = open("/var/lib/dpkg/lock-frontend", "w"); fcntl.lockf(f, 2); time.sleep(15); '
        'open("/run/dpkg-released", "w")\''
    )
    time.sleep(1)
    play = site.play("playbooks/common.yml", "--extra-vars", '{"common_extra_packages": ["hello"]}')

    # Then it is installed afterwards
    assert play.status == 0, play.output[-3000:]
    released, installed = one.file("/run/dpkg-released").mtime, one.file("/var/lib/dpkg/info/hello.list").mtime
    assert installed >= released
    one.check_output("dpkg --purge hello")


def test_preflight_names_all_that_is_wrong_and_changes_nothing(site: Site, one: Host) -> None:
    before = pids(one), one.check_output("cd /etc/metabuilder && sha256sum *.env")
    wrong = (
        "celery_worker_visibility_timeout=100",
        "celery_worker_concurrency=900",
        "redis_password=",
        "flower_port=many",
    )
    play = site.play("site.yml", *(f"--extra-vars={text}" for text in wrong))
    assert play.status != 0
    for text in wrong:
        assert text.partition("=")[0] in play.output, text
    assert play.changed == 0, play.changed_tasks
    assert (pids(one), one.check_output("cd /etc/metabuilder && sha256sum *.env")) == before


def test_the_site_is_put_right_and_prints_no_secret(site: Site, one: Host) -> None:
    """The tests above changed variables for one run; this puts them back, and what people did by hand."""
    one.check_output("nft flush ruleset && chown -R root: /var/lib/redis/broker")
    # A release that a strict umask or another user spoilt. All test hosts have such a umask
    # (tests/support/hosts/network.py); a playbook obeyed it on this one.
    release = one.check_output("readlink /opt/metabuilder/current")
    one.check_output(f"chmod -R go-rwx /opt/metabuilder && chown celery {release}/bin")
    one.check_output("ln -sfn /opt/metabuilder/releases/gone /opt/metabuilder/current")

    play = site.play("site.yml", "-vvv", "--diff")

    assert play.status == 0, play.output[-3000:]
    assert "+++ after" in play.output, "no difference is shown"
    assert site.secrets_in(play.output) == []
    one.check_output("nft list table inet metabuilder")
    assert one.check_output("find /var/lib/redis/broker ! -user redis") == ""
    assert one.check_output("readlink /opt/metabuilder/current") == release
    assert one.service("celery-worker@sending").is_running
    assert not one.file("/etc/systemd/system/celery-worker@passing.service").exists
    assert not one.file("/opt/metabuilder/previous").exists, "one that is gone is none to go back to"
    one.check_output(f"runuser -u celery -- {release}/bin/python -IBc 'import manage.cli, tasks.celery_app'")
    assert one.run("find /opt/metabuilder ! -user root -o -perm /go=w ! -type l").stdout == ""


def test_an_update_restarts_what_it_touches(site: Site, one: Host) -> None:
    # Given a newer version of a library, and a dpkg that was interrupted, for whose notes apt refuses to do anything
    one.check_output(_NEWER_LIBRARY)
    one.check_output(": >/var/lib/dpkg/updates/0000")
    before = pids(one)
    using = {unit for unit, pid in before.items() if one.run(f"grep -q libffi.so /proc/{pid}/maps").rc == 0}
    assert "celery-worker" in using < set(before)

    play = site.play("playbooks/update.yml")

    assert play.status == 0, play.output[-3000:]
    after = pids(one)
    assert {unit for unit in after if after[unit] != before[unit]} == using
    # A second update has nothing to do
    again = site.play("playbooks/update.yml")
    assert again.status == 0, again.output[-3000:]
    assert again.changed == 0, again.changed_tasks


def test_a_database_in_another_cluster_than_would_be_used_is_found(site: Site, one: Host) -> None:
    """As after an upgrade of Debian. Only the files of an older cluster of ours are there: Debian has one version."""
    ours = one.check_output("ls /etc/postgresql/*/main/conf.d/metabuilder.conf")
    old = "/etc/postgresql/13"
    one.check_output(f"mkdir -p {old}/main/conf.d && echo auto >{old}/main/start.conf")
    one.check_output(f"mv {ours} {old}/main/conf.d/")
    play = site.play("playbooks/preflight.yml")
    one.check_output(f"mv {old}/main/conf.d/metabuilder.conf {ours} && rm -r {old}")
    assert play.status != 0
    said = " ".join(play.output.split())
    assert "the site''s data is in the cluster 13/main" in said, play.output[-3000:]
    assert "postgresql_version: 13" in said
    assert play.changed == 0
