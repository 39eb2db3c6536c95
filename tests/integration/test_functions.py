"""The functions in the database: who may call each, and that none can be made to do more than the workers ask for."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg2
import psycopg2.errors
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import ProgrammingError

from native.postgres import libpq
from native.stores import postgres_answers
from tasks.settings import ConfigurationError
from tasks.storage import cleanup, dead_letters, rotation
from tasks.storage.accounts import dispatch
from tasks.storage.accounts.rows import NewAccount, add_account, list_tenants
from tasks.storage.messages import deletions, rereading
from tasks.storage.migrate import downgrade, finish, upgrade
from tasks.storage.session import unbound_transaction
from tests.conftest import TENANT, USER, Database, as_superuser

WORKER, APPLICATION = "metabuilder_worker", "metabuilder"
# Each function of the schema `public`, and who may call it beside the owner; what is called by triggers and by other
# functions alone, nobody. A new function goes in here, with a reason for whoever may call it.
NOBODY: set[str] = set()
GRANTS = {
    "accounts_with_expired_trash": {WORKER},  # periodic tasks queue what is due, of all tenants
    "accounts_with_rereading": {WORKER},
    "claim_due_accounts": {WORKER},
    "unclaim_accounts": {WORKER},
    "host_has_room": {WORKER},  # a mail server counts the connections of all tenants
    "release_expired_leases": {WORKER},  # cleaning up
    "delete_unreferenced_blobs": {WORKER},
    "delete_old_dead_letters": {WORKER},
    "list_dead_letters": {WORKER},  # the operator's command line, on the workers' hosts
    "count_credentials": {WORKER},
    "tenants_with_accounts": {WORKER},
    "claim_waiting_mail": {WORKER},  # mail of all tenants that waits for its server, of which few try it at once
    "release_waiting_mail": {WORKER},
    "release_waiting_copies": {WORKER},
    "count_waiting_mail": {WORKER},
    "estimate_accounts": {WORKER},  # metrics, which the exporter reads as the workers' role
    "count_accounts": {WORKER},
    "count_late_accounts": {WORKER},
    "count_outbox": {WORKER},
    "count_dead_letters": {WORKER},
    "newest_failing_accounts": {WORKER},  # the status page, which the exporter shows
    "newest_dead_letters": {WORKER},
    "release_dead_watchers": {WORKER},  # watchers share the accounts of all tenants, and log in as workers do
    "renew_watcher": {WORKER},
    "end_watcher": {WORKER},
    "claim_watches": {WORKER},
    "give_up_over_limits": {WORKER},
    "list_watches": {WORKER},
    "claim_watched_syncs": {WORKER},
    "count_watches": {WORKER},
    "count_watched_accounts": {WORKER},  # metrics
    "claim_queued_tasks": {WORKER},  # beat publishes the rows of all tenants, and logs in as workers do
    "delete_queued_tasks": {WORKER},
    "set_aside_queued_task": {WORKER},
    "retry_queued_tasks": {WORKER},
    "list_queued_tasks": {WORKER},
    "count_queued_tasks": {WORKER},
    "queue_task": {APPLICATION},  # writes a row, as the policy of its table lets
    "queueable_tasks": {APPLICATION},  # called by whoever queues a task; it says nothing but what is in the code
    "queued_task_checked": NOBODY,
    "empty_old_event_slots": {WORKER},  # cleaning up
    "claim_webhooks": {WORKER},  # the endpoints of all tenants are served by the same runs
    "webhooks_held_back": {WORKER},
    "count_webhooks": {WORKER},
    "event_id": {APPLICATION},  # called by whoever writes an event, for its own tenant
    "events_after": {APPLICATION},  # reading events, as the policy of their table lets
    "events_held_back": {APPLICATION},
    "event_position_now": {APPLICATION},
    "event_offset": {APPLICATION},  # called by whoever writes or reads an event
    "settle_restore": {WORKER},  # the operator's command line, after a restore of the database
    "finish_restore": {WORKER},
    "event_written": NOBODY,
    "secret_goes_where_it_was_meant_to": NOBODY,
    "refuse_unless": NOBODY,
    "deletion_key": NOBODY,
    "intake_blob": NOBODY,
    "intake_email_attachment": NOBODY,
    "intake_email_message": NOBODY,
    "intake_raw_quarantine": NOBODY,
}
# What looks for no name at all, and is to become a part of the statement that calls it.
CONSTANT = {"event_offset"}
# Arguments as the workers give them, by the function's name and in its order.
USUAL: dict[str, dict[str, Any]] = {
    "accounts_with_expired_trash": {
        "retention_days": 30,
        "after_tenant": "",
        "after_account": "",
        "max_accounts": 1000,
    },
    "accounts_with_rereading": {
        "known_version": 2,
        "after_tenant": "",
        "after_account": "",
        "max_accounts": 1000,
        "automatically": True,
    },
    "claim_due_accounts": {
        "after_tenant": "",
        "is_inclusive": False,
        "max_accounts": 5000,
        "max_per_tenant": 8,
        "queue_seconds": 270,
    },
    "unclaim_accounts": {"tenant_ids": [TENANT], "account_ids": ["nobody's"], "wait_seconds": 135},
    "host_has_room": {"host": "imap.example.org", "max_connections": 5},
    "release_expired_leases": {},
    "delete_unreferenced_blobs": {
        "after_tenant_id": "",
        "after_sha256": "",
        "max_blobs": 5000,
        "age_seconds": 86_400,
    },
    "delete_old_dead_letters": {"max_letters": 1000, "age_seconds": 30 * 86_400},
    "list_dead_letters": {},
    "count_credentials": {},
    "tenants_with_accounts": {},
    "claim_waiting_mail": {"max_messages": 5000, "max_probes": 5, "max_released": 500, "lost_seconds": 2400},
    "release_waiting_mail": {"of_tenant": TENANT, "of_account": "nobody's"},
    "release_waiting_copies": {"of_tenant": TENANT, "of_account": "nobody's"},
    "count_waiting_mail": {"late_seconds": 14_400},
    "estimate_accounts": {},
    "count_accounts": {},
    "count_late_accounts": {},
    "count_outbox": {},
    "count_dead_letters": {},
    "newest_failing_accounts": {"max_accounts": 20},
    "newest_dead_letters": {"max_letters": 20},
    "release_dead_watchers": {},
    "renew_watcher": {"watcher": "host:1", "seconds": 15},
    "end_watcher": {"watcher": "host:1"},
    "claim_watches": {"watcher": "host:1", "max_accounts": 10_000, "max_claims": 200, "host_limits": '{"*": 10}'},
    "give_up_over_limits": {"watcher": "host:1", "host_limits": '{"*": 10}'},
    "list_watches": {"watcher": "host:1"},
    "count_watches": {},
    "count_watched_accounts": {},
    "claim_watched_syncs": {
        "watcher": "host:1",
        "tenant_ids": [TENANT],
        "account_ids": ["nobody's"],
        "paths": ["INBOX"],
        "queue_seconds": 270,
    },
    "claim_queued_tasks": {"max_tasks": 1000, "max_bytes": 4_194_304},
    "delete_queued_tasks": {"tenant_ids": [TENANT], "task_ids": ["nobody's"]},
    "set_aside_queued_task": {"of_tenant": TENANT, "of_task": "nobody's", "words": "why", "retry_seconds": 3600},
    "retry_queued_tasks": {"tenant_ids": [TENANT], "task_ids": ["nobody's"]},
    "list_queued_tasks": {"max_tasks": 100},
    "count_queued_tasks": {},
    "empty_old_event_slots": {"retention_days": 7},
    "claim_webhooks": {"run": "task:run", "max_webhooks": 32, "seconds": 70},
    "webhooks_held_back": {},
    "count_webhooks": {},
    "settle_restore": {"restore_name": "timeline-2", "moment": "2026-11-28 14:03:07+00"},
    "finish_restore": {"restore_name": "timeline-2"},
}
# Workers of the release before the workers' role do not call these.
NEW = {
    *("claim_waiting_mail", "release_waiting_mail", "release_waiting_copies", "count_waiting_mail"),
    *("estimate_accounts", "count_accounts", "count_late_accounts", "count_outbox", "count_dead_letters"),
    *("newest_failing_accounts", "newest_dead_letters", "count_watches"),
    *(
        "release_dead_watchers",
        "renew_watcher",
        "end_watcher",
        "claim_watches",
        "give_up_over_limits",
        "count_watched_accounts",
        "list_watches",
        "claim_watched_syncs",
    ),
    *("newest_failing_accounts", "newest_dead_letters", "empty_old_event_slots"),
    *("claim_webhooks", "webhooks_held_back", "count_webhooks"),
    *("claim_queued_tasks", "delete_queued_tasks", "set_aside_queued_task", "retry_queued_tasks"),
    *("list_queued_tasks", "count_queued_tasks"),
    *("settle_restore", "finish_restore"),
}
HOSTILE: dict[str, tuple[Any, ...]] = {
    "integer": (None, -1, 2**31 - 1, -(2**31), 2**31, "infinity"),
    "bigint": (None, -1, 2**63 - 1, "infinity"),
    "double precision": (None, -1, 1e308, "infinity", "NaN"),
    "interval": (None, "-1 day", "100000 years", "infinity"),
    "timestamp with time zone": (None, "infinity", "-infinity"),
    "boolean": (None,),
    "text": (None,),
    "text[]": (None, ["x"] * 10_001),
    "jsonb": (None, "[]", "1"),
}
# What lies right outside of the bounds of an argument.
ROWS, WAIT, LONG = (0, 10_001), (-1, 30 * 86_400 + 1), 3650 * 86_400 + 1
WATCHER = ("", "x" * 201)
OUTSIDE: dict[str, dict[str, tuple[Any, ...]]] = {
    "accounts_with_expired_trash": {"retention_days": (0, 36_501), "max_accounts": ROWS},
    "accounts_with_rereading": {"known_version": (0, 32_768), "max_accounts": ROWS},
    "claim_due_accounts": {"max_accounts": ROWS, "max_per_tenant": ROWS, "queue_seconds": WAIT},
    "unclaim_accounts": {"wait_seconds": WAIT, "account_ids": ([], ["one", "too many"])},
    "host_has_room": {"host": ("x" * 1001,), "max_connections": (0,)},
    "delete_unreferenced_blobs": {"max_blobs": ROWS, "age_seconds": (3599, LONG)},
    "delete_old_dead_letters": {"max_letters": ROWS, "age_seconds": (86_399, LONG)},
    "claim_waiting_mail": {"max_messages": ROWS, "max_probes": ROWS, "max_released": ROWS, "lost_seconds": WAIT},
    "count_waiting_mail": {"late_seconds": WAIT},
    "newest_failing_accounts": {"max_accounts": (0, 101)},
    "newest_dead_letters": {"max_letters": (0, 101)},
    "renew_watcher": {"watcher": WATCHER, "seconds": (0, 3601)},
    "end_watcher": {"watcher": WATCHER},
    "claim_watches": {"watcher": WATCHER, "max_accounts": (0, 1_000_001), "max_claims": (-1, 10_001)},
    "give_up_over_limits": {"watcher": WATCHER},
    "list_watches": {"watcher": WATCHER},
    "claim_watched_syncs": {
        "watcher": WATCHER,
        "account_ids": ([],),
        "paths": ([], ["one", "too many"]),
        "queue_seconds": WAIT,
    },
    "claim_queued_tasks": {"max_tasks": ROWS, "max_bytes": (0,)},
    "delete_queued_tasks": {"task_ids": ([], ["one", "too many"])},
    "set_aside_queued_task": {
        "of_tenant": ("",),
        "of_task": ("",),
        "words": ("x" * 1001,),
        "retry_seconds": (0, 86_401),
    },
    "retry_queued_tasks": {"task_ids": ([], ["one", "too many"])},
    "list_queued_tasks": {"max_tasks": ROWS},
    "empty_old_event_slots": {"retention_days": (0, 15)},
    "claim_webhooks": {"run": ("", "x" * 201), "max_webhooks": (0, 1001), "seconds": (0, 3601)},
    "settle_restore": {"restore_name": ("", "x" * 65, "a b"), "moment": ("1999-12-31", "2200-01-01")},
    "finish_restore": {"restore_name": ("",)},
}
# A server that takes any number of connections always has room.
HARMLESS = [("host_has_room", "max_connections", 2**31 - 1)]
REFUSED = (
    psycopg2.errors.InvalidParameterValue,
    psycopg2.errors.InvalidTextRepresentation,
    psycopg2.errors.NumericValueOutOfRange,
)
EVERYTHING = """
    SELECT (SELECT array_agg(email_client ORDER BY id)::text FROM email_client),
           (SELECT array_agg(dead_letter ORDER BY id)::text FROM dead_letter),
           (SELECT array_agg(blob ORDER BY sha256)::text FROM blob),
           (SELECT array_agg(credential ORDER BY id)::text FROM credential)
