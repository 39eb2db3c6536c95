"""The spam check: of new messages, of stored messages, and by spam engines.

New messages are checked by the rules alone, which take microseconds and need no server. Spam engines take a good part
of a second for a message, so another task asks them later, and a sync never waits for them. When a stored message is
checked again, the rules come to the same verdict as on arrival, because they look only at stored data.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple

from tasks import log_fields
from tasks.errors import NotFoundError, SpamEngineUnavailableError
from tasks.mail.compose.rebuild import rebuild
from tasks.mail.spam import judge
from tasks.mail.spam.engines import HTTP_API, SPAMD, Opinion, ask_http, ask_spamd
from tasks.mail.spam.evidence import Addressee
from tasks.mail.spam.verdict import Indicator, Verdict, clamped
from tasks.settings import SpamSettings, get_settings
from tasks.storage.accounts.rows import Account
from tasks.storage.messages.spam import OWN_FOLDERS, StoredMessage, load_messages, save_verdicts, without_opinion
from tasks.storage.session import tenant_transaction

logger = logging.getLogger(__name__)

ENGINE_UNAVAILABLE: Final = "engine_unavailable"

# A first sync brings years of mail. Engines are asked only about mail of this many days, which people still act on.
_DAYS: Final = 7
# Small, so that a batch ends within the time limits of a task even where each answer takes its whole timeout.
_BATCH: Final = 8
# How many messages an engine is asked about at a time. spamd runs five children by default, and serves others too.
_AT_ONCE: Final = 4

Ask = Callable[[bytes], Opinion]


class Decision(NamedTuple):
    """Whether a message is spam. `decided_by` is "user" where a keyword or the folder decides, else "score"."""

    is_spam: bool
    decided_by: str
    verdict: Verdict


def recipient_for(account: Account, folder_type: str) -> Addressee | None:
    """For whom the new messages of a folder are checked.

    None in folders of sent mail and drafts, or if the check is off.
    """
    settings = get_settings().spam
    if not settings.check_enabled or folder_type in OWN_FOLDERS:
        return None
    return _recipient(account.email_address, account.hostname, settings)


def check_message(tenant_id: str, user_id: str, email_id: str) -> Decision:
    """Check a stored message by rules and engines, and store the verdict. Raises NotFoundError.

    If an engine cannot be asked, the others decide, and the verdict names the engine.
    """
    settings = get_settings().spam
    with tenant_transaction(tenant_id) as connection:
        found = load_messages(connection, tenant_id, user_id, [email_id])
    if not found:
        raise NotFoundError("message")
    stored = found[0]
    raw = rebuild(stored.message) if settings.has_engine else b""
    opinions, failures = [], []
    for engine, ask in _engines(settings).items():
        try:
            opinions.append(ask(raw))
        except SpamEngineUnavailableError as error:
            logger.warning("%s is not there, the rules decide: %s", engine, error.detail)
            failures.append(Indicator(ENGINE_UNAVAILABLE, 0.0, error.detail))
    verdict = _with_opinions(_verdict_of_rules(stored, settings), opinions, failures)
    with tenant_transaction(tenant_id) as connection:
        save_verdicts(connection, tenant_id, [(stored.id, verdict)])
    return _decide(stored, verdict, settings.score_threshold)


def ask_engines(tenant_id: str, user_id: str, account_id: str) -> int:
    """Ask the engines about a batch of new messages. Returns how many there were. Raises SpamEngineUnavailableError.

    An engine is asked about a message only once, whatever it answers, so that repeated calls come to an end.
    """
    settings = get_settings().spam
    engines = _engines(settings)
    if not engines:
        return 0
    with tenant_transaction(tenant_id) as connection:
        ids = without_opinion(connection, tenant_id, account_id, list(engines), _DAYS, _BATCH)
        batch = load_messages(connection, tenant_id, user_id, ids) if ids else []
    if not batch:
        return 0
    with ThreadPoolExecutor(_AT_ONCE, "spam", log_fields.use, (log_fields.current(),)) as pool:
        verdicts = list(pool.map(partial(_asked, engines, settings), batch))
    with tenant_transaction(tenant_id) as connection:
        save_verdicts(connection, tenant_id, verdicts)
    return len(batch)


def _recipient(email_address: str, hostname: str, settings: SpamSettings) -> Addressee:
    return Addressee(email_address, settings.trusted_authserv_ids.get(hostname.lower(), frozenset()))


def _verdict_of_rules(stored: StoredMessage, settings: SpamSettings) -> Verdict:
    return judge(stored.message, _recipient(stored.email_address, stored.hostname, settings))


def _engines(settings: SpamSettings) -> dict[str, Ask]:
    engines: dict[str, Ask] = {}
    if settings.spamd_host is not None:
        engines[SPAMD] = partial(
            ask_spamd, host=settings.spamd_host, port=settings.spamd_port, timeout=settings.engine_timeout
        )
    if settings.api_enabled and settings.api_url is not None:
        url = settings.api_url.get_secret_value()
        engines[HTTP_API] = partial(ask_http, url=url, timeout=settings.engine_timeout)
    return engines


def _asked(engines: dict[str, Ask], settings: SpamSettings, stored: StoredMessage) -> tuple[str, Verdict]:
    raw = rebuild(stored.message)
    opinions = [ask(raw) for ask in engines.values()]
    return stored.id, _with_opinions(_verdict_of_rules(stored, settings), opinions, [])


def _with_opinions(rules: Verdict, opinions: list[Opinion], failures: list[Indicator]) -> Verdict:
    """The highest score of rules and engines counts."""
    indicators = [Indicator(opinion.engine, opinion.score or 0.0, opinion.detail) for opinion in opinions]
    score = max([rules.score, *(indicator.weight for indicator in indicators)])
    return Verdict(clamped(score), (*indicators, *failures, *rules.indicators))


def _decide(stored: StoredMessage, verdict: Verdict, threshold: float) -> Decision:
    if stored.is_spam or stored.is_not_spam:
        return Decision(stored.is_spam, "user", verdict)
    return Decision(verdict.score >= threshold, "score", verdict)
