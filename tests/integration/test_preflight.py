"""`./manage.sh preflight` by real Ansible, before the first deployment: no host of the inventory can be reached."""

import json
import shutil
from pathlib import Path

from click.testing import CliRunner

from manage import cli
from native.state import ROOT


def test_an_inventory_is_judged_while_no_host_can_be_reached(tmp_path: Path) -> None:
    # Given the example with a host for every part, and what its operator has written there
    inventory = tmp_path / "site"
    shutil.copytree(ROOT / "inventories/production", inventory)
    (inventory / "group_vars/all/away.yml").write_text("ansible_host: 127.0.0.1\nansible_port: 1\n")
    (inventory / "group_vars/all/secrets.yml").write_text("redis_password: sample-{{ 1 + 1 }}\n")
    (inventory / "group_vars/all/checklist.yml").write_text(
        "preflight_done: {backup: 2020-01-01}\n"
        "preflight_not_applicable: {spare_worker: no}\n"
        "preflight_promised_waits: {send_emails: 60}\n"
        "celery_worker_memory_max: infinity\n"
        "celery_worker_task_timeout: 600\n"
    )
    figures = [{"queue": "send", "in_per_second": 9.0, "out_per_second": 9.0}]
    (inventory / "load-test.json").write_text(json.dumps({"worker1.example.org": figures}))

    done = CliRunner().invoke(cli.main, ["preflight", "-i", str(inventory), "--json"])

    assert done.exit_code == 1, done.output
    found = {row["item"]: row for row in json.loads(done.stdout)}
    verdicts = {name: row["verdict"] for name, row in found.items()}
    # Then defaults of roles, values of the inventory and what follows from both are judged
    assert verdicts["redis_instances"] == verdicts["tls"] == verdicts["graceful_stop"] == "ok"
    assert "celery_worker_memory_max of worker1.example.org is infinity" in found["memory"]["detail"]
    assert "noted on 2020-01-01, " in found["backup"]["detail"]
    assert "send_emails, which is no task" in found["sla"]["detail"]
    assert "the group monitoring" in found["alerts"]["detail"]
    # The figures of a load test lie beside the hosts, and name none
    assert found["load_test"]["detail"].startswith("9.0 tasks a second ended, and every queue kept up; nobody has")
    assert found["vault"]["detail"] == "secrets.yml has redis_password"
    # Then what only hosts know is left open, and each host that is away is named
    assert found["hosts"]["detail"].count("example.org: ") == 5
    assert "and 1 more" in found["hosts"]["detail"]
    assert {verdicts[name] for name in ("ground", "health", "restarts", "updates")} == {"not applicable"}
    assert "sample-" not in done.output
