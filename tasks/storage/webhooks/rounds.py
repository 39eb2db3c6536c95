"""Rounds: a run claims an endpoint, reads what is next for it, and stores what became of that.

In a round the endpoint gets the events after its position, and those that wait in its backlog and are due. Events are
put into lanes, one for each account, whose order is kept. Only the run that has the claim stores the result of its
round; what a killed run delivered and did not store is delivered again, under the same ids.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg2.errors
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tasks.errors import NotFoundError
from tasks.storage.events import INSERT_EVENTS, Event
from tasks.storage.session import tenant_transaction, unbound_transaction
from tasks.storage.states import DisabledReason, EventType
from tasks.storage.webhooks.endpoints import read_secrets

# How many events, and how many accounts of the backlog, are looked at in a round.
_EVENTS_A_ROUND, _ACCOUNTS_A_ROUND = 200, 50
# How many events of an account of the backlog are read at once, after the first of them was accepted.
_EVENTS_OF_AN_ACCOUNT = 50

_CLAIM = text("SELECT tenant_id, webhook_id FROM claim_webhooks(:run, :limit, :seconds)")
_COUNT = text("SELECT working, failing, disabled FROM count_webhooks()")
_HELD_BACK = text("SELECT webhooks_held_back()")
_READ = text(
    """
    SELECT url, types, account_ids, transaction_id || '-' || number, attempts, failing_since FROM webhook
    WHERE tenant_id = :tenant_id AND id = :id AND claimed_by = :run
    """
)
_BEHIND = text("SELECT email_client_id FROM webhook_backlog WHERE tenant_id = :tenant_id AND webhook_id = :id")
# The first event of an account is tried alone until it is accepted.
_BACKLOG = text(
    """
    SELECT behind.email_client_id, behind.attempts, behind.failing_since, event.transaction_id, event.number,
           event.id, event.type, event.created_at, event.data
    FROM (
      SELECT * FROM webhook_backlog
      WHERE tenant_id = :tenant_id AND webhook_id = :id AND next_try_at <= clock_timestamp()
      ORDER BY next_try_at LIMIT :accounts
    ) AS behind
    JOIN webhook ON webhook.tenant_id = behind.tenant_id AND webhook.id = behind.webhook_id
    LEFT JOIN LATERAL (
      SELECT * FROM event
      WHERE event.tenant_id = behind.tenant_id AND event.email_client_id = behind.email_client_id
        AND (event.transaction_id, event.number) > (behind.transaction_id, behind.number)
        AND (event.transaction_id, event.number) <= (webhook.transaction_id, webhook.number)
        AND (webhook.types = '{}' OR event.type = ANY(webhook.types))
      ORDER BY event.transaction_id, event.number
      LIMIT CASE WHEN behind.attempts > 0 THEN 1 ELSE :events END
    ) AS event ON true
    ORDER BY behind.email_client_id, event.transaction_id, event.number
    """
)
_AFTER = text('SELECT "position", id, type, email_client_id, created_at, data FROM events_after(:after, :limit)')
_MOVE = text(
    """
    UPDATE webhook
    SET transaction_id = :transaction_id, number = :number, attempts = :attempts,
        next_try_at = clock_timestamp() + make_interval(secs => :wait_seconds),
        failing_since = CASE
          WHEN :has_accepted THEN NULL
          WHEN CAST(:error AS text) IS NULL THEN failing_since
          ELSE coalesce(failing_since, now())
        END,
        last_accepted_at = CASE WHEN :has_accepted THEN clock_timestamp() ELSE last_accepted_at END,
        last_error = CASE WHEN :has_accepted OR CAST(:error AS text) IS NOT NULL THEN :error ELSE last_error END,
        given_up = given_up + :given_up,
        is_enabled = CAST(:disabled AS text) IS NULL, disabled_reason = :disabled,
        disabled_at = CASE WHEN CAST(:disabled AS text) IS NOT NULL THEN clock_timestamp() END,
        claimed_by = NULL, claimed_until = NULL
    WHERE tenant_id = :tenant_id AND id = :id AND claimed_by = :run
    """
)
_PUT_BEHIND = text(
    """
    INSERT INTO webhook_backlog AS backlog (
      tenant_id, webhook_id, email_client_id, transaction_id, number, attempts, next_try_at, failing_since, last_error
    )
    VALUES (:tenant_id, :id, :account_id, :transaction_id, :number, :attempts,
            clock_timestamp() + make_interval(secs => :wait_seconds),
            CASE WHEN :attempts > 0 THEN now() END, :error)
    ON CONFLICT (tenant_id, webhook_id, email_client_id) DO UPDATE
    SET transaction_id = excluded.transaction_id, number = excluded.number, attempts = excluded.attempts,
        next_try_at = excluded.next_try_at, last_error = excluded.last_error,
        failing_since = CASE WHEN excluded.attempts > 1 THEN backlog.failing_since ELSE excluded.failing_since END
    """
)
_CATCH_UP = text(
    "DELETE FROM webhook_backlog WHERE tenant_id = :tenant_id AND webhook_id = :id AND email_client_id = :account_id"
)
_TELL = text(
    f"{INSERT_EVENTS} VALUES (:tenant_id, '', '{EventType.WEBHOOK_DISABLED}', "
    "jsonb_build_object('webhook_id', CAST(:id AS text), 'reason', CAST(:disabled AS text)))"
)


class Claim(NamedTuple):
    """An endpoint to which this run alone delivers, for a while."""

    tenant_id: str
    webhook_id: str
    run: str


class WebhookCount(NamedTuple):
    """How many endpoints of all tenants accept what they get, do not, and are disabled."""

    working: int
    failing: int
    disabled: int

    @property
    def enabled(self) -> int:
        """Those that get events."""
        return self.working + self.failing


class Lane(NamedTuple):
    """Events of an account, which are delivered in this order.

    `is_behind`: they come from the backlog; `has_more`: there may be more of them there.
    """

    account_id: str
    events: tuple[Event, ...]
    is_behind: bool = False
    has_more: bool = False
    attempts: int = 0
    failing_since: datetime | None = None


class Round(NamedTuple):
    """What is next for an endpoint. `position` is where it stood, `read_to` how far it was looked."""

    claim: Claim
    url: str
    secrets: tuple[str, ...]
    lanes: tuple[Lane, ...]
    position: str
    read_to: str
    attempts: int
    failing_since: datetime | None


class Behind(NamedTuple):
    """An account whose events wait after this position, in seconds."""

    account_id: str
    position: str
    attempts: int = 0
    wait_seconds: float = 0
    error: str | None = None


class Verdict(NamedTuple):
    """What becomes of an endpoint and its accounts after a round (tasks/engine/webhooks/verdict.py)."""

    position: str
    behind: tuple[Behind, ...] = ()
    caught_up: tuple[str, ...] = ()
    has_accepted: bool = False
    attempts: int = 0
    wait_seconds: float = 0
    error: str | None = None
    given_up: int = 0
    disabled: DisabledReason | None = None


def claim_webhooks(run: str, limit: int, seconds: int) -> list[Claim]:
    """Claim endpoints of all tenants with something to deliver now, for so many seconds."""
    with unbound_transaction() as connection:
        rows = connection.execute(_CLAIM, {"run": run, "limit": limit, "seconds": seconds})
        return [Claim(row[0], row[1], run) for row in rows]


def count_webhooks() -> WebhookCount:
    """Count the endpoints of all tenants."""
    with unbound_transaction() as connection:
        return read_webhook_count(connection)


def read_webhook_count(connection: Connection) -> WebhookCount:
    """As `count_webhooks`, in the caller's transaction."""
    return WebhookCount._make(connection.execute(_COUNT).one())


