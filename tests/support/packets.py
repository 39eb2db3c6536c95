"""A network that drops packets, as one does that is cut."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import unavailable


@contextmanager
def packets_dropped(port: int) -> Iterator[None]:
    """Each packet from and to this port of loopback is dropped, and nobody is told. Needs root."""
    table = f"metabuilder_test_{port}"
    rules = f"""table inet {table} {{
        chain input {{
            type filter hook input priority 0
            iif lo tcp dport {port} drop
            iif lo tcp sport {port} drop
        }}
    }}"""
    try:
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        unavailable(f"packets cannot be dropped here: {error}")
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)
