"""Finds what would go wrong on the hosts, before anything is changed.

Each check takes the site or one of its hosts and yields findings. A finding has the variable, its value (never a
secret's), what is wrong with the value, and the remedy. All checks that need a `Host` are in this file, because
Ansible loads each file of filters by itself, and such a file cannot import another.
"""

import base64
import binascii
import itertools
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ansible.module_utils.parsing.convert_bool import boolean
from cryptography import x509

FOLDER = Path(__file__).parents[2]
ROLES = (
    "admin_uis",
    "application",
    "backup",
    "celery_worker",
    "client",
    "exporter",
    "flower",
    "mail_watcher",
    "monitoring",
    "postgresql",
    "redis",
    "tls",
)
SECRETS = {
    # The groups whose hosts need it.
    "redis_password": ("redis", "celery_workers", "celery_beat", "flower", "exporter", "mail_watchers"),
    "redis_admin_password": ("redis",),
    "postgresql_application_password": ("postgresql", "admin_uis", "applications"),
    "postgresql_worker_password": ("postgresql", "celery_workers", "celery_beat", "exporter", "mail_watchers"),
    "postgresql_owner_password": ("postgresql", "celery_workers"),
    "postgresql_replication_password": ("postgresql",),
    "application_credential_encryption_key": ("celery_workers", "mail_watchers", "applications"),
    "flower_password": ("flower", "exporter"),
    "admin_uis_password": ("admin_uis",),
    "redis_admin_uis_password": ("admin_uis",),
    "redis_monitoring_password": ("redis",),
    "redis_application_password": ("redis", "applications"),
    "redis_replication_password": ("redis",),
    "redis_sentinel_password": (
        *("redis", "celery_workers", "celery_beat", "flower", "exporter", "mail_watchers", "applications"),
    ),
    "backup_passphrase": ("backup",),
}
# Secrets that are needed only where this group has a host.
NEEDED_WITH = {"redis_monitoring_password": "monitoring", "redis_application_password": "applications"}
# Secrets that are needed only where this group has several hosts.
NEEDED_BY_SEVERAL = {
    "postgresql_replication_password": "postgresql",
    "redis_replication_password": "redis",
    "redis_sentinel_password": "redis",
}
SUPPORTED = {"Debian": ("12", "13")}
# Connections of one process that runs tasks (tasks/storage/session.py), of a beat, which listens over one and has the
# same pool, and those kept for people and migrations.
CONNECTIONS_PER_PROCESS = 2
CONNECTIONS_PER_BEAT = 3
# Of a watcher: one for each of its threads (tasks/watch/watcher.py).
CONNECTIONS_PER_WATCHER = 11
SPARE_CONNECTIONS = 10
# The memory that the operating system itself needs, in MB.
SYSTEM_MEMORY_MB = 256
_UNITS = {"b": 1 / 1024**2, "kb": 1 / 1024, "mb": 1, "gb": 1024, "k": 1 / 1000, "m": 1, "g": 1000}


# The spellings that PostgreSQL takes for "off".
_OFF = ("off", "false", "no", "0", "of", "f", "n")
_CLUSTER = re.compile(r"postgresql@(\d+)-main\.service")


class MistypedError(Exception):
    """A check needs a value of a wrong type, on which there is a finding already."""


