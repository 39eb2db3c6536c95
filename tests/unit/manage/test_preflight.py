"""`./manage.sh preflight`: what each item of the production checklist says, and what the verb makes of it."""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from manage import cli, site
from manage.checklist import VARIABLES, items
from manage.preflight import _files
from manage.site import Answer, Site
from manage.verdict import Known, Word
from native.check import Check
from tasks.registry import SEND_EMAIL

TODAY = date(2026, 11, 27)
UNIT = {"unit": "celery-worker.service", "state": "active", "restart_policy": "always", "starts_with_host": True}
UPDATES = {"waiting": 0, "security": 0, "reboot": False}
# Whatever `health` looks at, as it is on a site that is well.
WELL = ("units", "queues", "accounts", "beat", "dead letters", "releases", "disk /", "certificate redis.crt", "clock")
NOTED = ("alerts", "load_test", "backup", "secrets_copy", "rollout")
CLOCK = time.mktime(TODAY.timetuple())
NO_FILE = {"path": None, "written": None, "bytes": None}
BACKUP = {"path": "/b/1.dump", "written": CLOCK - 3600, "bytes": 9}
STATE = {
    "units": [UNIT],
    "updates": {**UPDATES, "fetched": CLOCK},
    "clock": CLOCK,
    "release": "2",
    "previous": "1",
    "journals": {"sends": True, "received": None},
    "backup": NO_FILE,
}
COLLECTS = {"sends": False, "received": CLOCK - 60}
FELL_BEHIND = {"queue": "sync", "in_per_second": 20.0, "out_per_second": 9.0}
KEPT_UP = {"queue": "send", "in_per_second": 20.0, "out_per_second": 21.0}


def values(*groups: str, **changed: Any) -> dict[str, Any]:
    """The variables of a host of a site for which everything is seen to."""
    found: dict[str, Any] = {
        **dict.fromkeys(VARIABLES, ""),
        **dict.fromkeys((name for name in VARIABLES if name.endswith("watchdog_seconds")), 60),
        "ansible_connection": "ssh",
        "application_debug": False,
        "application_log_addresses": False,
        "application_log_level": "INFO",
        "application_ssl_verify": True,
        "celery_worker_memory_max": "2560M",
        "celery_worker_pools": [{"name": "send", "queues": ["send"]}],
        "celery_worker_stop_timeout": 330,
        "celery_worker_task_timeout": 300,
        "exporter_address": "127.0.0.1",
        "backup_enabled": True,
        "firewall_enabled": True,
        "firewall_policy": "drop",
        "flower_address": "::1",
        "group_names": list(groups),
        "monitoring_mail_to": "ops@example.org",
        "monitoring_server": True,
        "postgresql_log_min_duration_ms": -1,
        "preflight_backup_files": "/b/*.dump",
        "preflight_backup_hours": 26,
        "preflight_busy_rate": 20,
        "preflight_done": dict.fromkeys(NOTED, "2026-11-01"),
        "preflight_done_days": 365,
        "preflight_not_applicable": {},
        "preflight_promised_waits": {"send_email": 60, "delete_emails": 5},
        "redis_instances": [{"name": "broker", "port": 6379}, {"name": "results", "port": 6380, "maxmemory": "1gb"}],
        "redis_maxmemory": "512mb",
        "site_postgresql_tls": True,
        "site_redis_host": "r1",
        "site_redis_port": 6379,
        "site_redis_result_host": "r1",
        "site_redis_result_port": 6380,
        "site_redis_tls": True,
        "tls_directory": "/no/such/folder",
    }
    assert changed.keys() <= found.keys() == {*VARIABLES}
    return found | changed


def known(
    folder: Path, *, checks: Sequence[Check] = (), state: Mapping[str, Any] | None = None, **changed: Any
) -> Known:
    """A site that is well, but for what is changed on its worker w1, and but for `checks`."""
    (folder / "load-test.json").write_text(json.dumps({"w1": [KEPT_UP]}))
    hosts = {
        "r1": values("redis", "postgresql", "log_collection"),
        "w1": values("celery_workers", "celery_beat", "flower", "exporter", "monitoring", **changed),
        "w2": values("celery_workers"),
    }
    found = [("w1", Check(name, True, "is well")) for name in WELL] + [("", check) for check in checks]
    states = {
        "r1": {**STATE, "release": None, "journals": COLLECTS, "backup": BACKUP},
        "w1": {**STATE, **(state or {})},
    }
    waits = {"send_email": {"30": 95, "60": 4, "+Inf": 1}, "sync_emails": {"+Inf": 5}}
    return Known(str(folder), _files([str(folder)]), TODAY, hosts, [], {}, states, found, waits)


