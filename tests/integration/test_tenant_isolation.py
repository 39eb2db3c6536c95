"""No task lets a caller read or change what is not theirs, and none tells whether it exists.

Through a real worker, every task is called with every kind of id of another tenant's. PostgreSQL itself is the
witness: a restrictive policy on each table notes each of the other tenant's rows that a statement gets to see, and a
trigger each that is written, in sequences, which no rollback takes back. Tasks and their ids are found by their
signatures, so a task that is added is called as well.
"""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks.celery_app import celery_app, create_celery_app
from tasks.storage.accounts.rows import Account, NewAccount, add_account, find_account
from tasks.storage.models import Base
from tests.conftest import MAIL_PASSWORD, TENANT, USER, Database
from tests.support.mailbox import Mailbox, message
from tests.support.servers import RedisServer
from tests.support.worker import Worker

VICTIM, VICTIMS_USER = "victim", "victims-user"
# The others belong to no tenant (tests/migrations/test_migrations.py).
TABLES = sorted(name for name, table in Base.metadata.tables.items() if "tenant_id" in table.columns)
MAIL = ("email_message", "email_attachment", "outbox_message")
# What each argument names; `[]` for a list of them. A task with another kind of id has to be added.
NAMES = {
    "email_client_id": "account",
    "folder_id": "folder",
    "email_id": "message",
    "outbox_id": "outgoing",
    "email_ids": "message[]",
    "attachment_ids": "attachment[]",
}
OTHER_ARGUMENTS = {"to": "bob@example.org"}
# Of our own making, for accounts that may be gone by then: one that is not there has nothing to be done.
FINDS_NOTHING_TO_DO = {"email_service.tasks.ask_spam_engines", "email_service.tasks.empty_trash"}
NO_SUCH_ID = "0197c0de-0000-7000-8000-000000000000"

SPY = """
CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF coalesce(NEW.tenant_id, OLD.tenant_id) = 'victim' THEN
    PERFORM nextval('spied_' || regexp_replace(TG_TABLE_NAME, '_[0-9]+$', ''));  -- of the table, not of its partition
  END IF;
  RETURN coalesce(NEW, OLD);
END $$;
CREATE FUNCTION spy(tenant text, relation text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER COST 1000000 AS $$
BEGIN
  IF tenant = 'victim' THEN PERFORM nextval('spied_' || relation); END IF;
  RETURN true;
END $$;
"""
# The policy costs so much that it is asked last: of rows that the tenant's own policy lets through.
SPY_ON = """
CREATE SEQUENCE spied_{table};
CREATE TRIGGER spy BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION spy();
CREATE POLICY spy ON {table} AS RESTRICTIVE USING (spy(tenant_id, '{table}')) WITH CHECK (spy(tenant_id, '{table}'));
"""


class Ids(NamedTuple):
    """One of each kind."""

    account: str
    folder: str
    message: str
    attachment: str
    outgoing: str


class Witness:
    """The database as its superuser sees it, whom no policy binds."""

    def __init__(self, database: Database) -> None:
        import psycopg2

        from native.postgres import libpq

        self._connection = psycopg2.connect(libpq(database.server.superuser_url), dbname=database.name)
        self._connection.autocommit = True

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def spied(self) -> set[str]:
        """The tables of which rows of the victim were seen or written since the last call."""
        found = {table for table in TABLES if self.rows(f"SELECT is_called FROM spied_{table}") == [(True,)]}
        for table in found:
            self.rows(f"SELECT setval('spied_{table}', 1, false)")
        return found

    def everything_of(self, tenant: str) -> dict[str, object]:
        """A digest of all rows of a tenant, but for the dead letters that failing calls of its users leave behind."""
        digest = "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {} AS t WHERE tenant_id = %s"
        of_dead_letters = {"dead_letter": " AND false", "credential": " AND kind <> 'task_arguments'"}
        return {t: self.rows(digest.format(t) + of_dead_letters.get(t, ""), tenant) for t in TABLES}

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def witness(database: Database) -> Iterator[Witness]:
    witness = Witness(database)
    witness.rows(SPY)
    for table in TABLES:
        witness.rows(SPY_ON.format(table=table))
    yield witness
    witness.close()


