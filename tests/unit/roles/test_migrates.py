"""Which host migrates the database: always one that takes part in the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.roles.plugins import ROLES

_INVENTORY = """
celery_workers:
  hosts: {one: , two: , three: }
celery_beat:
  hosts: {four: }
"""
_PLAYBOOK = f"""
- hosts: celery_workers:celery_beat
  gather_facts: false
  connection: local
  vars_files: ["{ROLES / "application/vars/main.yml"}"]
  tasks:
    - ansible.builtin.debug:
        msg: "by=[{{{{ _application_migrates }}}}]"
"""


@pytest.mark.parametrize(("limit", "host"), [("all", "one"), ("!one", "two"), ("three,four", "three"), ("four", "")])
def test_a_host_that_the_run_leaves_out_does_not_have_to_migrate(limit: str, host: str, tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text(_INVENTORY)
    (tmp_path / "play.yml").write_text(_PLAYBOOK)
    command = [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.yml", "--limit", limit, "play.yml"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROLES.parent / "ansible.cfg")}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
    assert {line.partition("by=[")[2].partition("]")[0] for line in said.stdout.splitlines() if "by=[" in line} == {
        host
    }