"""


class Function(NamedTuple):
    """A row of the catalogue. `granted` has the roles beside the owner, "-" for PUBLIC."""

    name: str
    is_definer: bool
    configuration: list[str] | None
    owner: str
    granted: list[str]
    arguments: list[tuple[str, str]]


CATALOGUE = """
    SELECT proname, prosecdef, proconfig, proowner::regrole::text,
           ARRAY(SELECT grantee::regrole::text FROM aclexplode(coalesce(proacl, acldefault('f', proowner)))
                 WHERE grantee <> proowner),
           ARRAY(SELECT format_type(type, NULL)
                 FROM unnest(proargtypes) WITH ORDINALITY AS input (type, number) ORDER BY number),
           proargnames
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY proname, oid
"""


class Caller:
    """A session of a role, each statement a transaction of its own."""

    def __init__(self, url: str, tenant: str | None = None) -> None:
        self.connection = psycopg2.connect(libpq(url))
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()
        if tenant is not None:
            self.cursor.execute("SELECT set_config('metabuilder.tenant_id', %s, false)", (tenant,))

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        self.cursor.execute(statement)
        return list(self.cursor.fetchall())

    def call(self, function: Function, **changed: Any) -> None:
        values = {**USUAL[function.name], **changed}
        casts = ", ".join(f"CAST(%({name})s AS {kind})" for name, kind in function.arguments)
        self.cursor.execute(f"SELECT * FROM {function.name}({casts})", values)


@pytest.fixture
def call_as() -> Iterator[Callable[..., Caller]]:
    callers: list[Caller] = []

    def make(url: str, tenant: str | None = None) -> Caller:
        callers.append(Caller(url, tenant))
        return callers[-1]

    yield make
    for caller in callers:
        caller.connection.close()


@pytest.fixture
def filled(database: Database) -> None:
    """What the functions could change: an account that is due, one with a dead worker's lease, an old dead letter."""
    for name in ("due", "leased"):
        new = NewAccount(name, f"{name}@example.org", "imap.example.org", 993, "tls", name, "sample")
        add_account(TENANT, USER, new)
    letter = dead_letters.Failure("key", "task", "id", USER, {}, "code", "error", "", 1)
    dead_letters.bury(TENANT, letter, [], {})
    owner = Caller(database.owner_url)
    owner.cursor.execute(
        """
        UPDATE email_client SET lease_owner = 'x', lease_until = now() - interval '1 hour' WHERE username = 'leased';
        UPDATE dead_letter SET last_failed_at = now() - interval '10 years';
        INSERT INTO blob (tenant_id, sha256, size, content, created_at)
        VALUES ('t', 's', 0, '', now() - interval '1 year');
        """
    )
    owner.connection.close()