@pytest.fixture
def call(
    redis: RedisServer, database: Database, environment: Callable[..., None], tmp_path: Path
) -> Iterator[Callable[..., str]]:
    """Calls a task through a worker, and what comes of it, in words."""
    # An engine that answers nobody: what is asked about is looked for, and that is the end of it.
    engine = {"SPAM_API_ENABLED": "true", "SPAM_API_URL": "http://127.0.0.1:1/"}
    environment(REDIS_URL=redis.url, TASK_RETRY_MAX_DELAY="1", MAIL_TIMEOUT="5", **engine)
    app = create_celery_app()

    def run(name: str, **arguments: Any) -> str:
        outcome = app.send_task(name, kwargs=arguments).get(timeout=90, propagate=False)
        if isinstance(outcome, BaseException):
            return f"{type(outcome).__name__}: {outcome}"
        return f"{outcome['status']}"

    with Worker(tmp_path):
        yield run
    app.close()


def mailbox_of(tenant: str, user: str, mailbox: Mailbox, name: str) -> Account:
    """An account with a message that has an attachment."""
    box = Mailbox(mailbox.host, mailbox.port, f"{mailbox.user}{name}", MAIL_PASSWORD)
    box.append([message(1).replace(b'text/plain; charset="utf-8"', b"application/pdf")])
    where = {"smtp_hostname": box.host, "smtp_port": 1, "smtp_encryption": "none"}
    new = NewAccount("mail", f"{name}@example.org", box.host, box.port, "none", box.user, box.password, **where)
    add_account(tenant, user, new)
    return find_account(tenant, "mail")


def ids_of(account: Account, witness: Witness) -> Ids:
    """What was stored of the account's first message."""
    [(folder, of_message, attachment)] = witness.rows(
        "SELECT message.folder_id, message.id, attachment.id FROM email_message AS message "
        "JOIN email_attachment AS attachment ON attachment.email_message_id = message.id "
        "WHERE message.tenant_id = %s",
        account.tenant_id,
    )
    [(outgoing,)] = witness.rows(
        "INSERT INTO outbox_message (tenant_id, id, email_client_id, key, digest, state, message_id, sender, "
        "recipients, raw, size) VALUES (%s, %s, %s, 'key:1', '', 'queued', 'm', 'a@b', '[]', '', 0) RETURNING id",
        account.tenant_id,
        f"outgoing of {account.tenant_id}",
        account.id,
    )
    return Ids(account.id, folder, of_message, attachment, outgoing)


@pytest.fixture
def both(call: Callable[..., str], mailbox: Mailbox, witness: Witness) -> tuple[Ids, Ids]:
    """What the caller has, and what the victim has, synced."""
    accounts = [mailbox_of(TENANT, USER, mailbox, "own"), mailbox_of(VICTIM, VICTIMS_USER, mailbox, "victims")]
    for account in accounts:
        whose = {"tenant_id": account.tenant_id, "user_id": account.user_id, "email_client_id": account.id}
        assert call("email_service.tasks.sync_emails", **whose) == "success"
        # After this one, the one that the sync has queued is over too.
        assert call("email_service.tasks.ask_spam_engines", **whose) == "engine_unavailable"
    return ids_of(accounts[0], witness), ids_of(accounts[1], witness)


def tasks_with_ids() -> dict[str, list[str]]:
    """The arguments of each task that name something stored."""
    found = {}
    for name, task in celery_app.tasks.items():
        parameters = inspect.signature(task.run).parameters
        if "tenant_id" in parameters:
            ids = [p for p in parameters if p.endswith(("_id", "_ids")) and p not in ("tenant_id", "user_id")]
            assert set(ids) <= set(NAMES), f"{name}: what does it name?"
            found[name] = ids
    return found


