"""TLS and STARTTLS to a real Dovecot, with certificates that are to be trusted and certificates that are not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native.dovecot import Dovecot
from native.errors import StackError
from native.unprivileged import identity
from tasks.errors import CertificateInvalidError
from tasks.storage.accounts.dispatch import claim_due_accounts
from tasks.storage.accounts.rows import Account, find_account
from tests.conftest import MAIL_PASSWORD, TENANT, Database, register, sync, unavailable
from tests.support.application import Broker
from tests.support.certificates import DAY, Authority
from tests.support.mailbox import Mailbox, message
from tests.support.stored import rows, stored_uids
from tests.support.watcher import running_watcher
from tests.support.worker import wait_until


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def servers(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Dovecot]]:
    """A Dovecot for each kind of certificate."""
    other = Authority(tmp_path_factory.mktemp("other"))
    kinds = {
        "valid": authority.issue("valid", "127.0.0.1"),
        "expired": authority.issue("expired", "127.0.0.1", lifetime=-DAY),
        "other host": authority.issue("other", "mail.example.org"),
        "not trusted": other.issue("untrusted", "127.0.0.1"),
    }
    for folder in (authority.folder, other.folder):
        identity().hand_over(folder)
    running: dict[str, Dovecot] = {}
    try:
        for kind, files in kinds.items():
            root = tmp_path_factory.mktemp("tls")
            server = Dovecot(root / "server", root / "mail", MAIL_PASSWORD, tls=files, pop3=True)
            server.start()
            running[kind] = server
        yield running
    except StackError as error:
        unavailable(str(error))
    finally:
        for server in running.values():
            server.stop()


@pytest.fixture
def secure_account(
    servers: dict[str, Dovecot],
    authority: Authority,
    database: Database,
    environment: Callable[..., None],
    request: pytest.FixtureRequest,
) -> Callable[[str, str], Account]:
    """An account on the server with that certificate; `authority` is trusted, as the system's would be."""
    environment(SSL_CERT_FILE=str(authority.certificate))

    def account(kind: str, encryption: str, protocol: str = "imap") -> Account:
        server = servers[kind]
        # STARTTLS goes through the port without encryption.
        box = Mailbox(server.host, server.port, f"{encryption}{request.node.name.count('e')}", MAIL_PASSWORD)
        with box.client() as client:
            assert client.append("INBOX", "", None, message(1))[0] == "OK"
        ports = {
            "imap": {"tls": server.tls_port, "starttls": server.port},
            "pop3": {"tls": server.pop3s_port, "starttls": server.pop3_port},
        }
        return register(box, protocol=protocol, encryption=encryption, port=ports[protocol][encryption])

    return account


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
@pytest.mark.parametrize("encryption", ["tls", "starttls"])
def test_a_trusted_certificate(secure_account: Callable[..., Account], encryption: str, protocol: str) -> None:
    assert sync(secure_account("valid", encryption, protocol)).total("synced")


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
@pytest.mark.parametrize("encryption", ["tls", "starttls"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [("expired", "expired"), ("other host", "mismatch"), ("not trusted", "unable to get local issuer")],
)
def test_a_certificate_that_cannot_be_trusted_is_said_and_no_password_is_sent(
    secure_account: Callable[..., Account],
    servers: dict[str, Dovecot],
    kind: str,
    words: str,
    encryption: str,
    protocol: str,
) -> None:
    account = secure_account(kind, encryption, protocol)
    before = logins(servers[kind])

    with pytest.raises(CertificateInvalidError, match=words):
        sync(account)

    failed = find_account(TENANT, account.id)
    assert failed.last_error_code == "certificate_invalid"
    assert words in str(failed.last_error)
    assert logins(servers[kind]) == before
    # and the schedule waits its time before the next try
    assert list(claim_due_accounts(10, 300)) == []


@pytest.mark.parametrize("encryption", ["tls", "starttls"])
@pytest.mark.parametrize("kind", ["expired", "other host", "not trusted"])
def test_no_certificate_is_looked_at_where_the_operator_says_so(
    secure_account: Callable[[str, str], Account], environment: Callable[..., None], kind: str, encryption: str
) -> None:
    environment(SSL_VERIFY="false")

    sync(secure_account(kind, encryption))

    assert stored_uids()


def test_a_connection_with_tls_is_watched(
    secure_account: Callable[..., Account], servers: dict[str, Dovecot], broker: Broker, tmp_path: Path
) -> None:
    # Given a mailbox whose connections begin with TLS, and one with STARTTLS, both due in a day
    accounts = {}
    for encryption in ("tls", "starttls"):
        account = accounts[encryption] = secure_account("valid", encryption)
        rows(
            "UPDATE email_client SET account_name = :name WHERE id = :id RETURNING 1", name=encryption, id=account.id
        )
        sync(account)
    rows("UPDATE email_client SET next_sync_at = now() + interval '1 day' RETURNING 1")
    before = logins(servers["valid"])

    with running_watcher(tmp_path) as watcher:
        watcher.wait_until_watching("starttls", "tls")
        for account in accounts.values():
            # When mail arrives, then a sync is queued, over the one connection that there is
            Mailbox("127.0.0.1", servers["valid"].port, account.username, MAIL_PASSWORD).append([message(2)])
            queued: list[list[object]] = []
            wait_until(lambda found=queued: found.extend(broker.taken("sync")) or found, "no sync is queued")
            assert [call[0] for call in queued] == [account.id]
    assert logins(servers["valid"]) == before + 4  # two of them to append


def logins(server: Dovecot) -> int:
    return server.log.read_text().count("Login: user=")