def functions(caller: Caller) -> list[Function]:
    found = []
    for *values, types, names in caller.rows(CATALOGUE):
        found.append(Function(*values, arguments=list(zip(names or [], types, strict=False))))
    return found


def test_each_function_is_granted_to_whom_it_is_for(database: Database, call_as: Callable[..., Caller]) -> None:
    found = functions(call_as(database.owner_url))

    assert {function.name: set(function.granted) for function in found} == GRANTS
    assert len(found) == len(GRANTS), "two functions of one name"
    for function in found:
        assert function.owner == "metabuilder_owner"
        expected = None if function.name in CONSTANT else ["search_path=pg_catalog, public, pg_temp"]
        assert function.configuration == expected, function.name
        assert function.is_definer == (WORKER in GRANTS[function.name]), function.name
    of_the_definers = {function.name: [name for name, _ in function.arguments] for function in found}
    assert {name: list(values) for name, values in USUAL.items()} == {
        name: arguments for name, arguments in of_the_definers.items() if WORKER in GRANTS[name]
    }


@pytest.mark.parametrize("tenant", [None, "", TENANT, "tenant-2"])
def test_the_application_may_call_none(
    filled: None, database: Database, call_as: Callable[..., Caller], tenant: str | None
) -> None:
    owner, application = call_as(database.owner_url), call_as(database.app_url, tenant)
    before = owner.rows(EVERYTHING)
    for function in functions(owner):
        if function.name not in USUAL:
            continue
        for changed in [{}, *hostile(function)]:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="permission denied for function"):
                application.call(function, **changed)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        application.cursor.execute("SET ROLE metabuilder_worker")
    assert owner.rows(EVERYTHING) == before


