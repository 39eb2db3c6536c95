"""The env file of the hosts: variables of the inventory become those of the settings, with the same defaults."""

import re
from pathlib import Path
from typing import Any

import yaml

from tasks.settings import Settings

# What the hosts do without: `application_environment` can set it all the same. The owner's URL never goes there.
NOT_ON_HOSTS = {
    *("REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "REDIS_BROKER_DB", "REDIS_RESULT_DB"),
    *("REDIS_RESULT_USERNAME", "REDIS_RESULT_PASSWORD", "REDIS_RESULT_USE_SSL", "REDIS_SSL_CERT_REQS"),
    *("DATABASE_OWNER_URL", "FLOWER_PORT"),
}
ROLES = Path(__file__).parents[2] / "roles"


def environment() -> dict[str, str]:
    """Variable of the environment to what the role `application` takes it from."""
    return yaml.safe_load((ROLES / "application" / "vars" / "main.yml").read_text())["_application_variables"]


def defaults() -> dict[str, Any]:
    """The defaults of all roles."""
    files = ROLES.glob("*/defaults/main.yml")
    return {name: value for file in files for name, value in (yaml.safe_load(file.read_text()) or {}).items()}


def settings() -> dict[str, Any]:
    """The defaults of the settings, by the variable of the environment."""
    return {
        str(field.validation_alias): field.default
        for group in Settings.model_fields.values()
        for field in group.annotation.model_fields.values()
    }


def plain() -> dict[str, str]:
    """Those that are taken from one variable as it is, or joined from a list."""
    found = {name: re.fullmatch(r"\{\{ (\w+)( \| join\(','\))? }}", value) for name, value in environment().items()}
    return {name: match[1] for name, match in found.items() if match and not match[1].startswith("site_")}


def test_the_hosts_get_no_variable_that_nobody_reads() -> None:
    assert set(environment()) - set(settings()) == set()


def test_the_hosts_get_every_variable() -> None:
    missing = set(settings()) - set(environment()) - NOT_ON_HOSTS
    assert missing == set(), (
        "add a variable to roles/application: defaults/main.yml, meta/argument_specs.yml, vars/main.yml, then run "
        "./manage.sh docs"
    )


def test_most_variables_are_taken_as_they_are() -> None:
    assert len(plain()) >= 15


def test_a_variable_of_a_role_has_the_default_of_the_setting() -> None:
    differing = {
        name: (defaults()[variable], settings()[name])
        for name, variable in plain().items()
        if _as_text(defaults()[variable]) != _as_text(settings()[name])
    }
    assert differing == {}


def _as_text(value: Any) -> str:
    if value is None or value == () or value == []:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