class Host:
    """One host: its variables, the roles' defaults for variables that it does not set, its facts and its report."""

    def __init__(self, name, variables, groups, mistakes=None):
        self.name = name
        self.mistakes = mistakes or {}
        self.groups = groups
        self.variables = variables
        self.facts = variables.get("ansible_facts") or {}
        self.report = variables.get("__preflight_report") or {}
        self.values = variables.get("__preflight_values") or {}

    def given(self, name):
        """The value in the inventory; None if the value refers to variables that only the role has."""
        if name in self.mistakes.get("mistyped", ()):
            raise MistypedError(name)
        return None if name in self.mistakes.get("unknown", ()) else self.variables.get(name)

    def __getitem__(self, name):
        if (value := self.given(name)) is not None:
            return value
        for role in ROLES:
            defaults = self.variables.get(f"_preflight_defaults_{role}") or {}
            if name in defaults:
                return defaults[name]
        return None

    def is_in(self, *groups):
        """Whether the host is in one of these groups."""
        return any(self.name in self.groups.get(group, ()) for group in groups)

    def workers(self):
        """The workers of the host, each with the variables that differ from one pool to another."""
        if not self.is_in("celery_workers"):
            return []
        shared = {
            "name": "celery_worker",
            "task_timeout": int(self["celery_worker_task_timeout"]),
            "task_soft_time_limit": int(self["celery_worker_task_soft_time_limit"]),
        }
        pools = [{**shared, **pool} for pool in self["celery_worker_pools"] or []]
        return [shared, *pools]

    def processes(self):
        """The number of processes of this host that run tasks."""
        if not self.is_in("celery_workers"):
            return 0
        shared = self["celery_worker_concurrency"]
        pools = [pool.get("concurrency", shared) for pool in self["celery_worker_pools"] or []]
        return sum(map(int, [shared, *pools]))

    def has_watcher(self):
        """Whether a watcher is to run on the host."""
        # -e mail_watcher_enabled=false gives the word `false`.
        return boolean(self["mail_watcher_enabled"], strict=False) and self.is_in(
            "mail_watchers" if "mail_watchers" in self.groups else "celery_workers"
        )


def operating_system(host):
    """Debian 12 or 13, with systemd."""
    name, version = host.facts.get("distribution"), host.facts.get("distribution_major_version")
    if version not in SUPPORTED.get(name, ()):
        yield f"ansible_facts.distribution is {name} {version}: use a host with Debian 12 or 13"
    if not host.report.get("has_systemd"):
        yield "ansible_connection leads to a system on which systemd does not run: use a real or virtual machine"


def ports(host):
    """The ports of our services are free, or taken by these services themselves."""
    for port, unit in (host.values.get("ports") or {}).items():
        if unit.startswith("postgresql") and any(as_far_as_typed(postgresql_version(host))):
            continue  # the version is wrong, so the port says nothing
        taken_by = host.report.get("listeners", {}).get(port, unit)
        if _is_to_be_one_of_several(unit, taken_by, host):
            continue
        if unit.startswith("postgresql") and taken_by == "patroni.service":
            yield (
                f"port {port} is taken by {taken_by}: this host was one of several of the group postgresql, and is "
                "now the only one: put the others back, then go "
                "from three hosts to one as docs/high-availability.md says"
            )
            continue
        if unit.startswith("postgresql") and (other := _CLUSTER.fullmatch(taken_by)) and taken_by != unit:
            yield (
                f"port {port} is taken by another cluster of PostgreSQL, {taken_by}: if that cluster holds the "
                f"site's data, keep its version (postgresql_version: {other[1]}), or move the data first "
                "(docs/runbooks.md, Upgrade PostgreSQL); otherwise choose another port (site_postgresql_port)"
            )
        elif taken_by != unit:
            remedy = f"stop {taken_by}, or choose another port ({_port_variable(unit)})"
            yield f"port {port} is taken by {taken_by}: {remedy}"


def _is_to_be_one_of_several(unit, taken_by, host):
    """Whether the server that stood alone has the port, which the role stops before Patroni runs it."""
    version = host.given("postgresql_version") or host.values.get("postgresql_brought")
    return (unit, taken_by) == ("patroni.service", f"postgresql@{version}-main.service")


