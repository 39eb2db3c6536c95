"""The Molecule scenarios: the whole deployment on hosts that boot systemd."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.support.hosts.machine import missing

ROOT = Path(__file__).parents[2]
# A scenario takes three to five minutes; a machine that needs this long has a problem of its own.
_SECONDS = 1800
_LAST_CHARACTERS = 20_000


@pytest.mark.parametrize("scenario", ["default", "cluster", "upgrade"])
def test_scenario(scenario: str) -> None:
    if wanting := missing():
        unavailable("; ".join(wanting))
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1", "NO_COLOR": "1"}
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            [programs / "molecule", "test", "--scenario-name", scenario],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
        output.seek(0)
        assert done.returncode == 0, output.read()[-_LAST_CHARACTERS:]
