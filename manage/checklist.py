"""The production checklist: the one list that `preflight` judges and docs/production-checklist.md shows."""

from collections.abc import Mapping
from dataclasses import dataclass

from manage import checklist_hosts as hosts
from manage import checklist_notes as notes
from manage import checklist_values as values
from manage.verdict import Judge

_SITE = "./manage.sh -i inventories/NAME"
_PLAYBOOK = "ansible-playbook -i inventories/NAME"


@dataclass(frozen=True)
class Item:
    """One thing to be seen to before people rely on a site: why, the command that checks it, and what judges it."""

    name: str
    what: str
    why: str
    command: str
    judge: Judge


def _on(group: str, command: str) -> str:
    return f"ansible -i inventories/NAME {group} -b -a '{command}'"


SECTIONS: Mapping[str, tuple[Item, ...]] = {
    "The site works": (
        Item(
            "hosts",
            "Every host can be reached",
            "what cannot be reached can neither be set up nor looked at",
            f"{_SITE} ps",
            hosts.reachable,
        ),
        Item(
            "ground",
            "Nothing is in the way of `site.yml`",
            "memory, ports, names, room, secrets and limits that do not fit stop a deployment, or fail under load",
            f"{_PLAYBOOK} playbooks/preflight.yml",
            hosts.ground,
        ),
        Item(
            "health",
            "Every part does its work",
            "a unit that runs and takes no tasks looks well from outside",
            f"{_SITE} health --strict",
            hosts.works,
        ),
        Item(
            "on_time",
            "Tasks, syncs and mail are not late",
            "lateness is what people notice first, and it shows too few processes or hosts",
            f"{_SITE} queue:status",
            hosts.health(*hosts.LATENESS),
        ),
        Item(
            "schedule",
            "Beat keeps its schedule",
            "without beat no account is synced by itself, and nothing that has expired is removed",
            f"{_SITE} beat:status",
            hosts.health(*hosts.SCHEDULE),
        ),
        Item(
            "dead_letters",
            "No dead letter and no mail in doubt waits for a decision",
            "each is work that nobody does any more until a person decides",
            f"{_SITE} dlq list",
            hosts.health(*hosts.DEAD_LETTERS),
        ),
        Item(
            "releases",
            "All hosts run the same release",
            "a deployment that stopped half-way leaves two behind",
            f"{_SITE} version",
            hosts.health(*hosts.RELEASES),
        ),
    ),
    "It bears trouble": (
        Item(
            "redis_instances",
            "Broker and results have a Redis each",
            "results that fill the one Redis keep it from taking tasks",
            _on("redis", "systemctl list-units redis-server@*"),
            values.redis_instances,
        ),
        Item(
            "memory",
            "Workers and Redis have memory limits",
            "one part that grows without a limit takes its whole host with it",
            _on("celery_workers", "systemctl show -p MemoryMax,MemoryCurrent celery-worker"),
            values.memory_limits,
        ),
        Item(
            "restarts",
            "Units are restarted when they die or hang, and start with their hosts",
            "nobody is there at three in the morning",
            _on("celery_workers", "systemctl show -p Restart,WatchdogUSec,UnitFileState celery-worker"),
            hosts.restarts,
        ),
        Item(
            "graceful_stop",
            "A worker that is stopped may finish its tasks",
            "a task that is killed waits for the visibility timeout, 20 minutes, before it runs again",
            _on("celery_workers", "systemctl show -p TimeoutStopUSec celery-worker"),
            values.graceful_stop,
        ),
        Item(
            "spare_worker",
            "A second host runs workers",
            "mail waits while the only host is restarted, updated or broken",
            f"{_SITE} worker:ping",
            values.spare_worker,
        ),
        Item(
            "disks",
            "Disks have room",
            "a full disk stops PostgreSQL and Redis",
            f"{_SITE} health --all",
            hosts.health(*hosts.DISKS),
        ),
        Item(
            "clocks",
            "Clocks agree",
            "times in logs and in certificates mean nothing otherwise",
            _on("all", "timedatectl status"),
            hosts.health(*hosts.CLOCKS),
        ),
    ),
    "It keeps others out": (
        Item(
            "tls",
            "Redis and PostgreSQL speak TLS to other hosts",
            "mail and passwords pass between them",
            "ssh WORKER openssl s_client -brief -CAfile /etc/metabuilder/tls/ca.crt -connect REDIS:6379 </dev/null",
            values.tls,
        ),
        Item(
            "certificates",
            "Certificates are valid for two more weeks",
            "on the day on which one ends every connection fails",
            "ansible -i inventories/NAME all -b -m ansible.builtin.shell -a "
            "'for file in /etc/metabuilder/tls/*.crt; do echo $file; openssl x509 -noout -enddate -in $file; done'",
            hosts.health(*hosts.CERTIFICATES),
        ),
        Item(
            "mail_certificates",
            "Certificates of mail servers are checked",
            "a worker would send people's passwords to anybody in between",
            _on(
                "celery_workers", "grep -h SSL_VERIFY /etc/metabuilder/celery.env /etc/metabuilder/celery-worker.env"
            ),
            values.mail_certificates,
        ),
        Item(
            "firewall",
            "The firewall drops what is not meant for a host",
            "whoever reaches Redis needs nothing but a password",
            _on("all", "nft list table inet metabuilder"),
            values.firewall,
        ),
        Item(
            "pages",
            "Flower and exporter listen on loopback",
            "their traffic and their login are not encrypted",
            _on("flower:exporter", "ss -ltn"),
            values.pages,
        ),
        Item(
            "vault",
            "Secrets are encrypted in the inventory",
            "whoever reads the folder, or a copy of it, has the whole site",
            "head -n 1 inventories/NAME/group_vars/all/secrets.yml",
            values.vault,
        ),
        Item(
            "host_keys",
            "ssh checks the keys of the hosts",
            "Ansible hands all secrets to whoever answers",
            "grep -rE 'StrictHostKeyChecking|host_key_checking' inventories/NAME",
            values.ssh,
        ),
        Item(
            "private_logs",
            "Logs hold no mail addresses and no text of statements",
            "logs are read, copied and kept by more people than mail is",
            _on("celery_workers", 'grep -E "^(DEBUG|LOG_)" /etc/metabuilder/celery.env'),
            values.private_logs,
        ),
        Item(
            "updates",
            "No security update waits",
            "known holes are tried first",
            _on("all", "apt-get --simulate dist-upgrade"),
            hosts.updates,
        ),
    ),
    "Somebody knows": (
        Item(
            "metrics",
            "An exporter tells metrics",
            "what nobody measures is noticed by your users first",
            "ansible -i inventories/NAME exporter -m ansible.builtin.uri -a url=http://127.0.0.1:8000/readyz",
            values.metrics,
        ),
        Item(
            "alerts",
            "An alert reaches a person",
            "the way from a rule to a telephone has many parts that break in silence",
            "amtool alert add alertname=Test severity=critical --alertmanager.url=http://127.0.0.1:9093 "
            "--http.config.file=<(echo 'basic_auth: {username: admin, "
            "password_file: /etc/metabuilder/monitoring/password}')",
            notes.noted("alerts", "Send a test alert and see it arrive (docs/operations.md, Alerts)", notes.delivery),
        ),
        Item(
            "log_collection",
            "Logs are kept on another host",
            "a host that breaks takes its journal with it",
            _on("all", "systemctl is-active systemd-journal-upload metabuilder-log-collector"),
            notes.journals,
        ),
        Item(
            "load_test",
            "The site has borne its load",
            "only your mail servers, accounts and hosts together tell how many processes are needed",
            f"{_SITE} queue:status --rate 60 --json > inventories/NAME/{notes.LOAD_TEST}",
            notes.noted(
                "load_test",
                "Have the application queue what a busy hour brings, and measure it with the command of this item",
                notes.load,
            ),
        ),
        Item(
            "sla",
            "What you promise is written down and kept",
            "nobody can say whether a wait of a minute is a fault until somebody has promised something",
            f"{_SITE} stats",
            notes.promise,
        ),
    ),
    "You can come back": (
        Item(
            "backup",
            "PostgreSQL is backed up, and a backup has been restored",
            "a lost disk is lost mail, as stored mail exists nowhere else once a server has deleted it",
            f"{_SITE} backup list",
            notes.noted(
                "backup",
                "Put a host into the group backup (docs/backup.md), or make backups by a tool of your own, and "
                "restore one on another host",
                notes.backup,
            ),
        ),
        Item(
            "secrets_copy",
            "Secrets, the vault's password and the site's authority are kept elsewhere",
            "without the credential key nobody can read the stored mail passwords again",
            "cat COPY/group_vars/all/secrets.yml COPY/tls/ca.key | sha256sum",
            notes.noted(
                "secrets_copy",
                "Open the copy of secrets.yml with the vault's password that lies in another place",
                notes.copied,
            ),
        ),
        Item(
            "rollout",
            "A deployment and the way back have been tried on a copy of the site",
            "the first rollback should not be the urgent one",
            "ansible-playbook -i inventories/COPY playbooks/rollback.yml",
            notes.noted("rollout", "Run deploy.yml and then rollback.yml on a site for trying out", notes.way_back),
        ),
    ),
}

