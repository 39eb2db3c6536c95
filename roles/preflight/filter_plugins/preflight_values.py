"""Finds values that the roles could not use: of a wrong type, out of range, or in a form that no program reads.

Types and choices are taken from the roles' argument specs, which Ansible itself checks only when each role starts.
"""

import difflib
import ipaddress
import re
from functools import lru_cache
from pathlib import Path

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import ArgumentValueError, UnsupportedError
from jinja2 import UndefinedError

ROLES = Path(__file__).parents[2]
CONTAINERS = {"list": (list, "list"), "dict": (dict, "mapping")}
README = "the README of the role says which values this variable takes"
PORTS = (1, 65535)
# The lowest and the highest number of variables that may be zero or have an upper limit; all other numbers are above
# zero. A variable that becomes a setting of the application has the limits of tasks/settings.py.
BOUNDS = {
    "admin_uis_restart_seconds": (0, None),
    "admin_uis_watchdog_seconds": (0, None),
    "application_releases_kept": (0, None),
    "application_sync_batch_size": (1, 10_000),
    "application_sync_batch_bytes": (64 * 1024, None),
    "application_sync_max_message_bytes": (64 * 1024, 100 * 1024 * 1024),
    "application_sync_lease_seconds": (3, None),
    "application_sync_interval_seconds": (1, 30 * 86400),
    "application_reread_messages_per_hour": (0, None),
    "application_reread_bytes_per_hour": (64 * 1024, None),
    "application_spam_score_threshold": (0.01, 1),
    "application_spam_engine_timeout": (1, 30),
    "application_delete_batch_size": (1, 1000),
    "application_trash_retention_days": (0, 36_500),
    "application_event_retention_days": (1, 14),
    "application_webhook_timeout": (1, 60),
    "application_watch_poll_seconds": (1, 30 * 86400),
    "application_mail_login_patience_hours": (0, None),
    "application_smtp_retries": (0, None),
    "application_smtp_max_age": (0, 2_592_000),
    "application_smtp_delay_warning": (0, 2_592_000),
    "application_smtp_max_message_bytes": (64 * 1024, None),
    "backup_delay_seconds": (0, None),
    "celery_beat_restart_seconds": (0, None),
    "celery_beat_watchdog_seconds": (0, None),
    "celery_worker_dead_letter_retention_days": (1, 3650),
    "celery_worker_restart_seconds": (0, None),
    "celery_worker_retry_max_delay": (1, 600),
    "celery_worker_start_timeout": (0, None),
    "celery_worker_stop_timeout": (0, None),
    "celery_worker_watchdog_seconds": (0, None),
    "common_apt_cache_valid_time": (0, None),
    "common_dpkg_lock_timeout": (0, None),
    "exporter_restart_seconds": (0, None),
    "exporter_watchdog_seconds": (0, None),
    "flower_purge_offline_workers": (0, None),
    "flower_restart_seconds": (0, None),
    "flower_state_save_interval": (0, None),
    "flower_watchdog_seconds": (0, None),
    "mail_watcher_folders_seconds": (1, 86_400),
    "mail_watcher_host_logins_per_second": (1, 1000),
    "mail_watcher_idle_seconds": (1, 1740),
    "mail_watcher_max_accounts": (1, 1_000_000),
    "mail_watcher_restart_seconds": (0, None),
    "mail_watcher_watchdog_seconds": (0, None),
    "postgresql_copy_timeout": (5, None),
    "postgresql_effective_io_concurrency": (0, None),
    "postgresql_log_min_duration_ms": (-1, None),
    "postgresql_random_page_cost": (0, None),
    "preflight_clock_seconds": (0, None),
    "preflight_control_free_mb": (0, None),
    "preflight_free_inodes": (0, None),
    "tls_renew_before_days": (0, None),
}


def _is_network(text):
    network, equals, port = text.partition("=")
    try:
        return bool(ipaddress.ip_network(network)) and (not equals or PORTS[0] <= int(port) <= PORTS[1])
    except ValueError:
        return False


_NAME_OF_HOST = re.compile(r"([A-Za-z0-9_-]+\.)*[A-Za-z_][A-Za-z0-9_-]*")


def _is_address(text):
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return _NAME_OF_HOST.fullmatch(text)


def _are_pairs(text):
    return all(all(map(str.strip, pair.partition("="))) for pair in text.split(",") if pair.strip())


