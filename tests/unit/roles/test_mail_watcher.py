"""Hosts have a watcher only where the inventory asks for one."""

import pytest
import yaml
from ansible.plugins.filter.core import to_bool
from jinja2 import Environment, StrictUndefined

from tests.unit.roles.plugins import ROLES


# Words are what `-e mail_watcher_enabled=false` and inventories in INI give.
@pytest.mark.parametrize(
    ("given", "wanted"), [(False, "False"), ("false", "False"), ("no", "False"), (True, "True"), ("true", "True")]
)
def test_a_watcher_runs_only_where_it_is_asked_for(given: object, wanted: str) -> None:
    value = yaml.safe_load((ROLES / "mail_watcher/vars/main.yml").read_text())["_mail_watcher_is_wanted"]
    environment = Environment(undefined=StrictUndefined)
    environment.filters["bool"] = to_bool
    said = environment.from_string(value).render(
        mail_watcher_enabled=given, inventory_hostname="worker1", _site_mail_watcher_hosts=["worker1"]
    )
    assert said == wanted
