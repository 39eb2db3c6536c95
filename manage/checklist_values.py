"""The production checklist, as far as the inventory and its files say it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from manage.secrets import ENCRYPTION_KEY, PASSWORDS
from manage.site import GROUPS
from manage.verdict import Known, Verdict, listed, not_applicable, well, wrong

_LOOPBACK = re.compile(r"127\..*|::1|localhost")
_NO_HOST_KEYS = re.compile(r"StrictHostKeyChecking[ =](no|off|false)", re.IGNORECASE)
_WATCHDOGS = {
    "celery_workers": "celery_worker_watchdog_seconds",
    "celery_beat": "celery_beat_watchdog_seconds",
    "flower": "flower_watchdog_seconds",
    "exporter": "exporter_watchdog_seconds",
    "mail_watchers": "mail_watcher_watchdog_seconds",
}
_APPLICATION = ("celery_workers", "celery_beat", "flower", "exporter", "mail_watchers")
_CLIENTS = {
    "redis": (*_APPLICATION, "admin_uis", "applications"),
    "postgresql": ("celery_workers", "celery_beat", "exporter", "admin_uis", "mail_watchers", "applications"),
}
# What says too much in logs, with the groups whose hosts read it.
_LOGGING = {
    **dict.fromkeys(("application_debug", "application_log_level", "application_log_addresses"), _APPLICATION),
    "postgresql_log_min_duration_ms": ("postgresql",),
}
_ADDRESSES = {"flower": "flower_address", "exporter": "exporter_address"}
# A secret in a file of the inventory (YAML, JSON or INI) whose value is neither encrypted nor taken from elsewhere.
_PLAIN_SECRET = re.compile(
    rf"""^(?![ \t]*\#).*?\b({"|".join((*PASSWORDS, ENCRYPTION_KEY))})["']?[ \t]*[:=]"""
    r"""[ \t]*(?!!vault)["']?(?!\{\{)[^\s"'#]""",
    re.MULTILINE,
)
_VAULT = "$ANSIBLE_VAULT"
_LARGE = 1_000_000


def redis_instances(known: Known) -> Verdict:
    """Broker and results are not in the same Redis."""
    for host, values in known.values.items():
        broker = values["site_redis_host"], values["site_redis_port"]
        results = values["site_redis_result_host"], values["site_redis_result_port"]
        if broker == results:
            advice = "Add an instance `results` to redis_instances, as inventories/production has it"
            return wrong(f"on {host} both are {broker[0]}:{broker[1]}", advice)
    return well("the results have an instance of their own")


def tls(known: Known) -> Verdict:
    """Nothing goes between hosts unencrypted."""
    apart = [service for service, groups in _CLIENTS.items() if set(known.of(*groups)) - set(known.of(service)[:1])]
    if not apart:
        return not_applicable("Redis and PostgreSQL have no client on another host, and listen on loopback")
    for service in apart:
        if plain := [host for host, value in known.each(f"site_{service}_tls", *_CLIENTS[service]) if not value]:
            advice = f"Leave site_{service}_tls out, or set it to true"
            return wrong(f"site_{service}_tls is off for {listed(plain)}", advice)
    return well(" and ".join(f"site_{service}_tls" for service in apart) + ": on")


def mail_certificates(known: Known) -> Verdict:
    """A mail server has to prove who it is."""
    off = [
        host for host, value in known.each("application_ssl_verify", "celery_workers", "mail_watchers") if not value
    ]
    if off:
        return wrong(f"application_ssl_verify is off for {listed(off)}", "Leave application_ssl_verify out")
    return well("application_ssl_verify is on")


def firewall(known: Known) -> Verdict:
    """Every host drops what is not meant for it."""
    off = [host for host, value in known.each("firewall_enabled", *GROUPS) if not value]
    if off:
        return wrong(f"firewall_enabled is off for {listed(off)}", "Switch it on, or say what guards these hosts")
    accepting = [host for host, value in known.each("firewall_policy", *GROUPS) if value == "accept"]
    if accepting:
        detail = f"firewall_policy lets in what goes to other ports, on {listed(accepting)}"
        return wrong(detail, "Set firewall_policy to drop, or say what else guards these hosts")
    return well("firewall_enabled, with firewall_policy drop")


def pages(known: Known) -> Verdict:
    """Flower and exporter, which speak no TLS, listen on loopback."""
    there = {group: variable for group, variable in _ADDRESSES.items() if known.of(group)}
    if not there:
        return not_applicable("no host of flower or exporter")
    opened = [
        f"{variable} is {value} on {host}"
        for group, variable in there.items()
        for host, value in known.each(variable, group)
        if not _LOOPBACK.fullmatch(str(value))
    ]
    if opened:
        return wrong("; ".join(opened), "Leave the variable out, or say which proxy with TLS is before it")
    return well(f"{' and '.join(there.values())}: loopback")


