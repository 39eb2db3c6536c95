"""The admin pages only show, unless the inventory says otherwise."""

import pytest
import yaml
from ansible.plugins.filter.core import to_bool
from jinja2 import Environment, StrictUndefined

from tests.unit.roles.plugins import ROLES

READ, WRITE = "~* +@read", "~* +@read +@write"
SITE = {
    "_site_redis_is_replicated": False,
    "groups": {"admin_uis": ["tools1"]},
    "_site_is_monitored": False,
    "_site_client_hosts": [],
}


def rendered(role: str, name: str, *path: str, **variables: object) -> str:
    """A variable of a role's vars/main.yml, with the role's defaults and these variables."""
    value = yaml.safe_load((ROLES / role / "vars/main.yml").read_text())[name]
    for key in path:
        value = value[key]
    environment = Environment(undefined=StrictUndefined)
    environment.filters |= {"bool": to_bool, "redis_password_hash": lambda password: f"#{password}"}
    return environment.from_string(value).render(**SITE, **variables).strip()


# The last is what `-e admin_uis_read_only=false` gives.
@pytest.mark.parametrize(
    ("given", "in_env", "rules"), [(True, "true", READ), (False, "false", WRITE), ("false", "false", WRITE)]
)
def test_pages_write_only_where_they_are_meant_to(given: object, in_env: str, rules: str) -> None:
    for part, variable in (("adminer", "ADMINER_READ_ONLY"), ("redis", "REDIS_COMMANDER_READ_ONLY")):
        assert rendered("admin_uis", f"_admin_uis_{part}", variable, admin_uis_read_only=given) == in_env
    names = (
        "redis_admin_password",
        "redis_user",
        "redis_password",
        "redis_admin_uis_user",
        "redis_admin_uis_password",
    )
    logins = rendered(
        "redis",
        "_redis_logins",
        **dict(zip(names, names, strict=True)),
        redis_user_rules=WRITE,
        redis_admin_uis_rules=READ,
        admin_uis_read_only=given,
    )
    assert logins.splitlines()[-1] == f"user redis_admin_uis_user on #redis_admin_uis_password {rules}"
