"""Nothing goes back to a release that does not have the queues that the units of the workers name."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.registry import QUEUES
from tests.unit.roles.plugins import ROLES

UNIT = "[Service]\nExecStart=celery worker \\\n    --hostname worker@%h \\\n    {}--without-mingle --without-gossip\n"


@pytest.mark.parametrize(
    ("queues", "pool", "said"),
    [
        (["sync", "send"], ["webhooks"], ""),
        (["sync", "newer"], ["newest"], "newer, newest"),
        ([], ["send"], ""),
    ],
)
def test_unknown_queues_of_the_units_are_named(tmp_path: Path, queues: list[str], pool: list[str], said: str) -> None:
    assert "webhooks" in QUEUES
    for name, named in (("celery-worker", queues), ("celery-worker@one", pool)):
        option = f"--queues {','.join(named)} " if named else ""
        (tmp_path / f"{name}.service").write_text(UNIT.format(option))
    program = yaml.safe_load((ROLES / "application/vars/main.yml").read_text())["_application_unknown_queues"]
    program = program.replace("/etc/systemd/system", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said
