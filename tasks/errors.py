"""One tree of errors: transient ones are retried, permanent ones are recorded and shown.

The docstring of a class is its message to a person; what the error happened to is given when it is raised. `code` is
stable and is what programs and the `last_error_code` column of an account hold. No message names a command: messages
are stored, and the operator's command differs from place to place. `remedy` says what a person can do, and whoever
shows an error names the command for it (`manage/advice.py`).
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum, auto
from typing import Any, ClassVar

from kombu.exceptions import OperationalError

from tasks.secrecy.secrets import shown


class Remedy(StrEnum):
    """What a person can do about an error."""

    STORE_PASSWORD = auto()
    STORE_SMTP_PASSWORD = auto()
    STORE_TOKEN = auto()
    STORE_SECRET_AGAIN = auto()
    TRY_LOGIN = auto()
    DECIDE_DELIVERY = auto()
    RETRY_TASK = auto()


class EmailError(Exception):
    """Something went wrong with the mail of an account."""

    code: ClassVar[str] = "error"
    remedy: ClassVar[Remedy | None] = None

    def __init__(self, detail: str = "") -> None:
        # `detail` is often a server's own text, which may hold any
        # characters, and is stored in the database and in Redis.
        detail = shown(detail.encode("utf-8", "replace").decode().replace("\0", "\ufffd"))
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        summary = " ".join((self.__doc__ or "").split())
        return f"{summary} ({self.detail})" if self.detail else summary


class TransientError(EmailError):
    """A passing condition; the task is retried."""

    code = "transient"
    # In how many seconds the server wants to be asked again, if it says so.
    retry_after: float | None = None


class PermanentError(EmailError):
    """Trying again changes nothing until a person does something."""

    code = "permanent"


class SoftTimeLimitError(Exception):
    """The soft time limit of the task has passed.

    The error strikes at any point of a task. It is no EmailError, so that code that handles
    errors of mail servers and of storage does not take the end of the task's time for such an error.
    """

    def __init__(self) -> None:
        super().__init__("the soft time limit has passed")


class MailServerUnavailableError(TransientError):
    """The mail server could not be reached, hung, or closed the connection; it will be tried again."""

    code = "server_unavailable"


class MailServerBusyError(TransientError):
    """The mail server asks to come back later."""

    code = "server_busy"


class LoginBusyError(MailServerBusyError):
    """The mail server asks to come back later to log in."""


class LoginDelayedError(TransientError):
    """The mail server did not let the account in, and the time of the next login has not come: nothing was tried."""

    code = "login_delayed"
    remedy = Remedy.TRY_LOGIN

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class LoginRefusedError(LoginDelayedError):
    """The mail server refuses a user name and password that worked before. That may pass, so they are tried again,
    and only after hours of refusals the account is paused."""

    code = "login_refused"
    remedy = Remedy.STORE_PASSWORD


class LoginFailedError(LoginDelayedError):
    """The mail server does not let the account in, and does not say that user name or password are wrong; it is tried
    again, later and later."""

    code = "login_failed"


class ProtocolError(TransientError):
    """The mail server sent what the protocol does not allow."""

    code = "protocol_error"


class StorageUnavailableError(TransientError):
    """PostgreSQL could not be reached or could not store what it got; nothing is lost, tasks are tried again."""

    code = "storage_unavailable"


class BrokerUnavailableError(TransientError, OperationalError):  # type: ignore[misc]  # kombu has no types
    """Redis did not answer. A task that was to be queued may be queued or not: a second call may queue it twice,
    except for two sends with the same idempotency_key."""

    code = "broker_unavailable"


class ResultsUnavailableError(BrokerUnavailableError):
    """The result store does not say what became of the task. The task itself goes on without it."""

    code = "results_unavailable"


class LeaseHeldError(TransientError):
    """Another worker is syncing this account."""

    code = "lease_held"

    def __init__(self, seconds_left: float) -> None:
        super().__init__(f"its lease has {seconds_left:.0f} s left")
        self.seconds_left = seconds_left


class HostBusyError(TransientError):
    """As many accounts of this mail server are being synced as MAIL_HOST_CONNECTIONS allows."""

    code = "host_busy"


class LeaseLostError(TransientError):
    """The lease on the account ran out while it was being synced, and another worker took it."""

    code = "lease_lost"


class TooSlowError(TransientError):
    """The time of a task was used up before the mail server gave or took anything; it will be tried again."""

    code = "too_slow"


class NotFoundError(PermanentError):
    """Not found."""

    code = "not_found"


class AnotherMessageError(PermanentError):
    """The mail server has another message where the one to be deleted should be; it was left alone, and the one to be
    deleted was not found elsewhere."""

    code = "another_message"


class AuthenticationFailedError(PermanentError):
    """The mail server refuses the user name or password; the account is paused until another password is stored or a
    test of the account succeeds."""

    code = "authentication_failed"
    remedy = Remedy.STORE_PASSWORD


class SmtpLoginRefusedError(AuthenticationFailedError):
    """The SMTP server refuses the user name or password; sending is paused until another password is stored for the
    SMTP server or a test of the account succeeds."""

    remedy = Remedy.STORE_SMTP_PASSWORD


class GrantRevokedError(AuthenticationFailedError):
    """The OAuth2 grant was revoked or has expired; the account is paused until a new refresh token is stored."""

    code = "grant_revoked"
    remedy = Remedy.STORE_TOKEN


class AccountSwitchedOffError(PermanentError):
    """The account is switched off (is_enabled), so nothing was tried; the account has to be switched on first."""

    code = "account_switched_off"


class AccountPausedError(PermanentError):
    """The account is paused, so nothing was tried; another password ends the pause, and so does a test of the account
    that succeeds."""

    code = "account_paused"
    remedy = Remedy.STORE_PASSWORD


class SendingPausedError(PermanentError):
    """Sending from the account is paused, so nothing was tried; another password for the SMTP server ends the pause,
    and so does a test of the account that succeeds."""

    code = "sending_paused"
    remedy = Remedy.STORE_SMTP_PASSWORD


class TokenEndpointUnavailableError(TransientError):
    """The OAuth2 token endpoint could not be reached, or asks to come back later."""

    code = "token_endpoint_unavailable"

    def __init__(self, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class TokenExpiredError(TransientError):
    """The OAuth2 access token expired, and the mail server ended the session."""

    code = "token_expired"


class TokenRequestRefusedError(PermanentError):
    """The OAuth2 token endpoint refuses the client; check client id, client secret and scope of the account."""

    code = "token_request_refused"


class UnknownHostError(PermanentError):
    """The name of the mail server does not resolve; check the account's host name."""

    code = "unknown_host"


