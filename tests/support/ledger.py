"""An application on a host that queues syncs and sends; outside of the hosts, its ledger and its mail server.

A power cut takes the application away in the middle of a call. The ledger has the calls that were begun, and those of
which the application knew that they were queued; the mail server has the mail that it took.
"""

import socket
import time

from tests.support.smtp_server import SmtpServer
from tests.support.tcp_server import TcpServer

_EVERYWHERE = "0.0.0.0"
_SECONDS_BETWEEN_CALLS = 0.02

# The call of a name that is an account is a sync of it, any other a send from its account.
_APPLICATION = """
import socket, time
from tasks.celery_app import send_email, sync_emails
from tasks.storage.accounts.rows import find_account
who, calls = {who!r}, {calls!r}
ids = {{account: find_account(who[0], account).id for account in calls.values()}}
ledger = socket.create_connection({ledger!r})
def note(*words):
    ledger.sendall(' '.join(words).encode() + b'\\n')
    assert ledger.recv(1)
for name, account in calls.items():
    note('begun', name)
    if name == account:
        sync_emails.delay(ids[account], *who)
    else:
        send_email.delay(ids[account], *who, 'bob@example.org', subject=name, idempotency_key=name)
    note('queued', name)
    time.sleep({pause})
"""


class OutsideMailServer(SmtpServer):
    """An SMTP server that hosts reach, too."""

    host = _EVERYWHERE


class Ledger(TcpServer):
    """When each call was about to be made, and when the application knew that its task was queued."""

    host = _EVERYWHERE

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[str, float] = {}
        self.queued: dict[str, float] = {}

    def serve(self, connection: socket.socket, _: int) -> None:
        connection.settimeout(60)  # a host that goes without a word does not end it
        try:
            for line in connection.makefile("rb"):
                verb, name = line.decode().split()
                (self.begun if verb == "begun" else self.queued)[name] = time.time()
                connection.sendall(b".")
        except OSError:
            return
        finally:
            connection.close()

    def application(self, address: str, who: tuple[str, str], calls: dict[str, str]) -> str:
        """The code of an application that reaches the ledger at `address`, and makes the calls (name: account)."""
        return _APPLICATION.format(ledger=(address, self.port), who=who, calls=calls, pause=_SECONDS_BETWEEN_CALLS)


def own_address(towards: str) -> str:
    """The address of this machine by which the host at an address reaches it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((towards, 9))
        return str(probe.getsockname()[0])