def verdicts(site: Known) -> dict[str, tuple[Word, str]]:
    found = {item.name: item.judge(site) for item in items()}
    return {name: (one.word, f"{one.detail}. {one.advice}") for name, one in found.items()}


def test_a_site_where_everything_is_seen_to_is_ok(tmp_path: Path) -> None:
    assert {name: said for name, (word, said) in verdicts(known(tmp_path)).items() if word != Word.OK} == {}


@pytest.mark.parametrize(
    ("item", "changed", "said"),
    [
        ("redis_instances", {"site_redis_result_port": 6379}, "on w1 both are r1:6379"),
        ("tls", {"site_redis_tls": False}, "site_redis_tls is off for w1"),
        ("tls", {"site_postgresql_tls": False}, "site_postgresql_tls is off for w1"),
        ("mail_certificates", {"application_ssl_verify": False}, "application_ssl_verify is off for w1"),
        ("firewall", {"firewall_enabled": False}, "firewall_enabled is off for w1"),
        ("firewall", {"firewall_policy": "accept"}, "on w1"),
        ("pages", {"flower_address": "0.0.0.0"}, "flower_address is 0.0.0.0 on w1"),
        ("pages", {"exporter_address": "192.0.2.1"}, "exporter_address is 192.0.2.1 on w1"),
        ("host_keys", {"ansible_ssh_common_args": "-o StrictHostKeyChecking=no"}, "keys of w1 are not checked"),
        ("host_keys", {"ansible_host_key_checking": False}, "keys of w1 are not checked"),
        ("private_logs", {"application_log_level": "DEBUG"}, "application_log_level is DEBUG"),
        ("private_logs", {"application_debug": True}, "application_debug is True"),
        ("memory", {"celery_worker_memory_max": "infinity"}, "celery_worker_memory_max of w1 is infinity"),
        ("memory", {"celery_worker_pools": [{"name": "send", "memory_max": "infinity"}]}, "the pool send"),
        ("graceful_stop", {"celery_worker_stop_timeout": 300}, "w1 has 300 s for tasks of up to 300 s"),
        ("restarts", {"celery_worker_watchdog_seconds": 0}, "celery_worker_watchdog_seconds is 0 on w1"),
    ],
)
def test_a_value_that_should_not_be_is_named_with_what_to_do(
    tmp_path: Path, item: str, changed: dict[str, Any], said: str
) -> None:
    found = verdicts(known(tmp_path, **changed))
    assert {name for name, (word, _) in found.items() if word != Word.OK} == {item}
    word, text = found[item]
    assert (word, said in text) == (Word.NOT_OK, True), text
    assert not text.endswith(". "), "it does not say what to do"


@pytest.mark.parametrize(
    ("item", "component"),
    [
        ("health", "consuming"),
        ("health", "unit celery-beat"),
        ("on_time", "outbox"),
        ("schedule", "beat"),
        ("dead_letters", "outbox in doubt"),
        ("releases", "releases at work"),
        ("disks", "disk /var"),
        ("clocks", "clocks"),
        ("certificates", "certificate ca.crt"),
    ],
)
@pytest.mark.parametrize("check", [("is broken", False), ("is to be looked at", True)])
def test_what_health_finds_belongs_to_one_item(
    tmp_path: Path, item: str, component: str, check: tuple[str, bool]
) -> None:
    detail, works = check
    found = verdicts(known(tmp_path, checks=[Check(component, works, detail, "Mend it", warns=works)]))
    bad = {name: text for name, (word, text) in found.items() if word != Word.OK}
    assert bad == {item: f"{component}: {detail}. Mend it"}


@pytest.mark.parametrize(
    ("item", "state", "said"),
    [
        ("updates", {"updates": {**UPDATES, "security": 3, "fetched": time.time()}}, "w1: 3 security updates wait"),
        ("updates", {"updates": {**UPDATES, "reboot": True, "fetched": time.time()}}, "w1: needs a reboot"),
        ("updates", {"updates": {**UPDATES, "fetched": 0}}, "w1: nobody has looked for updates for"),
        ("restarts", {"units": [{**UNIT, "restart_policy": "no"}]}, "celery-worker.service is not restarted"),
        ("restarts", {"units": [{**UNIT, "starts_with_host": False}]}, "does not start with the host"),
    ],
)
def test_what_a_host_says_of_itself(tmp_path: Path, item: str, state: dict[str, Any], said: str) -> None:
    word, text = verdicts(known(tmp_path, state=state))[item]
    assert (word, said in text) == (Word.NOT_OK, True), text