def _port_variable(unit):
    if unit.startswith("redis-server"):
        return "redis_instances"
    of_units = {
        "redis-sentinel.service": "site_redis_sentinel_port",
        "celery-flower.service": "flower_port",
        "metabuilder-exporter.service": "exporter_port",
        "metabuilder-backup-server.service": "site_backup_port",
        "metabuilder-adminer.service": "admin_uis_adminer_port",
        "metabuilder-redis-commander.service": "admin_uis_redis_commander_port",
        "prometheus.service": "monitoring_port",
        "prometheus-alertmanager.service": "monitoring_alertmanager_port",
        "prometheus-node-exporter.service": "site_node_exporter_port",
        "prometheus-redis-exporter.service": "site_redis_exporter_port",
        "prometheus-postgres-exporter.service": "site_postgresql_exporter_port",
    }
    return of_units.get(unit, "site_postgresql_port")


def postgresql_version(host):
    """The version of the cluster that holds the data; else the version of Debian, or of a cluster that exists."""
    for old in host.report.get("left_behind", []) if host.is_in("postgresql") else []:
        yield (
            f"postgresql_version: the site's data is in the cluster {old}/main, and another version would be used: "
            f"keep version {old} for now (postgresql_version: {old}), or move the data "
            "(playbooks/postgresql-upgrade.yml; docs/runbooks.md, Upgrade PostgreSQL)"
        )
    version, brought = host.given("postgresql_version"), host.values.get("postgresql_brought")
    is_there = host.report.get("has_cluster") or not brought
    if host.is_in("postgresql") and version and str(version) != str(brought) and not is_there:
        yield (
            f"postgresql_version {version}: the system brings {brought}, and there is no cluster {version}/main: "
            f"leave the variable out, or make the cluster {version}/main first"
        )


def databases(host):
    """A cluster with the databases of others is left alone: its pg_hba.conf would be replaced."""
    if host.is_in("postgresql") and host.report.get("has_other_databases"):
        yield (
            "postgresql_version: the cluster `main` of this version holds databases of other programs, and their "
            "pg_hba.conf would be replaced: use another host, or drop these databases"
        )


def names(host):
    """A host can resolve the names of all servers that it must reach."""
    for name in host.report.get("unresolved", []):
        given = [variable for variable, value in host.values.get("names", {}).items() if value == name]
        said_by = ", ".join(variable for variable in given if host.given(variable)) or "site_address"
        yield f"{said_by} {name} does not resolve on this host: use an IP address, or mend the host's DNS"


def memory(host):
    """The host has memory for all programs that run there, when each is at its largest."""
    there = int(host.facts.get("memtotal_mb") or 0)
    child = int(host["celery_worker_child_memory_mb"] or 0)
    parts = {
        f"celery_worker_concurrency {host.processes()} × celery_worker_child_memory_mb": host.processes() * child,
        "redis_instances' maxmemory": sum(redis_memory(host)) if host.is_in("redis") else 0,
        "postgresql_shared_buffers_mb": _shared_buffers(host) if host.is_in("postgresql") else 0,
        "mail_watcher_memory_max": _watcher_memory(host) if host.has_watcher() else 0,
    }
    needed = sum(parts.values()) + SYSTEM_MEMORY_MB
    if needed > there:
        said = ", ".join(f"{what} {size} MB" for what, size in parts.items() if size)
        said += f", the system {SYSTEM_MEMORY_MB} MB"
        yield (
            f"memory: the host has {there} MB and would need {needed} MB ({said}): lower one of these variables, or "
            "use a host with more memory"
        )


