"""The application's role stores passwords that it cannot read, and that go to no server but those named with them."""

import subprocess
import sys
from collections.abc import Callable

import psycopg2
import pytest
from cryptography.fernet import Fernet

from native.postgres import libpq
from native.state import ROOT
from tasks.errors import CredentialUnreadableError
from tasks.settings import ConfigurationError
from tasks.storage import credentials
from tasks.storage.accounts.grants import Grant, Secrets, read_grant
from tasks.storage.accounts.rows import (
    Account,
    NewAccount,
    add_account,
    change_password,
    change_smtp_password,
    find_account,
    read_secret,
)
from tasks.storage.credentials import read_credential
from tasks.storage.rotation import count_by_key, rotate
from tasks.storage.session import tenant_transaction
from tests.conftest import TENANT, USER, Database

SECRET = "sample p@ss:/#%$ wörd"
GRANT = Grant("other", "https://login.example.org/token", "web", "mail", Secrets("refresh", "client"))
Environment = Callable[..., None]


def new(name: str, password: str | Grant = SECRET) -> NewAccount:
    mailbox = {"hostname": "imap.example.org", "port": 993, "encryption": "tls", "username": "you"}
    smtp = {"smtp_hostname": "smtp.example.org", "smtp_port": 465, "smtp_encryption": "tls"}
    return NewAccount(account_name=name, email_address="you@example.org", password=password, **mailbox, **smtp)


def public_key(key: str) -> str:
    """As the control machine makes it."""
    command = [sys.executable, "-m", "manage", "credentials", "public-key", "--key-stdin"]
    return subprocess.run(command, cwd=ROOT, input=key, capture_output=True, text=True, check=True).stdout.strip()


def test_workers_alone_read_what_the_application_stores(database: Database, environment: Environment) -> None:
    old, key = Fernet.generate_key().decode(), Fernet.generate_key().decode()

    # Given accounts that the application adds without a key; one before the key changed
    environment(CREDENTIAL_ENCRYPTION_KEY="", DATABASE_URL=database.app_url, CREDENTIAL_PUBLIC_KEY=public_key(old))
    add_account(TENANT, USER, new("early"))
    environment(CREDENTIAL_PUBLIC_KEY=public_key(f"{key},{old}"))
    add_account(TENANT, USER, new("mail", "first"))
    add_account(TENANT, USER, new("granted", GRANT))
    mail = find_account(TENANT, "mail")
    change_password(mail, SECRET)
    change_smtp_password(mail, "for sending")
    early, mail, granted = (find_account(TENANT, name) for name in ("early", "mail", "granted"))

    # Then it reads none of them
    with pytest.raises(ConfigurationError, match="reads none: do this on a host of celery_workers"):
        read_secret(mail, mail.credential_id)

    # And a worker reads all of them, with the keys that they were stored for
    environment(CREDENTIAL_ENCRYPTION_KEY=key, DATABASE_URL=database.worker_url)
    assert read_secret(mail, mail.credential_id) == SECRET
    assert read_secret(mail, str(mail.smtp_credential_id)) == "for sending"
    with tenant_transaction(TENANT) as connection:
        assert read_grant(connection, TENANT, granted.credential_id).secrets == GRANT.secrets
    with pytest.raises(CredentialUnreadableError):
        read_secret(early, early.credential_id)
    environment(CREDENTIAL_ENCRYPTION_KEY=f"{key},{old}")
    assert (rotate().rewritten, len(count_by_key())) == (1, 1)
    environment(CREDENTIAL_ENCRYPTION_KEY=key)
    assert read_secret(early, early.credential_id) == SECRET

    # And the public key opens nothing, nor does a text that was copied to another row
    environment(CREDENTIAL_ENCRYPTION_KEY="")
    with pytest.raises(ConfigurationError, match="reads none"):
        read_secret(mail, mail.credential_id)
    environment(CREDENTIAL_ENCRYPTION_KEY=key)
    with tenant_transaction(TENANT) as connection:
        ids = {"from": mail.credential_id, "to": mail.smtp_credential_id}
        copied = "SET ciphertext = (SELECT ciphertext FROM credential WHERE id = %(from)s) WHERE id = %(to)s"
        connection.exec_driver_sql(f"UPDATE credential {copied}", ids)
        with pytest.raises(CredentialUnreadableError, match="another row"):
            read_credential(connection, TENANT, str(mail.smtp_credential_id))


ODD = (b"", b"x", b"1", b"{}", b'{"tenant_id": 1, "id": 2}', b"[" * 100_000)


