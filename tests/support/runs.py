"""How runs of tasks ended, by what the workers of a site wrote to their journals."""

import re
from collections import defaultdict
from typing import NamedTuple

from tests.support.site import Site

_LINE = re.compile(r"^(\S+) .*Task \S+\[([\w-]+)\] (succeeded|raised)", re.MULTILINE)


class End(NamedTuple):
    """The end of a task: a run succeeded, or failed for good. A run that is to be tried again ends no task."""

    how: str
    at: float


def ends(site: Site, since: float) -> dict[str, list[End]]:
    """The ends that each task had since a time, by its id. A task that was done twice has two."""
    found = defaultdict(list)
    for name in site.group("celery_workers"):
        said = site.host(name).check_output(
            f"journalctl --no-pager --quiet --output=short-unix --since=@{since:.0f} -u 'celery-worker*' "
            "| grep -e ' succeeded' -e ' raised' || true"
        )
        for at, task_id, how in _LINE.findall(said):
            found[task_id].append(End(how, float(at)))
    return found