@pytest.mark.parametrize(
    ("text", "is_encrypted"),
    [
        ("redis_password: readable\n", False),
        ("all:\n  vars:\n    tls_ca_passphrase: 'readable'\n", False),
        ("$ANSIBLE_VAULT;1.1;AES256\n6162\n", True),
        ("redis_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n", True),
        ("redis_password: \"{{ lookup('ansible.builtin.env', 'REDIS') }}\"\n", True),
        ("redis_password:\n  # redis_password: one\n", True),
        ('{"all": {"vars": {"flower_password": "readable"}}}\n', False),
        ("one redis_port=6379 redis_password=readable\n", False),
    ],
)
def test_secrets_that_can_be_read_are_found_in_any_file(tmp_path: Path, text: str, is_encrypted: bool) -> None:
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "w1.yml").write_text(text)
    word, said = verdicts(known(tmp_path))["vault"]
    assert (word == Word.OK) == is_encrypted, said
    assert "readable" not in said


def test_the_files_of_an_inventory_are_those_that_ansible_reads(tmp_path: Path) -> None:
    for name in ("hosts.yml", "other.yml", "group_vars/all/main.yml", "host_vars/w1.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    whole, one = _files([str(tmp_path)]), _files([str(tmp_path / "hosts.yml"), "a-host,"])
    assert len(whole) == 4
    assert [file.name for file in one] == ["hosts.yml", "main.yml", "w1.yml"]


def test_the_authority_needs_a_passphrase(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    site = known(tmp_path)
    site.values["r1"]["tls_directory"] = tmp_path  # type: ignore[index]
    assert verdicts(site)["vault"][0] == Word.NOT_OK
    (tmp_path / "ca.key").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert verdicts(site)["vault"][0] == Word.OK


@pytest.mark.parametrize("name", NOTED)
@pytest.mark.parametrize(
    ("day", "is_ok"),
    [
        ("2026-11-27", True),
        ("2025-11-27", True),
        ("2025-11-26", False),
        ("2026-11-28", False),
        ("soon", False),
        (None, False),
    ],
)
def test_what_no_program_sees_is_noted_with_its_day(tmp_path: Path, name: str, day: str | None, is_ok: bool) -> None:
    site = known(tmp_path)
    site.values["r1"]["preflight_done"] = {name: day} if day else {}  # type: ignore[index]
    assert (verdicts(site)[name][0] == Word.OK) == is_ok


@pytest.mark.parametrize(
    ("item", "group", "variable"),
    [
        ("tls", "celery_beat", "site_postgresql_tls"),
        ("tls", "mail_watchers", "site_postgresql_tls"),
        ("mail_certificates", "mail_watchers", "application_ssl_verify"),
    ],
)
def test_hosts_without_a_worker_that_speak_to_others_are_judged(item: str, group: str, variable: str) -> None:
    """Beat logs in to PostgreSQL, and watchers to mail servers, too."""
    site = {"one": values("redis", "postgresql", "celery_workers"), "two": values(group, **{variable: False})}
    assert f"{variable} is off for two" in verdicts(Known("x", [], TODAY, site))[item][1]


def test_a_site_of_one_host(tmp_path: Path) -> None:
    one = values("redis", "postgresql", "celery_workers", site_redis_tls=False, site_postgresql_tls=False)
    found = verdicts(Known("x", [], TODAY, {"one": one}))
    assert found["tls"][0] == found["pages"][0] == Word.NOT_APPLICABLE
    assert found["spare_worker"][0] == found["metrics"][0] == Word.NOT_OK


@pytest.mark.parametrize(
    ("item", "changed", "said"),
    [
        ("alerts", {"monitoring_mail_to": ""}, "nobody is told of the alerts of w1. Set monitoring_mail_to"),
        ("log_collection", {"r1": {"journals": {**COLLECTS, "received": None}}}, "r1 has received nothing ever"),
        (
            "log_collection",
            {"r1": {"journals": {**COLLECTS, "received": CLOCK - 90_000}}},
            "nothing since 2026-11-25",
        ),
        ("log_collection", {"w1": {"journals": {"sends": False, "received": None}}}, "w1 sends nothing to r1"),
        ("backup", {"preflight_backup_files": "", "backup_enabled": False}, "backup_enabled is off"),
        ("backup", {"r1": {"backup": NO_FILE}}, "no file matches /b/*.dump on any host"),
        ("backup", {"r1": {"backup": {**BACKUP, "written": CLOCK - 27 * 3600}}}, "/b/1.dump on r1, is of 2026-11-25"),
        ("backup", {"r1": {"backup": {**BACKUP, "bytes": 0}}}, "/b/1.dump on r1 is empty"),
        ("sla", {"preflight_promised_waits": {}}, "nothing is promised in the inventory"),
        (
            "sla",
            {"preflight_promised_waits": {"send_email": 30, "sync_emails": 9}},
            "0.0% of 5 tasks sync_emails began",
        ),
        ("sla", {"preflight_promised_waits": {"sent_email": 30}}, "sent_email, which is no task"),
        ("rollout", {"w2": {"previous": None}}, "w2 has no release to go back to"),
    ],
)
def test_what_a_program_can_know_of_an_item_counts_before_what_a_person_noted(
    tmp_path: Path, item: str, changed: dict[str, Any], said: str
) -> None:
    site = known(tmp_path)
    assert site.states is not None
    for name, value in changed.items():
        if name in (*site.states, "w2"):
            site.states[name] = {**site.states.get(name, STATE), **value}  # type: ignore[index]
        else:
            for host in site.values:
                site.values[host][name] = value  # type: ignore[index]
    found = verdicts(site)
    assert {name for name, (word, _) in found.items() if word == Word.NOT_OK} == {item}
    assert said in found[item][1]
    assert not found[item][1].endswith(". "), "it does not say what to do"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([KEPT_UP, FELL_BEHIND], "sync got 20.0 tasks a second and ended 9.0"),
        (
            [{**KEPT_UP, "in_per_second": 0.0, "out_per_second": 19.0}],
            "19.0 tasks a second were measured, of 20 in a",
        ),
        ([{**KEPT_UP, "in_per_second": 0.0, "out_per_second": 0.0}], "no task ended while"),
        ([{"queue": "send", "depth": 1}], "has no figures of queue:status --rate"),
        (None, "there is no "),
    ],
)
def test_a_load_test_shows_that_queues_keep_up(tmp_path: Path, rows: list[Any] | None, said: str) -> None:
    site, file = known(tmp_path), tmp_path / "load-test.json"
    file.write_text(json.dumps({"w1": rows})) if rows else file.unlink()
    [item] = [item for item in items() if item.name == "load_test"]
    found = item.judge(site)
    assert (found.word, said in found.detail, f"> {file}" in found.advice or "docs/tuning.md" in found.advice) == (
        Word.NOT_OK,
        True,
        True,
    ), found