def is_held_back() -> bool:
    """Whether there are events that endpoints get once an older transaction has ended."""
    with unbound_transaction() as connection:
        return bool(connection.execute(_HELD_BACK).scalar_one())


def read_round(claim: Claim) -> Round | None:
    """What is next for a claimed endpoint; None where the claim is lost, or the endpoint was removed.

    Raises CredentialUnreadableError.
    """
    with tenant_transaction(claim.tenant_id) as connection:
        row = connection.execute(_READ, _key(claim)).one_or_none()
        if row is None:
            return None
        url, types, account_ids, position, attempts, failing_since = row
        try:
            secrets = read_secrets(connection, claim.tenant_id, claim.webhook_id)
        except NotFoundError:  # it was removed this moment
            return None
        backlog = _backlog(connection, claim)
        events = _events_after(connection, position)
        behind = {name for (name,) in connection.execute(_BEHIND, _key(claim))}
    read_to = events[-1].position if events else position
    wanted = [
        event
        for event in events
        if event.type in (types or [event.type]) and event.email_client_id in (account_ids or [event.email_client_id])
    ]
    # The position goes past these events of accounts in the backlog, so they are to be read from there.
    passed = {event.email_client_id for event in wanted} & behind
    lanes = (
        *(lane._replace(has_more=lane.has_more or lane.account_id in passed) for lane in backlog),
        *_lanes(event for event in wanted if event.email_client_id not in passed),
    )
    return Round(claim, url, secrets, lanes, position, read_to, attempts, failing_since)


