"""Every unit of ours scores at most 2.0 in `systemd-analyze security`."""

import re

from testinfra.host import Host

MOST = 2.0
# Patterns alone, as systemctl makes up properties for a unit that is named and not there.
OURS = (
    "'metabuilder-exporter*' 'metabuilder-adminer*' 'metabuilder-redis-commander*' 'prometheus*.service' "
    "'metabuilder-log-collector*' 'mail-watcher*'"
)


def test_units_of_ours_are_confined(any_host: Host) -> None:
    names = any_host.run(f"systemctl list-units --all --plain --no-legend 'celery-*.service' {OURS}").stdout
    scores = {}
    for name in (line.split()[0] for line in names.splitlines()):
        said = any_host.run(f"systemd-analyze --no-pager security {name}").stdout
        scores[name] = float(re.search(r"exposure level for \S+: ([\d.]+)", said)[1])
    assert {name: score for name, score in scores.items() if score > MOST} == {}


def test_no_process_leaves_its_memory_in_a_file(any_host: Host) -> None:
    """Of ours, of Redis and of PostgreSQL: a core file would hold secrets and mail."""
    units = f"'celery-*' {OURS} 'redis-server@*' 'postgresql@*'"
    limits = any_host.check_output(f"systemctl show --property=LimitCORE,LimitCORESoft {units}")
    assert set(limits.split()) <= {"LimitCORE=0", "LimitCORESoft=0"}
