"""The rules for alerts, from monitoring/alerts.yml, with the links of this site."""

import re

from ansible.errors import AnsibleFilterError

_LINK = re.compile(r"^( +runbook: )docs/", re.MULTILINE)


def with_runbooks(text, place):
    """The rules `text`, whose annotations `runbook` begin with `place` instead of docs/.

    Raises AnsibleFilterError for a place that could not be the beginning of a link.
    """
    if not re.fullmatch(r"[^\s'\"{}#]+/", place):
        raise AnsibleFilterError(
            f"monitoring_runbooks is {place!r}, which is no folder of pages: write it like docs/ or "
            "https://wiki.example.org/metabuilder/"
        )
    return _LINK.sub(lambda found: found[1] + place, text)


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self):
        """The filters by name."""
        return {"with_runbooks": with_runbooks}