def hostile(function: Function) -> list[dict[str, Any]]:
    """Each of its arguments with each hostile value of its type that is one of that type."""
    return [
        {name: value}
        for name, kind in function.arguments
        for value in HOSTILE[kind]
        if value not in (2**31, "infinity")
    ]


def test_the_workers_cannot_be_made_to_pass_anything_out_of_bounds(
    filled: None, database: Database, call_as: Callable[..., Caller]
) -> None:
    owner, worker = call_as(database.owner_url), call_as(database.worker_url)
    before = owner.rows(EVERYTHING)
    tried = 0
    for function in functions(owner):
        for name, kind in function.arguments if function.name in USUAL else ():
            for value in (*HOSTILE[kind], *OUTSIDE.get(function.name, {}).get(name, ())):
                if (function.name, name, value) not in HARMLESS:
                    with pytest.raises(REFUSED):
                        worker.call(function, **{name: value})
                    tried += 1
            if function.name == "unclaim_accounts":  # each too long, and as long as the other
                with pytest.raises(REFUSED):
                    worker.call(function, tenant_ids=["x"] * 10_001, account_ids=["x"] * 10_001)
    assert tried > 110
    assert owner.rows(EVERYTHING) == before

    # The same calls with the usual arguments do change what they are for.
    for function in functions(owner):
        if function.name in USUAL:
            worker.call(function)
    accounts, letters, blobs, credentials = owner.rows(EVERYTHING)[0]
    assert (letters, blobs) == (None, None)
    assert accounts != before[0][0]
    assert credentials != before[0][3]