class HostNotAllowedError(PermanentError):
    """The name of the mail server leads to no public address, and MAIL_ALLOWED_NETWORKS lacks it and its port."""

    code = "host_not_allowed"


class LoginMethodUnavailableError(PermanentError):
    """The mail server does not take OAuth2 tokens (OAUTHBEARER or XOAUTH2); use a password."""

    code = "login_method_unavailable"


class CertificateInvalidError(PermanentError):
    """The mail server's certificate cannot be trusted; no password was sent."""

    code = "certificate_invalid"


class EncryptionUnavailableError(PermanentError):
    """The mail server does not offer the encryption that the account asks for; no password was sent."""

    code = "encryption_unavailable"


class CredentialUnreadableError(PermanentError):
    """The stored secret cannot be decrypted with any key in CREDENTIAL_ENCRYPTION_KEY; the password or token has to
    be entered again."""

    code = "credential_unreadable"
    remedy = Remedy.STORE_SECRET_AGAIN


class UnsupportedProtocolError(PermanentError):
    """Accounts of this protocol cannot be synced."""

    code = "unsupported_protocol"


class SmtpServerMissingError(PermanentError):
    """The account has no SMTP server, so it cannot send."""

    code = "smtp_server_missing"


class MessageUnparsableError(PermanentError):
    """A message cannot be parsed."""

    code = "message_unparsable"


class SpamEngineUnavailableError(TransientError):
    """A spam engine could not be asked; the rules alone decide."""

    code = "spam_engine_unavailable"


class MessageInvalidError(PermanentError):
    """The message cannot be sent as it is; nothing was sent."""

    code = "message_invalid"


class MessageRefusedError(PermanentError):
    """The mail server refuses the message; nobody got it."""

    code = "message_refused"


class IdempotencyConflictError(PermanentError):
    """This idempotency key was used for a message with other content; nothing was sent."""

    code = "idempotency_conflict"


class DeliveryFailedError(PermanentError):
    """The mail server did not take the message for as long as SMTP_MAX_AGE says; nobody got it."""

    code = "delivery_failed"


class DeliveryUnknownError(PermanentError):
    """The connection broke before the server's answer: the message was sent or was not, and a person decides."""

    code = "delivery_unknown"
    remedy = Remedy.DECIDE_DELIVERY


class NotUnknownError(PermanentError):
    """There is nothing for a person to decide about this message."""

    code = "not_unknown"


class DeliveryInterruptedError(TransientError):
    """The connection broke before the mail server's answer; whether the message was sent is found out later."""

    code = "delivery_interrupted"


class DeliveryWaitsError(TransientError):
    """The message waits in the outbox for its next try; it goes out by itself when its server takes it."""

    code = "delivery_waits"

    def __init__(self, detail: str, waiting: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.waiting = waiting


class DeliveryUnderWayError(TransientError):
    """Another run is sending this very message."""

    code = "delivery_under_way"

    def __init__(self, seconds_left: float) -> None:
        super().__init__(f"for {seconds_left:.0f} s more at most")
        self.seconds_left = seconds_left


class FoldersFailedError(PermanentError):
    """Some folders could not be synced; the others were."""

    code = "folders_failed"


class MailboxIncompleteError(PermanentError):
    """The server does not give all of its messages; what it gives is here, and the rest is asked for again."""

    code = "mailbox_incomplete"


class PoisonedTaskError(PermanentError):
    """This task keeps killing its worker; it is set aside until a person retries or drops it."""

    code = "poisoned"
    remedy = Remedy.RETRY_TASK


class MessageUnreadableError(PermanentError):
    """The task message is not one that a worker can run."""

    code = "message_unreadable"


class TaskUnknownError(PermanentError):
    """This release does not know the task, or its arguments; a worker of a release that does takes it."""

    code = "task_unknown"


class OutOfMemoryError(PermanentError):
    """The worker had not enough memory for this task."""

    code = "out_of_memory"


class NoTrashError(PermanentError):
    """The account has no Trash, and its server refuses to make one; only deleting for good is possible."""

    code = "no_trash"


class FolderReadOnlyError(PermanentError):
    """The server lets nothing be changed in this folder."""

    code = "folder_read_only"


class InternalError(PermanentError):
    """A defect of this program; the worker's log has the details."""

    code = "internal_error"


def remedy_of(code: str | None) -> Remedy | None:
    """What a person can do about an error, found by its code; None for an unknown code."""
    return next((kind.remedy for kind in _kinds(EmailError) if kind.code == code), None)


def _kinds(kind: type[EmailError]) -> Iterator[type[EmailError]]:
    """An error class and all its subclasses, each class before its own subclasses, which may share its code."""
    yield kind
    for derived in kind.__subclasses__():
        yield from _kinds(derived)