def store_round(claim: Claim, verdict: Verdict) -> bool:
    """Store what became of a round, and give up the claim. Returns False, and stores nothing, where it was lost."""
    key = _key(claim)
    values = {
        **verdict._asdict(),
        **_numbers(verdict.position),
        "disabled": verdict.disabled.value if verdict.disabled else None,
    }
    with tenant_transaction(claim.tenant_id) as connection:
        if not connection.execute(_MOVE, {**key, **values}).rowcount:
            return False
        if verdict.behind:
            rows = [{**key, **one._asdict(), **_numbers(one.position)} for one in verdict.behind]
            connection.execute(_PUT_BEHIND, rows)
        if verdict.caught_up:
            connection.execute(_CATCH_UP, [{**key, "account_id": account_id} for account_id in verdict.caught_up])
        if verdict.disabled:
            connection.execute(_TELL, {**key, "disabled": verdict.disabled.value})
    return True


def before(event: Event) -> str:
    """The position right before an event."""
    transaction_id, _, number = event.position.partition("-")
    return f"{transaction_id}-{int(number) - 1}"


def _key(claim: Claim) -> dict[str, str]:
    return {"tenant_id": claim.tenant_id, "id": claim.webhook_id, "run": claim.run}


def _numbers(position: str) -> Mapping[str, int]:
    transaction_id, _, number = position.partition("-")
    return {"transaction_id": int(transaction_id), "number": int(number)}


def _events_after(connection: Connection, position: str) -> list[Event]:
    """The next events after a position; from the oldest that is kept, where what follows the position is not."""
    try:
        with connection.begin_nested():
            return _read_after(connection, position)
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg2.errors.ObjectNotInPrerequisiteState):
            raise
    return _read_after(connection, "")


def _read_after(connection: Connection, position: str) -> list[Event]:
    rows = connection.execute(_AFTER, {"after": position, "limit": _EVENTS_A_ROUND})
    return [Event._make(row) for row in rows]


def _backlog(connection: Connection, claim: Claim) -> tuple[Lane, ...]:
    limits = {"accounts": _ACCOUNTS_A_ROUND, "events": _EVENTS_OF_AN_ACCOUNT}
    lanes: dict[str, Lane] = {}
    for account_id, attempts, failing_since, *found in connection.execute(_BACKLOG, {**_key(claim), **limits}):
        events = _event(account_id, found)
        known = lanes.get(account_id) or Lane(account_id, (), True, False, attempts, failing_since)
        lanes[account_id] = known._replace(events=(*known.events, *events))
    return tuple(lane._replace(has_more=_may_have_more(lane)) for lane in lanes.values())


def _may_have_more(lane: Lane) -> bool:
    return len(lane.events) == (1 if lane.attempts else _EVENTS_OF_AN_ACCOUNT)


def _event(account_id: str, found: Sequence[Any]) -> tuple[Event, ...]:
    transaction_id, number, event_id, kind, created_at, data = found
    if event_id is None:
        return ()
    return (Event(f"{transaction_id}-{number}", event_id, kind, account_id, created_at, data),)


def _lanes(events: Iterable[Event]) -> tuple[Lane, ...]:
    of_account: dict[str, list[Event]] = {}
    for event in events:
        of_account.setdefault(event.email_client_id, []).append(event)
    return tuple(Lane(account_id, tuple(some)) for account_id, some in of_account.items())