def through_the_code() -> None:
    """Each function, called by the code of the workers and of the command line."""
    claimed = [account for batch in dispatch.claim_due_accounts(10, 270) for account in batch]
    dispatch.unclaim_accounts(claimed)
    cleanup.release_expired_leases()
    cleanup.delete_unreferenced_blobs("", "")
    cleanup.delete_old_dead_letters(30)
    deletions.accounts_with_expired_trash(30, ("", ""), 10)
    rereading.accounts_to_reread(("", ""), 10, automatically=True)
    rotation.count_by_key()
    list_tenants()
    dead_letters.list_letters()
    with unbound_transaction() as connection:
        connection.scalar(select(func.host_has_room("imap.example.org", 5)))


def test_workers_of_the_release_before_go_on_until_the_migration_is_finished(
    database: Database, environment: Callable[..., None], filled: None, call_as: Callable[..., Caller]
) -> None:
    # Given a database of the release before, whose workers log in as the application's role
    downgrade(database.owner_url, "0019")
    owner = call_as(database.owner_url)
    for function in functions(owner):
        if function.name.startswith("intake_"):  # which the first releases left to everybody
            owner.cursor.execute(f"GRANT EXECUTE ON FUNCTION {function.name} TO PUBLIC")
    environment(DATABASE_URL=database.app_url)
    through_the_code()

    # When it is migrated, then they go on, and nobody may call what only triggers do
    upgrade(database.owner_url)
    granted = {function.name: set(function.granted) for function in functions(owner)}
    assert {name for name, roles in granted.items() if not roles} == {name for name in GRANTS if not GRANTS[name]}
    through_the_code()
    environment(DATABASE_URL=database.worker_url)
    through_the_code()

    # When all workers log in as their own role, then the application's role is left without
    taken = finish(database.owner_url)
    assert sorted(name.partition("(")[0] for name in taken) == sorted(USUAL.keys() - NEW)
    through_the_code()
    environment(DATABASE_URL=database.app_url)
    with pytest.raises(ProgrammingError, match="permission denied for function"):
        through_the_code()
    assert finish(database.owner_url) == []


def test_a_worker_that_would_log_in_as_the_application_is_told_so(
    database: Database, environment: Callable[..., None]
) -> None:
    assert postgres_answers().ok
    environment(DATABASE_URL=database.app_url)
    check = postgres_answers()
    assert not check.ok
    assert "takes the login of metabuilder, but workers need the role metabuilder_worker" in check.detail


def test_without_the_workers_role_nothing_is_migrated(database: Database) -> None:
    as_superuser(database.server, "REVOKE metabuilder FROM metabuilder_worker")
    try:
        with pytest.raises(ConfigurationError, match="no role metabuilder_worker that is a member of metabuilder"):
            upgrade(database.owner_url)
    finally:
        as_superuser(database.server, "GRANT metabuilder TO metabuilder_worker")