def test_what_holds_no_secret_stops_nothing(database: Database, environment: Environment) -> None:
    """Whoever has the public key can encrypt anything, under the name of any key."""
    key = Fernet.generate_key().decode()
    environment(CREDENTIAL_ENCRYPTION_KEY=key, DATABASE_URL=database.worker_url)
    names = [f"mail-{number}" for number in range(len(ODD))]
    for name, text in zip(names, ODD, strict=True):
        add_account(TENANT, USER, new(name))
        sealed = credentials._sealed_by_public_key(text, credentials.public_key(key))
        with tenant_transaction(TENANT) as connection:
            connection.exec_driver_sql(
                "UPDATE credential SET ciphertext = %s, key_id = 'odd' WHERE id = %s",
                (sealed.ciphertext, find_account(TENANT, name).credential_id),
            )

    for name in names:
        mail = find_account(TENANT, name)
        with pytest.raises(CredentialUnreadableError, match="it holds no secret"):
            read_secret(mail, mail.credential_id)
    [lost] = rotate().lost
    assert lost.accounts == names


# What somebody who took over the application would try. {mail} and {smtp} are stored secrets of the account {id}.
REFUSED = (
    "SELECT ciphertext FROM credential",
    "SELECT * FROM credential",
    "UPDATE credential SET created_at = now()",
    "UPDATE credential SET id = 'x' WHERE id = '{smtp}'",
    "UPDATE credential SET kind = 'password'",
    "INSERT INTO credential (tenant_id, id, kind, ciphertext) SELECT tenant_id, 'x', kind, ciphertext"
    " FROM credential",
    "INSERT INTO credential (tenant_id, id, kind, ciphertext, created_at)"
    " VALUES ('{tenant}', 'x', 'password', '', now())",
    "INSERT INTO credential (tenant_id, id, kind, ciphertext, stored_in) VALUES ('{tenant}', 'x', 'password', '', 1)",
    "UPDATE credential SET stored_in = 1",
    "UPDATE email_client SET hostname = 'evil.example' WHERE id = '{id}'",
    "UPDATE email_client SET port = 143, encryption = 'none' WHERE id = '{id}'",
    "UPDATE email_client SET smtp_hostname = 'evil.example' WHERE id = '{id}'",
    "UPDATE email_client SET smtp_encryption = 'none' WHERE id = '{id}'",
    "UPDATE email_client SET smtp_credential_id = NULL WHERE id = '{id}'",
    "UPDATE email_client SET credential_id = '{smtp}' WHERE id = '{id}'",
    "INSERT INTO email_client (tenant_id, id, user_id, account_name, email_address, protocol, hostname, port,"
    " encryption, username, credential_id)"
    " VALUES ('{tenant}', 'x', 'u', 'x', 'x@x', 'imap', 'evil.example', 993, 'tls', 'x', '{mail}')",
    "UPDATE oauth2_grant SET token_endpoint = 'https://evil.example/'",
    "INSERT INTO oauth2_grant (tenant_id, credential_id, provider, token_endpoint, client_id, scope)"
    " VALUES ('{tenant}', '{mail}', 'other', 'https://evil.example/', 'x', '')",
)
ALLOWED = (
    "SELECT id, kind, key_id FROM credential",
    "UPDATE email_client SET hostname = hostname, is_enabled = false, account_name = 'renamed' WHERE id = '{id}'",
    "UPDATE email_client SET smtp_hostname = NULL WHERE id = '{id}'",
)


def test_a_stored_password_goes_to_no_other_server(database: Database, environment: Environment) -> None:
    add_account(TENANT, USER, new("mail"))
    add_account(TENANT, USER, new("granted", GRANT))
    change_smtp_password(find_account(TENANT, "mail"), "for sending")
    mail = find_account(TENANT, "mail")

    outcomes = {statement: attempt(database, statement, mail) for statement in (*REFUSED, *ALLOWED)}

    assert [statement for statement in REFUSED if outcomes[statement] != "42501"] == []
    assert [statement for statement in ALLOWED if outcomes[statement]] == []
    # Workers, and `metabuilder account` on their hosts, may name another server.
    with tenant_transaction(TENANT) as connection:
        connection.exec_driver_sql("UPDATE email_client SET hostname = 'imap2.example.org' WHERE id = %s", (mail.id,))


def test_transactions_that_began_in_the_same_microsecond_are_told_apart(
    database: Database, environment: Environment
) -> None:
    add_account(TENANT, USER, new("mail"))
    mail = find_account(TENANT, "mail")
    connection = psycopg2.connect(libpq(database.app_url))
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, true), now()", (TENANT,))
        with tenant_transaction(TENANT) as worker:
            worker.exec_driver_sql("UPDATE credential SET created_at = %s", (cursor.fetchone()[1],))
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="goes only to the server"):
            cursor.execute("UPDATE email_client SET hostname = 'evil.example' WHERE id = %s", (mail.id,))
    finally:
        connection.close()


def attempt(database: Database, statement: str, mail: Account) -> str | None:
    """The SQLSTATE with which the application's role fails; None where it does not. Nothing stays changed."""
    ids = {"id": mail.id, "mail": mail.credential_id, "smtp": mail.smtp_credential_id}
    connection = psycopg2.connect(libpq(database.app_url))
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, true)", (TENANT,))
        cursor.execute(statement.format(tenant=TENANT, **ids))
    except psycopg2.Error as error:
        return str(error.pgcode)
    else:
        return None
    finally:
        connection.close()
