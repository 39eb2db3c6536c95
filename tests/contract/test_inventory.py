"""The files of a site that lie beside its hosts are no inventory, and Ansible does not take them for one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.certificates import Authority

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["tls", "."], ids=["the site's own authority", "files that the operator brought"])
def test_certificates_beside_the_hosts_are_not_read_as_hosts(folder: str, tmp_path: Path) -> None:
    # Given an inventory as it is after the first run
    (tmp_path / "hosts.yml").write_text("redis: {hosts: {one: }}\n")
    (tmp_path / "group_vars" / "all").mkdir(parents=True)
    (tmp_path / "group_vars" / "all" / "main.yml").write_text("ansible_user: debian\n")
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    Authority(place).issue("redis", "one.example.org")

    # When a command reads it
    command = [Path(sys.executable).parent / "ansible-inventory", f"--inventory={tmp_path}", "--list"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)

    # Then it warns of nothing, and knows the host
    assert done.stderr == ""
    # (`ansible_local` is what Ansible itself adds where facts are no variables.)
    known = {"one": {"ansible_user": "debian", "ansible_local": {}}}
    assert json.loads(done.stdout)["_meta"]["hostvars"] == known
