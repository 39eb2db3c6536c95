"""What units must say that share a user with a server."""

import re
from pathlib import Path

import pytest

from native.state import ROOT

UNITS = sorted((Path(ROOT) / "templates" / "systemd").glob("*.service"))


@pytest.mark.parametrize("user", ["postgres", "redis"])
def test_no_unit_takes_the_shared_memory_of_a_server_away_that_runs_as_its_user(user: str) -> None:
    """At its end systemd removes whatever the user has in /dev/shm. Of a repeated setting the last one counts."""
    texts = {file.name: file.read_text() for file in UNITS if f"\nUser={user}\n" in file.read_text()}
    assert bool(texts) == (user == "postgres")
    for name, text in texts.items():
        after = text.partition("include 'hardening.conf'")[2]
        assert re.search(r"^RemoveIPC=false$", after, re.MULTILINE), name