# By the end of a variable's name: the form that its text must have, and the words of the finding if it has not.
FORMS = {
    "name": (
        re.compile(r"[A-Za-z0-9_-]+").fullmatch,
        "cannot be the name of a unit: use letters, digits, - and _",
    ),
    "memory_max": (
        re.compile(r"infinity|(?=.*[1-9])(\d+(\.\d+)?[BKMGTPE]?|(\d{1,2}(\.\d{1,2})?|100)%)").fullmatch,
        "is no size of memory for systemd: write it like 512M, 2G, 80% or infinity",
    ),
    "cpu_quota": (
        re.compile(r"(?=.*[1-9])\d+(\.\d{1,2})?%|").fullmatch,
        'is no share of processors for systemd: write it like 150%, or "" for no limit',
    ),
    "maxmemory": (
        re.compile(r"\d+([kmg]?b|[kmg])?", re.IGNORECASE).fullmatch,
        "is no size of memory for Redis: write it like 512mb or 4gb, or 0 for no limit",
    ),
    "redis_save": (
        re.compile(r"(\d+ \d+( \d+ \d+)*)?").fullmatch,
        'is not pairs of seconds and changes: write it like 3600 1, or "" for never',
    ),
    "redis_user": (
        re.compile(r"(?!default$)[A-Za-z_][A-Za-z0-9_.-]*").fullmatch,
        "cannot be the workers' user of Redis: use letters, digits, ., - and _, and not default, the administrator",
    ),
    **dict.fromkeys(
        (
            *("admin_uis_user", "flower_user", "redis_admin_uis_user", "redis_application_user", "client_group"),
            *("postgresql_owner_role", "postgresql_worker_role", "postgresql_application_role"),
        ),
        (re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*").fullmatch, "is not a name: use letters, digits, ., - and _"),
    ),
    "postgresql_listen_addresses": (
        re.compile(r"[A-Za-z0-9.:*%,_ -]*[A-Za-z0-9.:*]").fullmatch,
        "is not an address: write it like 10.1.2.3",
    ),
    **dict.fromkeys(
        ("flower_address", "exporter_address"),
        (_is_address, "is not one address: write it like 10.1.2.3 or ::1, and 0.0.0.0 for every address"),
    ),
    "flower_url_prefix": (
        re.compile(r"[A-Za-z0-9._~/-]*").fullmatch,
        "is not the path of a URL: write it like flower",
    ),
    "application_spam_api_url": (
        re.compile(r"(https?://[^\s/]\S*)?").fullmatch,
        "is not a URL: write it like https://spam.example.org",
    ),
    "application_mail_allowed_networks": (
        _is_network,
        "is not a network: write it like 10.1.2.0/24, or with one port like 10.1.2.3=143",
    ),
    "application_mail_host_connections": (
        re.compile(r"([a-z0-9.:*-]+=\d+(,[a-z0-9.:*-]+=\d+)*)?").fullmatch,
        "does not give a number of connections for each server: write it like imap.example.org=10,*=50",
    ),
    "application_spam_trusted_authserv_ids": (
        _are_pairs,
        "does not give the trusted name for each server: write it like imap.gmail.com=mx.google.com",
    ),
}


@lru_cache
def options():
    """The public variables of all roles, with their types and choices."""
    files = sorted(ROLES.glob("*/meta/argument_specs.yml"))
    roles = (yaml.safe_load(file.read_text())["argument_specs"].values() for file in files)
    return {name: option for steps in roles for spec in steps for name, option in spec["options"].items()}


@lru_cache
def settings():
    """The names of the application's settings."""
    example = (ROLES.parent / ".env.example").read_text()
    return {*re.findall(r"^#([A-Z][A-Z0-9_]*)=", example, re.MULTILINE), *made()}


@lru_cache
def made():
    """The environment variables that the roles write, each with the roles' variables that its value is made from."""
    texts = {}
    for role in ("application", "celery_worker", "mail_watcher"):
        found = yaml.safe_load((ROLES / role / "vars" / "main.yml").read_text())
        texts |= found[f"_{role}_variables"] | found.get("_application_mailbox_variables", {})
    return {name: sorted(options().keys() & re.findall(r"\w+", text)) for name, text in texts.items()}


@lru_cache
def made_for_one_unit():
    """The environment variables that are written for Flower or the exporter alone, each with the role that does."""
    roles = ("exporter", "flower")
    files = {role: yaml.safe_load((ROLES / role / "vars" / "main.yml").read_text()) for role in roles}
    return {name: role for role in roles for name in files[role][f"_{role}_variables"]}


def bounds(name):
    """The lowest and the highest number that a variable may have; None for no limit."""
    default = PORTS if re.search(r"(^|_)ports?$", name) else (1, None)
    return BOUNDS.get(name, default)


def why_unknown(value):
    """Why a value, or a value inside it, cannot be computed here; "" if it can."""
    parts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    try:
        str("" if parts else value)
        return next(filter(None, map(why_unknown, parts)), "")
    except UndefinedError as error:
        return str(error)


def plain(value):
    """A value as ordinary lists and mappings.

    Ansible's own lists and mappings hold all variables of their host, and a validator that copies values would copy
    all of these each time.
    """
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


def type_mistake(option, value):
    """What is wrong with the type of a value, or of a value inside it; "" if the type is right.

    Ansible converts more types: text to a list, or 4.0 to a whole number. But the roles use the value unconverted.
    """
    needed, called = CONTAINERS.get(option["type"], (object, ""))
    if value is None:
        return "has no value"
    if not isinstance(value, needed):
        return f"is not a {called}"
    if option["type"] == "str" and isinstance(value, list | dict):
        return "is not a text"
    if option["type"] == "int" and not re.fullmatch(r"-?\d+", str(value)):
        return "is not a whole number"
    if option.get("options"):
        return next(filter(None, (_item_mistake(option["options"], item) for item in value)), "")
    return ""


def _item_mistake(of_keys, item):
    if not isinstance(item, dict):
        return f"has {item}, which is not a mapping"
    mistakes = {key: type_mistake(of_keys[key], item[key]) for key in of_keys if key in item}
    return next((f"has {key} {item[key]}, which {mistake}" for key, mistake in mistakes.items() if mistake), "")


def spec_mistakes(label, option, value):
    """The mistakes that Ansible finds in a value, and whether its type is wrong, so that no check can use it."""
    errors = ArgumentSpecValidator({label: option}).validate({label: value}).errors.errors
    is_mistyped = not all(isinstance(error, (ArgumentValueError, UnsupportedError)) for error in errors)
    # Ansible's words have the value in them.
    return ["its type is wrong" if option.get("no_log") else error.msg for error in errors], is_mistyped


def single_values(label, name, option, value):
    """The numbers and texts in a value: the words for each, the name of its variable or key, its type, itself."""
    if option.get("options"):
        for item in value:
            where = f"{label}, {item['name']}" if "name" in item else label
            for key in filter(item.__contains__, option["options"]):
                yield from single_values(f"{where}: {key}", key, option["options"][key], item[key])
    elif option["type"] == "list":
        for item in value:
            yield label, name, option["elements"], item
    else:
        yield label, name, option["type"], value


def value_mistakes(label, name, kind, value):
    """The findings on one number that is out of its range, or on one text that has a wrong form."""
    if kind in ("int", "float"):
        low, high = bounds(name)
        if float(value) < low:
            yield f"{label} {value} is below {low}: raise it"
        elif high is not None and float(value) > high:
            yield f"{label} {value} is above {high}: lower it"
    for end, (is_right, mistake) in FORMS.items():
        if name.endswith(end) and not is_right(str(value)):
            yield f"{label} {value} {mistake}"


def environment_mistakes(environment):
    """Environment variables that no program reads, or that have a role's variable. Their values may be secret."""
    for name in environment:
        if variables := made().get(name):
            yield f"application_environment: {name} is made from role variables: set {', '.join(variables)} instead"
        elif role := made_for_one_unit().get(name):
            yield f"application_environment: {name} is set by the role {role}: use the variables in its README"
        elif name not in settings() and not str(name).startswith("FLOWER_"):  # Flower's own are many
            yield f"application_environment: {name} is not a setting: .env.example lists all settings"


def judge(label, name, option, value):
    """The findings on one variable, and whether its value has a wrong type, so that no check can use it."""
    if mistake := type_mistake(option, value):
        # The checks can use a missing text: they read it as an empty text.
        return [f"{_shown(label, option, value)} {mistake}: {README}"], option["type"] != "str"
    mistakes, is_mistyped = spec_mistakes(label, option, value)
    found = [f"{_shown(label, option, value)}: {'; '.join(mistakes)}: {README}"] if mistakes else []
    if is_mistyped:
        return found, True
    for single in single_values(label, name, option, value):
        found += value_mistakes(*single)
    if name == "application_environment":
        found += environment_mistakes(value)
    return found, False


def _shown(label, option, value):
    """The variable with its value, unless that is a secret, may hold one, or is long."""
    is_long = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))
    if value is None or option.get("no_log") or option["type"] == "dict" or is_long:
        return label
    return f"{label} {', '.join(map(str, value)) if isinstance(value, list) else value}"