def _shared_buffers(host):
    return int(host.given("postgresql_shared_buffers_mb") or int(host.facts.get("memtotal_mb") or 0) // 10)


def _watcher_memory(host):
    # Nothing for a share of the host's memory, or for no limit.
    return round(_megabytes(f"{host['mail_watcher_memory_max']}b") or 0)


def redis_memory(host):
    """The memory limit of each Redis instance of the host, in MB."""
    for instance in host["redis_instances"] or []:
        yield round(_megabytes(instance.get("maxmemory", host["redis_maxmemory"])) or 0)


def _megabytes(size):
    """The size in MB that Redis reads from 512mb, 1g or 1048576; None for a text that is no size, on which there is a
    finding already."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?b|[kmg])?", str(size).lower())
    return float(found[1]) * _UNITS[found[2] or "b"] if found else None


def worker_memory(host):
    """The memory limit of the worker's unit has room for the worker's processes."""
    limit = host.given("celery_worker_memory_max")
    size = _megabytes(f"{limit}b")  # systemd's G is Redis' gb
    needed = int(host["celery_worker_concurrency"] or 0) * int(host["celery_worker_child_memory_mb"] or 0)
    if host.is_in("celery_workers") and size is not None and size < needed:
        yield (
            f"celery_worker_memory_max {limit} is below celery_worker_concurrency × celery_worker_child_memory_mb "
            f"({needed} MB): raise celery_worker_memory_max, or lower one of the other two"
        )


def time_limits(host):
    """A task hands on before it is killed, and ends before the broker gives its message to another worker."""
    delay = int(host["celery_worker_retry_max_delay"] or 0)
    timeout = int(host["celery_worker_visibility_timeout"] or 0)
    for worker in host.workers():
        hard, soft = int(worker["task_timeout"]), int(worker["task_soft_time_limit"])
        if timeout <= hard + delay:
            yield (
                f"celery_worker_visibility_timeout {timeout} is not above the task_timeout of {worker['name']} + "
                f"celery_worker_retry_max_delay ({hard} + {delay}), so running tasks would be delivered twice: raise "
                "celery_worker_visibility_timeout"
            )
        if soft >= hard:
            said = f"task_soft_time_limit {soft} of {worker['name']} is not below its task_timeout {hard}"
            yield f"{said}: lower the task_soft_time_limit"


def pools(host):
    """Each pool has a name of its own, and queues."""
    there = host["celery_worker_pools"] or [] if host.is_in("celery_workers") else []
    names = [pool["name"] for pool in there]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"celery_worker_pools: {names.count(name)} pools have the name {name}: give each pool a name of its own"
    for name in [pool["name"] for pool in there if not pool["queues"]]:
        yield f"celery_worker_pools, {name}: queues is empty: name the queues of the pool, or leave the pool out"


def redis_instances(host):
    """Each instance has a name and a port of its own; the first instance is the broker, which never evicts."""
    instances = host["redis_instances"] or []
    if not host.is_in("redis") or not instances:
        return
    for key in ("name", "port"):
        values = [instance.get(key) for instance in instances]
        if len(set(values)) < len(values) or None in values:
            yield f"redis_instances: {key} is {', '.join(map(str, values))}: give each instance a {key} of its own"
    policy = instances[0].get("maxmemory_policy", host["redis_maxmemory_policy"])
    if policy != "noeviction":
        yield (
            f"redis_maxmemory_policy {policy} of {instances[0].get('name')}, the broker, throws messages away: set "
            "the policy of the broker to noeviction; if results may be evicted, give them an instance of their own"
        )


def power_cut(host):
    """PostgreSQL and the broker force to the disk what they have confirmed."""
    settings = host.given("postgresql_settings") or {} if host.is_in("postgresql") else {}
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if str(settings.get(name, "on")).lower() in _OFF:
            yield (
                f"postgresql_settings.{name} {settings[name]}: a power cut would lose or damage stored mail, and "
                "have mail sent twice: leave this setting out"
            )
    broker = (host["redis_instances"] or [{}])[0] if host.is_in("redis") else {}
    appendonly = broker.get("appendonly", host["redis_appendonly"])
    if appendonly is False and not broker.get("save", host["redis_save"]):
        said = f"redis_appendonly of {broker.get('name')}, the broker, is off: a restart would lose all tasks"
        yield f"{said}: switch redis_appendonly on"


def certificates(host):
    """There is a passphrase for the key of the site's authority, or a certificate and key for every service."""
    services = _encrypted_services(host)
    if _signs(host) and not host["tls_ca_passphrase"]:
        yield "tls_ca_passphrase is not set: ./manage.sh secrets init adds missing secrets"
    for service in services if host["tls_ca_file"] else ():
        for name in (f"tls_{service}_certificate_file", f"tls_{service}_key_file"):
            if not host[name]:
                yield f"{name} is not set, but tls_ca_file is set: name the file there, or leave tls_ca_file empty"


def certificate_ends(host):
    """No certificate has ended, and the site's own authority does not end soon."""
    is_brought = bool(host["tls_ca_file"])
    services = _encrypted_services(host)
    names = ["tls_ca_file", *(f"tls_{service}_certificate_file" for service in services)] if is_brought else []
    for name in names:
        if (end := _end(_file(host, name))) and end <= datetime.now(UTC):
            yield f"{name} {host[name]} ended on {end:%Y-%m-%d}: name a certificate that is valid"
    folder = Path(str(host.given("tls_directory") or Path(host.variables.get("inventory_dir") or ".") / "tls"))
    end = _end(folder / "ca.crt") if _signs(host) else None
    if end and end <= datetime.now(UTC) + timedelta(days=int(host["tls_renew_before_days"])):
        yield (
            f"tls_directory {folder}: the site's authority ends on {end:%Y-%m-%d}: move ca.crt and ca.key away; "
            "site.yml then makes a new authority and renews all certificates"
        )


def _end(path):
    """When the certificate in this file ends; None if the file holds no certificate."""
    try:
        return path and x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None


def _encrypted_services(host):
    return [s for s in ("redis", "postgresql") if host.is_in(s) and host.values.get(f"site_{s}_tls")]


def _signs(host):
    """Whether the site's own authority signs certificates for this host."""
    is_watched = any(host.groups.get(group) for group in ("monitoring", "log_collection", "backup"))
    return bool(is_watched or (_encrypted_services(host) and not host["tls_ca_file"]))


def delivery(host):
    """Alerts are delivered to somebody."""
    if not host.is_in("monitoring") or str(host["monitoring_server"]).lower() in _OFF:
        return
    if not host["monitoring_mail_to"] and not host["monitoring_webhook_url"]:
        yield "monitoring_mail_to and monitoring_webhook_url are not set, so alerts reach nobody: set one of them"
    for name in ("monitoring_mail_from", "monitoring_smtp_server"):
        if host["monitoring_mail_to"] and not host[name]:
            yield f"{name} is not set, but monitoring_mail_to is set: alerts by e-mail need both"


def files(host):
    """Certificates that the operator brings are there, on the control machine."""
    services = _encrypted_services(host) if host["tls_ca_file"] else []
    names = [
        "tls_ca_file",
        *(f"tls_{service}_{part}_file" for service in services for part in ("certificate", "key")),
    ]
    for name in names:
        if host[name] and not _file(host, name):
            yield f"{name} {host[name]} is not a file on the control machine: give the whole path of the file"


def _file(host, name):
    """The file that a variable names, at the place where Ansible finds it; None if Ansible does not find it."""
    path = Path(str(host[name] or "")).expanduser()
    playbooks = Path(host.variables.get("playbook_dir") or ".")
    folders = (FOLDER / "tls" / "files", playbooks / "files", playbooks)
    return next((folder / path for folder in folders if (folder / path).is_file()), None)


def secrets(host, samples):
    """All secrets are set, none is a sample, and the encryption keys can be read."""
    for name, groups in SECRETS.items():
        value = str(host[name] or "")
        is_wanted = name not in NEEDED_WITH or host.groups.get(NEEDED_WITH[name])
        is_wanted = is_wanted and (
            name not in NEEDED_BY_SEVERAL or len(host.groups.get(NEEDED_BY_SEVERAL[name], ())) > 1
        )
        if not is_wanted or not host.is_in(*groups):
            continue
        if not value:
            yield f"{name} is not set: ./manage.sh secrets init adds missing secrets"
        elif value == samples.get(name):
            yield (
                f"{name} has the value of inventories/local, which everybody knows: remove this value; "
                "./manage.sh secrets init then makes a new one"
            )
        elif "\n" in value:
            yield f"{name} has a line break: choose a value without line breaks"
        elif name == "application_credential_encryption_key":
            yield from _encryption_keys(name, value)


def _encryption_keys(name, value):
    for number, key in enumerate(value.split(","), start=1):
        try:
            size = len(base64.urlsafe_b64decode(key.strip()))
        except (binascii.Error, ValueError):
            size = 0
        if size != 32:
            yield f"{name}: key {number} is not 32 bytes in URL-safe base64: ./manage.sh secrets init makes such keys"


def clocks(hosts, seconds):
    """The clocks of the hosts are at most `seconds` apart."""
    measured = [(host, host.report["clock"]) for host in hosts if "clock" in host.report]
    pairs = itertools.combinations(measured, 2)
    for (one, first), (other, second) in pairs:
        apart = abs(first["offset"] - second["offset"])
        if apart - first["uncertainty"] - second["uncertainty"] > seconds:
            yield (
                f"{one.name}, {other.name}: the clocks are {apart:.1f} s apart: synchronise the clocks "
                "(common_time_sync_package), or set them"
            )


def connections(hosts):
    """PostgreSQL has connections for every process that runs tasks."""
    server = next((host for host in hosts if host.is_in("postgresql")), None)
    if server is None:
        return
    limit = int(server["postgresql_max_connections"])
    processes = sum(host.processes() for host in hosts)
    beats, watchers = sum(host.is_in("celery_beat") for host in hosts), sum(host.has_watcher() for host in hosts)
    needed = processes * CONNECTIONS_PER_PROCESS + beats * CONNECTIONS_PER_BEAT
    needed += watchers * CONNECTIONS_PER_WATCHER + SPARE_CONNECTIONS
    if needed > limit:
        yield (
            f"{server.name}: postgresql_max_connections {limit} is below {needed}: {processes} processes "
            f"(celery_worker_concurrency, celery_worker_pools) × {CONNECTIONS_PER_PROCESS}, "
            f"{CONNECTIONS_PER_BEAT} for each beat, {CONNECTIONS_PER_WATCHER} for each watcher "
            f"(mail_watcher_enabled: {watchers}), and {SPARE_CONNECTIONS} to spare: raise "
            "postgresql_max_connections, or run fewer processes"
        )


def groups_of(groups):
    """Groups have as many hosts as they can use, backups another, and Prometheus has an exporter on its own host."""
    for name in ("postgresql", "redis"):
        yield from _majority(name, groups)
    for name in ("log_collection",):
        if len(groups.get(name, ())) > 1:
            said = f"group {name} has {len(groups[name])} hosts, but nothing replicates their data"
            yield f"{said}: keep one host in the group"
    if len(there := groups.get("backup", ())) > 1:
        yield f"group backup has {len(there)} hosts, but backups go to one: keep one host in the group"
    for name in sorted({*groups.get("backup", ())} & {*groups.get("postgresql", ())}):
        yield (
            f"group backup: {name} is in the group postgresql too, and its backups would be lost with it: put "
            "another host into the group backup"
        )
    for name in sorted({*groups.get("monitoring", ())} - {*groups.get("exporter", ())}):
        yield (
            f"group monitoring: {name} is not in the group exporter, and Prometheus scrapes the exporter of its own "
            f"host: put {name} into the group exporter too"
        )


def releases(hosts):
    """Backups are on a host with PostgreSQL's release of Debian: pgBackRest speaks to its own version alone."""
    servers = [host for host in hosts if host.is_in("postgresql")]
    for keeper in [host for host in hosts if host.is_in("backup")]:
        own = keeper.facts.get("distribution_major_version")
        for server in servers:
            if (other := server.facts.get("distribution_major_version")) != own:
                yield (
                    f"{keeper.name}: ansible_facts.distribution is Debian {own}, but {server.name} in the group "
                    f"postgresql has Debian {other}, and pgBackRest speaks to its own version alone: put a host with "
                    f"Debian {other} into the group backup"
                )


def _majority(name, groups):
    count = len(groups.get(name, ()))
    if count > 1 and count % 2 == 0:
        yield (
            f"group {name} has {count} hosts: where half of them cannot reach the other half, neither half is the "
            "majority, and nothing is written any more. With two, the loss of any one would do that: put one host or "
            "three into the group"
        )


def copies(hosts):
    """The hosts that keep copies of one database have one version of PostgreSQL, and speak TLS."""
    servers = [host for host in hosts if host.is_in("postgresql")]
    if len(servers) < 2:
        return
    versions = {}
    for server in servers:
        version = str(server.given("postgresql_version") or server.values.get("postgresql_brought"))
        versions.setdefault(version, []).append(server.name)
    if len(versions) > 1:
        said = "; ".join(f"{version} on {', '.join(names)}" for version, names in sorted(versions.items()))
        yield (
            f"group postgresql has several versions of PostgreSQL, which cannot copy from each other ({said}): use "
            "the same release of Debian for all hosts of the group, or the same postgresql_version"
        )
    for server in servers:
        if not boolean(server.values.get("site_postgresql_tls"), strict=False):
            yield (
                f"{server.name}: site_postgresql_tls is off, but the hosts of the group postgresql send each other "
                "people's mail: leave the variable out"
            )


def replicas(hosts):
    """Hosts of Redis that replicate each other have the same instances, and one version of Redis."""
    servers = [host for host in hosts if host.is_in("redis")]
    if not servers or len(servers[0].groups["redis"]) < 2:
        return
    instances = {
        host.name: sorted((each["name"], int(each["port"])) for each in host["redis_instances"] or [])
        for host in servers
    }
    if len({str(each) for each in instances.values()}) > 1:
        said = "; ".join(
            f"{name}: {', '.join(f'{n} {port}' for n, port in each)}" for name, each in instances.items()
        )
        yield (
            f"redis_instances differ among the hosts of the group redis ({said}), and each instance has a replica on "
            "each host: set redis_instances for the whole group"
        )
    releases = {host.name: host.facts.get("distribution_major_version") for host in servers}
    if len({*releases.values()}) > 1:
        said = ", ".join(f"{name}: Debian {release}" for name, release in releases.items())
        yield (
            f"the hosts of the group redis have different releases of Debian ({said}), and an older Redis cannot "
            "read what a newer one sends to its replicas: use one release"
        )


def values(hosts):
    """The findings on single values (preflight_values.py), each once for all hosts that have the same finding."""
    having = {}
    for host in hosts:
        for finding in dict.fromkeys(host.mistakes.get("findings", ())):
            having.setdefault(finding, []).append(host.name)
    return [f"{', '.join(names)}: {finding}" for finding, names in having.items()]


def as_far_as_typed(findings):
    """The findings of a check, up to the point where the check needs a value of a wrong type."""
    try:
        yield from findings
    except MistypedError:
        return


CHECKS = (
    operating_system,
    ports,
    postgresql_version,
    databases,
    names,
    memory,
    worker_memory,
    time_limits,
    pools,
    redis_instances,
    power_cut,
    certificates,
    certificate_ends,
    files,
    delivery,
)


def preflight_findings(hostvars, groups, mistakes, samples, clock_seconds):
    """All findings, each beginning with the host that it is about; `mistakes` are those of `preflight_mistakes`."""
    hosts = [Host(name, hostvars[name], groups, mistakes[name]) for name in mistakes]
    found = [*groups_of(groups), *releases(hosts), *values(hosts), *clocks(hosts, float(clock_seconds))]
    found += as_far_as_typed(connections(hosts))
    found += as_far_as_typed(copies(hosts))
    found += as_far_as_typed(replicas(hosts))
    for host in hosts:
        for check in CHECKS:
            found += [f"{host.name}: {finding}" for finding in as_far_as_typed(check(host))]
    # Secrets are the same on all hosts, so their findings are reported once.
    found += sorted({finding for host in hosts for finding in secrets(host, samples)})
    return found


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self):
        """The filters by name."""
        return {"preflight_findings": preflight_findings}