def arguments(name: str, own: Ids, parameter: str, given: str) -> dict[str, Any]:
    """A call with the caller's own ids but for one."""
    parameters = inspect.signature(celery_app.tasks[name].run).parameters
    found = {p: OTHER_ARGUMENTS[p] for p in parameters if p in OTHER_ARGUMENTS}
    for other in tasks_with_ids()[name]:
        kind = NAMES[other].removesuffix("[]")
        value = given if other == parameter else getattr(own, kind)
        if NAMES[other].endswith("[]"):
            # Beside one of the caller's own: nothing of the batch may be touched.
            found[other] = [getattr(own, kind), value] if other == parameter else [value]
        else:
            found[other] = value
    return found


def test_every_task_of_the_interface_is_called() -> None:
    ours = {name.removeprefix("email_service.tasks.") for name in tasks_with_ids()}
    assert ours >= {"sync_emails", "send_email", "delete_emails", "check_spam"}


def test_the_witness_sees_what_the_victim_does_itself(
    both: tuple[Ids, Ids], call: Callable[..., str], witness: Witness
) -> None:
    theirs = both[1]
    as_victim = {"tenant_id": VICTIM, "user_id": VICTIMS_USER}
    witness.spied()
    assert call("email_service.tasks.check_spam", email_id=theirs.message, **as_victim) == "success"
    assert {"email_message", "email_client"} <= witness.spied()
    again = {"email_client_id": theirs.account, "force_full_sync": True}
    assert call("email_service.tasks.sync_emails", **again, **as_victim) == "success"
    assert {"email_message", "email_client", "email_folder", "credential"} <= witness.spied()


def test_ids_of_another_tenant_are_not_found_and_no_row_of_it_is_read_or_written(
    both: tuple[Ids, Ids], call: Callable[..., str], witness: Witness
) -> None:
    own, theirs = both
    before, own_before = witness.everything_of(VICTIM), witness.everything_of(TENANT)
    witness.spied()
    for name, parameters in tasks_with_ids().items():
        for parameter in parameters:
            # user_id of the victim as well: knowing it must not help.
            for user in (USER, VICTIMS_USER):
                caller = {"tenant_id": TENANT, "user_id": user}
                nobodys = call(name, **arguments(name, own, parameter, NO_SUCH_ID), **caller)
                for kind, given in theirs._asdict().items():
                    outcome = call(name, **arguments(name, own, parameter, given), **caller)
                    said = f"{name}({parameter}={kind} of another tenant, user {user}) gave {outcome}"
                    assert witness.spied() == set(), said
                    assert outcome.replace(given, NO_SUCH_ID) == nobodys, said
                    assert outcome.startswith("NotFoundError") or name in FINDS_NOTHING_TO_DO, said
    assert witness.everything_of(VICTIM) == before
    # and of a batch that holds one of theirs, nothing of the caller's own was touched
    own_after = witness.everything_of(TENANT)
    assert {t: own_after[t] for t in MAIL} == {t: own_before[t] for t in MAIL}


def test_another_user_of_the_same_tenant_finds_nothing_and_changes_nothing(
    both: tuple[Ids, Ids], call: Callable[..., str], witness: Witness
) -> None:
    theirs = both[1]
    before = witness.everything_of(VICTIM)
    caller = {"tenant_id": VICTIM, "user_id": "somebody-else"}
    for name, parameters in tasks_with_ids().items():
        nobody = Ids(*[NO_SUCH_ID] * len(Ids._fields))
        for parameter in parameters:
            given = getattr(theirs, NAMES[parameter].removesuffix("[]"))
            outcome = call(name, **arguments(name, theirs, parameter, given), **caller)
            nobodys = call(name, **arguments(name, nobody, parameter, NO_SUCH_ID), **caller)
            assert outcome.replace(given, NO_SUCH_ID) == nobodys, f"{name}({parameter}) gave {outcome}"
    assert witness.everything_of(VICTIM) == before
