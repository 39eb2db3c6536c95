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
        "celery_worker_memory_max: infinity\n"
        "celery_worker_task_timeout: 600\n"
    )

    done = CliRunner().invoke(cli.main, ["preflight", "-i", str(inventory), "--json"])

    assert done.exit_code == 1, done.output
    found = {row["item"]: row for row in json.loads(done.stdout)}
    verdicts = {name: row["verdict"] for name, row in found.items()}
    # Then defaults of roles, values of the inventory and what follows from both are judged
    assert verdicts["redis_instances"] == verdicts["tls"] == verdicts["graceful_stop"] == "ok"
    assert "celery_worker_memory_max of worker1.example.org is infinity" in found["memory"]["detail"]
    assert found["backup"]["detail"].startswith("noted on 2020-01-01, ")
    assert found["vault"]["detail"] == "secrets.yml has redis_password"
    # Then what only hosts know is left open, and each host that is away is named
    assert found["hosts"]["detail"].count("example.org: ") == 5
    assert "and 1 more" in found["hosts"]["detail"]
    assert {verdicts[name] for name in ("ground", "health", "restarts", "updates")} == {"not applicable"}
    assert "sample-" not in done.output