def preflight_mistakes(hostvars, names):
    """By host: the findings on the values of its variables, and the variables that no check can use."""
    return {name: _of_host(hostvars[name]) for name in names}


def _of_host(variables):
    found = {"findings": [], "mistyped": [], "unknown": []}
    for name, option in options().items():
        if name not in variables:
            continue
        if why := why_unknown(variables[name]):
            found["unknown"].append(name)
            found["findings"] += _unknown_findings(name, option, why)
            continue
        findings, is_mistyped = judge(name, name, option, plain(variables[name]))
        found["findings"] += findings
        found["mistyped"] += [name] if is_mistyped else []
    found["findings"] += _misspelt(variables)
    return found


def _misspelt(variables):
    """Names that begin like a role's variables, but that no role has."""
    prefixes = tuple(f"{path.name}_" for path in ROLES.iterdir())
    for name in variables:
        if str(name).startswith(prefixes) and name not in options():
            near = difflib.get_close_matches(name, options(), 1)
            advice = f"did you mean {near[0]}?" if near else "the READMEs of the roles list all variables"
            yield f"{name} is not a variable of any role: {advice}"


def _unknown_findings(name, option, why):
    # The internal variables and the defaults of a role can only be read in that role.
    roles = "|".join(path.name for path in ROLES.iterdir())
    if not re.match(rf"'_?({roles})_\w+' is undefined", why):
        said = "its value cannot be computed" if option.get("no_log") else why
        yield f"{name}: {said}: mend the variables that it refers to"


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self):
        """The filters by name."""
        return {"preflight_mistakes": preflight_mistakes}