# The variables of the inventory that the judges read.
VARIABLES = (
    "ansible_connection",
    "ansible_host_key_checking",
    "ansible_ssh_args",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ansible_ssh_host_key_checking",
    "application_debug",
    "application_log_addresses",
    "application_log_level",
    "application_ssl_verify",
    "backup_enabled",
    "celery_beat_watchdog_seconds",
    "celery_worker_memory_max",
    "celery_worker_pools",
    "celery_worker_stop_timeout",
    "celery_worker_task_timeout",
    "celery_worker_watchdog_seconds",
    "exporter_address",
    "exporter_watchdog_seconds",
    "firewall_enabled",
    "firewall_policy",
    "flower_address",
    "flower_watchdog_seconds",
    "group_names",
    "mail_watcher_watchdog_seconds",
    "monitoring_mail_to",
    "monitoring_server",
    "monitoring_webhook_url",
    "postgresql_log_min_duration_ms",
    "preflight_backup_files",
    "preflight_backup_hours",
    "preflight_busy_rate",
    "preflight_done",
    "preflight_done_days",
    "preflight_not_applicable",
    "preflight_promised_waits",
    "preflight_secrets_digest",
    "redis_instances",
    "redis_maxmemory",
    "site_postgresql_tls",
    "site_redis_host",
    "site_redis_port",
    "site_redis_result_host",
    "site_redis_result_port",
    "site_redis_tls",
    "tls_directory",
)


def items() -> list[Item]:
    """All items, in the order in which they are shown."""
    return [item for section in SECTIONS.values() for item in section]


def tables() -> str:
    """The items as the tables of docs/production-checklist.md."""
    parts = []
    for title, section in SECTIONS.items():
        rows = [f"| `{item.name}` | {item.what}: {item.why} | `{_cell(item.command)}` |" for item in section]
        head = ["| item | what, and why | the command that checks it |", "|---|---|---|"]
        parts.append("\n".join([f"## {title}", "", *head, *rows, ""]))
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