def test_a_copy_of_the_secrets_is_compared_with_those_of_today(tmp_path: Path) -> None:
    (tmp_path / "secrets.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    site = known(tmp_path)
    word, text = verdicts(site)["secrets_copy"]
    assert (word, "nobody has noted which secrets were copied" in text) == (Word.NOT_OK, True), text
    command = text.partition("run ")[2].partition(" with")[0]
    digest = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.split()[0]
    site.values["r1"]["preflight_secrets_digest"] = digest  # type: ignore[index]
    assert verdicts(site)["secrets_copy"][0] == Word.OK
    (tmp_path / "secrets.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6163\n")
    assert "changed since they were copied" in verdicts(site)["secrets_copy"][1]


def test_parts_that_are_elsewhere_are_left_to_a_note(tmp_path: Path) -> None:
    site = known(tmp_path, group_names=["celery_workers"])
    site.values["r1"]["group_names"] = ["redis", "postgresql"]  # type: ignore[index]
    found = verdicts(site)
    assert (found["alerts"][0], found["log_collection"][0]) == (Word.OK, Word.NOT_OK)
    site.values["r1"]["preflight_done"]["log_collection"] = "2026-11-01"
    assert verdicts(site)["log_collection"] == (Word.OK, "noted on 2026-11-01. ")


class Stub:
    """Stands in for Ansible: a site of one host, which is away, or has what `state` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.inventory = folder / "hosts.yml"
        self.inventory.write_text("celery_workers: {hosts: {w1: }}\n")
        self.values = values("celery_workers")
        self.looked: list[dict[str, Any]] = [{"unreachable": True, "msg": "No route \x1b[2J"}]
        self.state: dict[str, Any] = {}
        monkeypatch.setattr(Site, "play", lambda _, *__: self._play())
        monkeypatch.setattr(Site, "run", lambda _, hosts, argv, *__: self._run(hosts, argv))

    def _play(self) -> list[list[site.Result]]:
        shown = site.Result("Say what the checklist needs of it", "w1", {"msg": self.values})
        return [[shown], [site.Result("preflight : Show all findings at once", "w1", said) for said in self.looked]]

    def _run(self, hosts: Sequence[str], argv: Sequence[str]) -> list[Answer]:
        out: Any = (
            [{"host": None, **Check("consuming", False, "stuck").as_dict()}] if "health" in argv else self.state
        )
        if "stats" in argv:
            out = [{"task": SEND_EMAIL, "waits": {"30": 99, "+Inf": 1}}]
        return [Answer(host, 0, json.dumps(out), "") for host in hosts]

    def verb(self, *options: str) -> Result:
        return CliRunner().invoke(cli.main, ["preflight", "-i", str(self.inventory), *options])

    def found(self) -> tuple[int, dict[str, tuple[str, str]]]:
        done = self.verb("--json")
        return done.exit_code, {row["item"]: (row["verdict"], row["detail"]) for row in json.loads(done.stdout)}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stub:
    return Stub(monkeypatch, tmp_path)


def test_before_anything_runs_the_inventory_alone_is_judged(stub: Stub) -> None:
    code, found = stub.found()
    assert (code, found["hosts"]) == (1, ("not ok", "w1: No route \x1b[2J"))
    assert found["health"] == found["restarts"] == ("not applicable", "no host can be reached")
    assert found["ground"] == ("not applicable", "not all hosts can be reached")
    assert found["memory"][0] == "ok"
    # Where the host can be reached, what preflight finds is said, and that nothing runs there yet.
    stub.looked = [
        {"failed": True, "msg": ["Nothing was changed. Mend these first:", "w1: memory", "redis_password"]}
    ]
    stub.state = {**STATE, "units": [], "disks": [], "certificates": [], "release": None, "clock": time.time()}
    stub.state["updates"] = {**UPDATES, "fetched": time.time()}
    _, found = stub.found()
    assert found["ground"] == ("not ok", "w1: memory; redis_password")
    assert found["health"] == found["disks"] == ("not applicable", "not deployed yet")
    # Where something runs, a worker is asked for the site.
    stub.looked, stub.state["units"] = [{"skipped": True}], [UNIT]
    _, found = stub.found()
    assert found["ground"][0] == "ok"
    assert found["health"] == ("not ok", "consuming: stuck")
    assert found["sla"] == ("ok", "99.0% of send_email within 60 s")


def test_commands_name_the_inventories_of_the_site(stub: Stub, tmp_path: Path) -> None:
    done = stub.verb("-i", "a host,", "--json")
    commands = {row["item"]: row["command"] for row in json.loads(done.stdout)}
    given = f"-i {stub.inventory} -i 'a host,'"
    assert commands["hosts"] == f"./manage.sh {given} ps"
    assert commands["vault"] == f"head -n 1 {tmp_path}/group_vars/all/secrets.yml"
    assert commands["load_test"] == f"./manage.sh {given} queue:status --rate 60 --json > {tmp_path}/load-test.json"
    assert "inventories/NAME" not in done.stdout


def test_an_item_may_be_left_out_with_a_reason_and_all_that_is_left_decides_the_exit_code(stub: Stub) -> None:
    stub.values["preflight_not_applicable"] = {item.name: f"not {item.name}" for item in items()}
    done = stub.verb()
    assert (done.exit_code, done.stderr) == (0, f"0 ok, 0 not ok, {len(items())} not applicable\n")
    del stub.values["preflight_not_applicable"]["hosts"]
    shown = stub.verb()
    assert (shown.exit_code, "\x1b" in shown.output, r"No route \x1b[2J" in shown.stdout) == (1, False, True)
    assert (
        "not applicable  rollout: A deployment and the way back have been tried on a copy of the site: not rollout"
        in shown.stdout
    )


@pytest.mark.parametrize("variable", ["preflight_done", "preflight_not_applicable"])
@pytest.mark.parametrize(
    ("given", "said"), [({"bakup": "2026-11-27"}, "has bakup, which is no item"), ("x", "no mapping")]
)
def test_an_item_that_is_none_is_refused(stub: Stub, variable: str, given: Any, said: str) -> None:
    stub.values[variable] = given
    done = stub.verb()
    assert (done.exit_code, done.stderr.count("\n"), f"{variable}" in done.stderr and said in done.stderr) == (
        1,
        1,
        True,
    )


def test_a_site_has_to_be_named(stub: Stub) -> None:
    done = CliRunner().invoke(cli.main, ["preflight"])
    assert (done.exit_code, "preflight -i inventories/NAME" in done.stderr) == (2, True)
    both = CliRunner().invoke(cli.main, ["-i", str(stub.inventory), "preflight", "--json"])
    assert json.loads(both.stdout)[0]["item"] == "hosts"
    assert CliRunner().invoke(cli.main, ["preflight", "--limit", "w1"]).exit_code == 2
