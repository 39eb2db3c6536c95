"""The env file of the hosts: variables of the inventory become those of the settings, with the same defaults."""

import re
from pathlib import Path
from typing import Any, get_args

import yaml

from manage.advice import name_in_inventory
from tasks.registry import QUEUES
from tasks.settings import Settings
from tests.unit.roles.plugins import load

# What the hosts do without: `application_environment` can set it all the same. The owner's URL never goes there.
NOT_ON_HOSTS = {
    *("REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "REDIS_BROKER_DB", "REDIS_RESULT_DB"),
    *("REDIS_RESULT_USERNAME", "REDIS_RESULT_PASSWORD", "REDIS_RESULT_USE_SSL", "REDIS_SSL_CERT_REQS"),
    "CREDENTIAL_PUBLIC_KEY",  # only in client.env (roles/client)
    *("DATABASE_OWNER_URL", "FLOWER_PORT", "FLOWER_BASIC_AUTH", "PROMETHEUS_ADDRESS", "PROMETHEUS_PORT"),
}
preflight_values = load("preflight/filter_plugins/preflight_values.py")
ROLES = Path(__file__).parents[2] / "roles"


def environment() -> dict[str, str]:
    """Variable of the environment to what the roles of the application, the workers and the watcher take it from."""
    roles = ("application", "celery_worker", "mail_watcher")
    files = {role: yaml.safe_load((ROLES / role / "vars" / "main.yml").read_text()) for role in roles}
    of_mailboxes = files["application"]["_application_mailbox_variables"]
    return of_mailboxes | {name: value for role in roles for name, value in files[role][f"_{role}_variables"].items()}


def defaults() -> dict[str, Any]:
    """The defaults of all roles."""
    files = ROLES.glob("*/defaults/main.yml")
    return {name: value for file in files for name, value in (yaml.safe_load(file.read_text()) or {}).items()}


def fields() -> dict[str, Any]:
    """The settings, by the variable of the environment."""
    return {
        str(field.validation_alias): field
        for group in Settings.model_fields.values()
        for field in group.annotation.model_fields.values()
    }


def settings() -> dict[str, Any]:
    """Their defaults."""
    return {name: field.default for name, field in fields().items()}


def plain() -> dict[str, str]:
    """Those that are taken from one variable as it is, or joined from a list, or where a pool has none of its own."""
    pattern = r"\{\{ (?:item\.\w+ \| default\((?=\w+\)))?(\w+)(?: \| join\(','\)|\))? }}"
    found = {name: re.fullmatch(pattern, value) for name, value in environment().items()}
    return {name: match[1] for name, match in found.items() if match and not match[1].startswith(("site_", "_site_"))}


def test_the_hosts_get_no_variable_that_nobody_reads() -> None:
    assert set(environment()) - set(settings()) == set()


def test_the_hosts_get_every_variable() -> None:
    missing = set(settings()) - set(environment()) - NOT_ON_HOSTS
    assert missing == set(), (
        "add a variable to roles/application: defaults/main.yml, meta/argument_specs.yml, and to vars/main.yml there "
        "or, if only the worker reads it, of roles/celery_worker, then run ./manage.sh docs"
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


def test_errors_on_hosts_name_the_variable_of_the_role() -> None:
    assert {name: name_in_inventory(name) for name in plain()} == plain()


def test_preflight_has_the_limits_of_the_settings() -> None:
    differing = {
        variable: (preflight_values.bounds(variable), limits)
        for name, variable in plain().items()
        if (limits := _limits(name)) and preflight_values.bounds(variable) != limits
    }
    assert differing == {}


def test_preflight_knows_every_setting() -> None:
    assert set(preflight_values.settings()) == set(settings())


def test_preflight_knows_what_there_is_to_choose() -> None:
    options = preflight_values.options()
    (log_level,) = (field for name, field in fields().items() if name == "LOG_LEVEL")
    assert options["celery_worker_queues"]["choices"] == list(QUEUES)
    assert options["celery_worker_pools"]["options"]["queues"]["choices"] == list(QUEUES)
    assert tuple(options["application_log_level"]["choices"]) == get_args(log_level.annotation)


def _limits(name: str) -> tuple[int, int | None] | None:
    """The lowest and the highest number that a setting takes; those of fractions cannot be compared."""
    field = fields()[name]
    if field.annotation is not int:
        return None
    said = {type(limit).__name__: getattr(limit, type(limit).__name__.lower()) for limit in field.metadata}
    return said["Ge"] if "Ge" in said else said["Gt"] + 1, said.get("Le")


def _as_text(value: Any) -> str:
    if value is None or value == () or value == []:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
