"""`./manage.sh -i INVENTORY VERB`: which hosts are asked what, and what is made of their answers."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from manage import cli, site
from manage.passed_on import PROGRAM
from manage.site import Answer, Site
from native.check import Check
from native.state import ROOT

INVENTORY = """
redis: {hosts: {r1: }}
celery_workers: {hosts: {w1: , w2: }}
flower: {hosts: {w2: }}
others: {hosts: {o1: }}
"""
STATE = {"units": [], "disks": [], "certificates": [], "release": None, "clock": 0}
UNIT = {"unit": "celery-worker.service", "state": "failed", "detail": "failed", "pid": None}
UNIT |= {"uptime_seconds": None, "restarts": 3, "memory_bytes": None}


class Hosts:
    """Stands in for Ansible: what hosts were asked, and their answers, by name; those that are away have none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, inventory: Path) -> None:
        self.answers: dict[str, tuple[int, str, str]] = {}
        self.of_metabuilder: tuple[int, str, str] | None = (
            None  # what `metabuilder` says, where that is another answer
        )
        self.asked: list[tuple[tuple[str, ...], tuple[str, ...], str]] = []
        self._inventory = str(inventory)
        self.run_of_site = Site.run
        monkeypatch.setattr(Site, "run", lambda _, *asked: self._run(*asked))

    def _run(self, hosts: Sequence[str], argv: Sequence[str], stdin: str = "") -> list[Answer]:
        self.asked.append((tuple(hosts), tuple(argv), stdin))
        if self.of_metabuilder and argv[0] == PROGRAM:
            return [Answer(host, *self.of_metabuilder) for host in hosts]
        return [
            Answer(host, *self.answers[host]) if host in self.answers else Answer(host, 1, "", "is away", True)
            for host in hosts
        ]

    def verb(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(cli.main, ["-i", self._inventory, *arguments], input=stdin)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hosts:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(INVENTORY)
    return Hosts(monkeypatch, inventory)


def test_a_verb_about_the_site_is_answered_by_the_first_worker_that_can_be_reached(hosts: Hosts) -> None:
    hosts.answers = {"w2": (1, "queue  depth\n", "sync is blocked")}
    done = hosts.verb("queue:status", "--rate", "1")
    assert [asked[:2] for asked in hosts.asked] == [
        (("w1",), ("/usr/local/bin/metabuilder", "queue:status", "--rate", "1")),
        (("w2",), ("/usr/local/bin/metabuilder", "queue:status", "--rate", "1")),
    ]
    assert (done.exit_code, done.stdout) == (1, "w2:\nqueue  depth\n")
    assert done.stderr == "w1: is away\nsync is blocked\n"


def test_answers_for_programs_are_one_document_by_host(hosts: Hosts) -> None:
    hosts.answers = {"w1": (0, '{"python": "3.11"}', ""), "w2": (2, "no JSON", "Usage: …")}
    done = hosts.verb("version", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (2, {"w1": {"python": "3.11"}, "w2": None})
    assert done.stderr == "w2: Usage: …\n"


def test_no_control_character_of_a_host_comes_to_the_terminal(hosts: Hosts) -> None:
    hosts.answers = {"w1": (0, "\x1b]0;owned\x07", "\x1b[2J")}
    done = hosts.verb("stats")
    assert "\x1b" not in done.output
    assert r"\x1b]0;owned\x07" in done.output


@pytest.mark.parametrize(
    ("arguments", "stdin", "argv", "given"),
    [
        (("queue:flush", "spam"), "y\n", ("queue:flush", "--yes", "spam"), ""),
        (("queue:flush", "spam", "--yes"), "", ("queue:flush", "spam", "--yes"), ""),
        (("account", "password", "{{ x }}", "--password-stdin"), "secret\n",
         ("account", "password", "{{ x }}", "--password-stdin"), "secret\n"),
        (("redis-cli",), "INFO\n", ("redis-cli",), "INFO\n"),
        (("account", "list"), "not read", ("account", "list"), ""),
        # These ask on the host only where something is lost.
        (("task:revoke", "an-id"), "", ("task:revoke", "an-id"), ""),
        (("task:revoke", "--lift", "--name", "sync_emails"), "",
         ("task:revoke", "--lift", "--name", "sync_emails"), ""),
        (("task:revoke", "--name", "sync_emails"), "y\n", ("task:revoke", "--yes", "--name", "sync_emails"), ""),
        (("account", "all-mail", "a", "sync"), "", ("account", "all-mail", "a", "sync"), ""),
    ],
)  # fmt: skip
def test_arguments_and_standard_input_reach_the_host(
    hosts: Hosts, arguments: tuple[str, ...], stdin: str, argv: tuple[str, ...], given: str
) -> None:
    hosts.answers = {"w1": (0, "", "")}
    assert hosts.verb(*arguments, stdin=stdin).exit_code == 0
    assert hosts.asked == [(("w1",), ("/usr/local/bin/metabuilder", *argv), given)]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("demo",), 2, "works in a clone, on the native stack: ./manage.sh demo, without -i"),
        (("queue:lst",), 2, "Did you mean"),
        (("queue:list", "nonsense"), 2, "nonsense"),
        (("queue:flush", "spam"), 1, "Aborted"),
        (("top",), 1, "ssh -t HOST metabuilder top"),
        (("logs", "-f"), 1, "ssh -t HOST metabuilder logs -f"),
        (("--limit", "r1", "stats"), 1, "no host of celery_workers that matches --limit r1"),
    ],
)
def test_what_is_wrong_is_said_here_and_no_host_is_asked(
    hosts: Hosts, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = hosts.verb(*arguments)
    assert (done.exit_code, hosts.asked) == (code, [])
    assert said in done.stderr


def test_passwords_are_asked_for_once_and_are_no_arguments(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(site, "getpass", lambda prompt: asked.append(prompt) or f"sample {len(asked)}")
    site._password.cache_clear()
    read: list[str] = []

    monkeypatch.setenv("ANSIBLE_LOG_PATH", "/nowhere/a.log")  # which would have what is given on standard input

    def run(command: list[str], *, env: dict[str, str], **_: object) -> object:
        assert "ANSIBLE_LOG_PATH" not in env
        files = (command[command.index(f"--{name}-password-file") + 1] for name in ("vault", "become"))
        read.append("".join(Path(file).read_text() for file in files))
        assert "sample" not in " ".join(command)
        return SimpleNamespace(stdout='{"plays": []}', stderr="")

    monkeypatch.setattr(site.subprocess, "run", run)
    monkeypatch.setattr(Site, "run", hosts.run_of_site)
    hosts.verb("--ask-vault-pass", "-K", "restart", "worker")
    assert read == ["sample 1sample 2"]
    hosts.verb("--ask-vault-pass", "-K", "health")
    assert set(read) == {"sample 1sample 2"}
    assert len(asked) == 2


def test_limit_needs_a_site() -> None:
    done = CliRunner().invoke(cli.main, ["--limit", "w1", "ps"])
    assert (done.exit_code, "-i INVENTORY" in done.stderr) == (2, True)


def test_units_are_listed_of_every_host_where_something_of_ours_runs(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text(f"{INVENTORY}log_collection: {{hosts: {{c1: }}}}\n")
    hosts.answers = {
        "c1": (0, json.dumps(STATE), ""),
        "r1": (0, json.dumps(STATE), ""),
        "w2": (0, json.dumps({**STATE, "units": [UNIT]}), ""),
    }
    done = hosts.verb("ps", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (1, {"r1": [], "w2": [UNIT], "c1": []})
    assert done.stderr == "error: w1: is away\n"
    [(asked, argv, program)] = hosts.asked
    assert ({*asked}, argv) == ({"r1", "w1", "w2", "c1"}, ("/usr/bin/python3", "-", "state"))
    assert program == (ROOT / "manage/on_host.py").read_text()
    shown = hosts.verb("ps").stdout
    assert [word for word in ("w2", "celery-worker", "failed", "3") if word not in shown] == []


def test_hosts_are_restarted_one_after_the_other_until_one_fails(hosts: Hosts) -> None:
    unit = '["celery-worker.service"]\n'
    hosts.answers = {"r1": (0, "[]\n", ""), "w1": (1, unit, "Job failed"), "w2": (0, unit, "")}
    done = hosts.verb("restart", "worker")
    assert [asked[0] for asked in hosts.asked] == [("r1",), ("w1",)]
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "w1: celery-worker not restarted",
        "Left as they are: w2",
        "error: w1: Job failed",
    ]
    hosts.answers["w1"] = (0, unit, "")
    assert hosts.verb("worker:reload").stderr == "w1: celery-worker restarted\nw2: celery-worker restarted\n"
    # Where none has such a unit, that is an error.
    hosts.answers = dict.fromkeys(("r1", "w1", "w2"), (0, "[]\n", ""))
    assert hosts.verb("restart", "beat").stderr == "error: no unit of beat is there\n"
    hosts.asked.clear()
    hosts.verb("beat:restart")
    assert [asked[0] for asked in hosts.asked] == [("r1",), ("w1",), ("w2",)]


def test_lines_of_several_journals_are_in_the_order_of_their_times(hosts: Hosts) -> None:
    hosts.answers = {
        "r1": (0, "2026-11-27T10:00:02.000000+0000 r1 redis[1]: second\n", ""),
        "w1": (0, "2026-11-27T10:00:01.000000+0000 w1 celery[1]: first\n    and its end\n", ""),
        "w2": (0, "", ""),
    }
    done = hosts.verb("logs", "--account", "a1", "--since", "1h")
    assert [line.split(": ")[-1] for line in done.stdout.splitlines()] == ["first", "    and its end", "second"]
    asked = json.loads(hosts.asked[0][1][-1])
    assert (asked["fields"], asked["lines"]) == (["METABUILDER_ACCOUNT=a1"], None)


def test_that_there_is_no_line_is_said_with_how_an_account_is_named(hosts: Hosts) -> None:
    hosts.answers = dict.fromkeys(("r1", "w1", "w2"), (0, "", ""))
    done = hosts.verb("logs", "--account", "Ada's mail")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "There is no such line; --account takes an account's id, as account list shows it\n"


def test_health_of_a_site_is_that_of_its_hosts_and_what_one_worker_says_of_the_whole(hosts: Hosts) -> None:
    unit = {**UNIT, "state": "active"}
    full = {"place": "/", "bytes_free": 0, "bytes_used": 1.0, "files_used": 0.1}
    state = {**STATE, "units": [unit], "clock": time.time()}
    hosts.answers = {
        "r1": (0, json.dumps({**state, "disks": [full]}), ""),
        "w2": (0, json.dumps({**state, "release": "0.1.0-b"}), ""),
    }
    letters = Check("dead letters", True, "2 not retried", "dlq list", warns=True)
    hosts.of_metabuilder = (0, json.dumps([{"host": None, **letters.as_dict()}]), "")
    done = hosts.verb("health")
    assert (done.exit_code, done.stderr) == (1, "5 of 8 checks are well\n")
    assert [line.partition(". ")[0] for line in done.stdout.splitlines()] == [
        "DOWN   r1: disk /: 100% of its bytes used, 0 B free",
        "DOWN   w1: host: is away",
        "look   dead letters: 2 not retried",
    ]
    seen = {(row["host"], row["component"]) for row in json.loads(hosts.verb("health", "--json").stdout)}
    assert {("w1", "host"), (None, "dead letters"), ("w2", "units")} <= seen
    # What is only to be looked at counts where that is asked for.
    hosts.answers = dict.fromkeys(("r1", "w1", "w2"), (0, json.dumps(state), ""))
    assert [hosts.verb("health", *strict).exit_code for strict in ((), ("--strict",))] == [0, 1]
    # What was found of other hosts is shown where no worker's host is among them.
    limited = hosts.verb("--limit", "r1", "health")
    assert (limited.exit_code, limited.stderr) == (0, "3 of 4 checks are well\n")
    assert "site: not asked: " in limited.stdout
    # A worker's host that cannot say it is a finding of its own.
    hosts.of_metabuilder = (2, "", "No such command 'health'")
    assert "DOWN   site: w1: No such command 'health'" in hosts.verb("health").stdout


@pytest.mark.parametrize("verb", [verb.name for verb in cli._ITS_OWN_WAY.values()])
def test_the_help_of_the_verbs_of_hosts_has_an_example_and_the_exit_codes(hosts: Hosts, verb: str) -> None:
    done = hosts.verb("help", verb)
    assert (done.exit_code, "Example:" in done.stdout, "Exit codes:" in done.stdout) == (0, True, True)


def test_ansible_runs_it_and_a_host_that_is_away_is_said(tmp_path: Path) -> None:
    """Real Ansible: nothing is read as a template, nothing comes into a list of processes."""
    inventory = tmp_path / "hosts.yml"
    here = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
    away = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_become": False}
    inventory.write_text(json.dumps({"celery_workers": {"hosts": {"here": here, "away": away}}}))
    here_and_away = Site((str(inventory),))
    program = "cat; echo \"$1\"; echo said >&2; tr '\\0' ' ' < /proc/$PPID/cmdline | grep -c secret; exit 3"
    found = here_and_away.run(["here", "away"], ("/bin/sh", "-c", program, "-", "{{ 1 + 1 }}"), "{{ secret }}\n\n")
    assert found[0] == Answer("here", 3, "{{ secret }}\n\n{{ 1 + 1 }}\n0\n", "said\n")
    assert (found[1].host, found[1].exit_code, found[1].out, found[1].is_away) == ("away", 1, "", True)
    assert "cannot be reached" in found[1].said
    [missing] = here_and_away.run(["here"], ("/no/such/program",))
    assert (missing.exit_code, missing.is_away) == (1, False)
    assert missing.said == "cannot be asked: /no/such/program: No such file or directory"