def vault(known: Known) -> Verdict:
    """No file of the inventory holds a secret that can be read."""
    plain = [f"{file.name} has {name}" for file, name in _plain_secrets(known.files)]
    authority = Path(str(known.one("tls_directory"))) / "ca.key"
    if authority.exists() and "ENCRYPTED" not in _text(authority):
        plain.append(f"{authority} has no passphrase")
    if plain:
        advice = "Encrypt the file with ansible-vault encrypt, then give new values: ./manage.sh secrets renew"
        return wrong("; ".join(plain), advice)
    return well("no secret in plain text in the inventory's files")


def _plain_secrets(files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for file in files:
        text = _text(file)
        if not text.startswith(_VAULT) and (found := _PLAIN_SECRET.search(text)):
            yield file, found[1]


def _text(file: Path) -> str:
    with file.open(errors="replace") as content:
        return content.read(_LARGE)


def ssh(known: Known) -> Verdict:
    """Ansible speaks to the hosts that are meant."""
    remote = {host: values for host, values in known.values.items() if values["ansible_connection"] != "local"}
    if not remote:
        return not_applicable("no host is reached over ssh")
    trusting = [host for host, values in remote.items() if _trusts_everybody(values)]
    if trusting:
        detail = f"the keys of {listed(trusting)} are not checked"
        return wrong(
            detail, "Leave StrictHostKeyChecking=no and ansible_host_key_checking out; log in to each host once"
        )
    return well("ssh checks the keys of the hosts")


def _trusts_everybody(values: Mapping[str, Any]) -> bool:
    options = " ".join(str(values[f"ansible_ssh_{name}"]) for name in ("args", "common_args", "extra_args"))
    checks = (values["ansible_host_key_checking"], values["ansible_ssh_host_key_checking"])
    return bool(_NO_HOST_KEYS.search(options)) or any(str(check).lower() in ("false", "no") for check in checks)


def private_logs(known: Known) -> Verdict:
    """No log holds people's mail addresses or mail."""
    found = {
        f"{name} is {value}"
        for name, groups in _LOGGING.items()
        for _, value in known.each(name, *groups)
        if _says_too_much(name, value)
    }
    if found:
        return wrong("; ".join(sorted(found)), "Leave it out, once you have seen what you were looking for")
    return well("no debugging, no addresses, no text of statements")


def _says_too_much(name: str, value: Any) -> bool:
    if name == "application_log_level":
        return bool(value == "DEBUG")
    return int(value) >= 0 if name == "postgresql_log_min_duration_ms" else bool(value)


def memory_limits(known: Known) -> Verdict:
    """No part may take all memory of its host."""
    endless = [
        f"{variable} of {host} is {value}"
        for host in known.of("celery_workers")
        for variable, value in _worker_memory(known.values[host])
        if value == "infinity"
    ]
    for host, instances in known.each("redis_instances", "redis"):
        endless += [
            f"maxmemory of Redis' {instance['name']} on {host} is 0"
            for instance in instances
            if str(instance.get("maxmemory", known.values[host]["redis_maxmemory"])).strip("kmgbKMGB") == "0"
        ]
    if endless:
        return wrong("; ".join(endless), "Give it a limit: preflight says whether they fit the host together")
    return well("workers and Redis have limits")


def _worker_memory(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "celery_worker_memory_max", values["celery_worker_memory_max"]
    for pool in values["celery_worker_pools"]:
        if "memory_max" in pool:
            yield f"memory_max of the pool {pool['name']}", pool["memory_max"]


def graceful_stop(known: Known) -> Verdict:
    """A worker that is stopped may finish the longest task."""
    short = [
        f"{host} has {stop} s for tasks of up to {longest} s"
        for host in known.of("celery_workers")
        for stop, longest in [_stop(known.values[host])]
        if stop <= longest
    ]
    if not known.of("celery_workers"):
        return not_applicable("no host of celery_workers")
    if short:
        advice = "Raise celery_worker_stop_timeout above every task_timeout, or leave it out"
        return wrong("; ".join(short), advice)
    return well("celery_worker_stop_timeout is above the longest task's time limit")


def _stop(values: Mapping[str, Any]) -> tuple[int, int]:
    # A pool with a task_timeout of its own gets a time to stop that follows from it (templates/systemd).
    return int(values["celery_worker_stop_timeout"]), int(values["celery_worker_task_timeout"])


def watchdogs(known: Known) -> list[str]:
    """The watchdogs that are switched off, each with its host."""
    return [
        f"{variable} is 0 on {host}"
        for group, variable in _WATCHDOGS.items()
        for host, value in known.each(variable, group)
        if int(value) == 0
    ]


def spare_worker(known: Known) -> Verdict:
    """One host of the workers may be away."""
    hosts = known.of("celery_workers")
    if len(hosts) > 1:
        return well(f"{len(hosts)} hosts of celery_workers")
    detail = f"{listed(hosts) or 'no host'} alone is in celery_workers"
    return wrong(detail, "Add a second host, or say that mail may wait while this one is away")


def metrics(known: Known) -> Verdict:
    """Somebody measures the site."""
    if hosts := known.of("exporter"):
        return well(f"the group exporter has {listed(hosts)}; whether it runs there is looked at for `health`")
    return wrong("no host is in the group exporter", "Put a host into it: docs/operations.md, Metrics")
