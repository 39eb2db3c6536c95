"""Mail servers that are away, busy, forbidden or cannot be trusted, before a mailbox is looked at."""

from tasks.errors.base import PermanentError, TransientError


class MailServerUnavailableError(TransientError):
    """The mail server could not be reached, hung, or closed the connection; the task will be tried again."""

    code = "server_unavailable"


class MailServerBusyError(TransientError):
    """The mail server asks to come back later."""

    code = "server_busy"


class ProtocolError(TransientError):
    """The mail server sent what the protocol does not allow."""

    code = "protocol_error"


class HostBusyError(TransientError):
    """As many accounts of this mail server are being synced as MAIL_HOST_CONNECTIONS allows."""

    code = "host_busy"


class TooSlowError(TransientError):
    """The time of a task was used up before the mail server gave or took anything; the task will be tried again."""

    code = "too_slow"


class UnknownHostError(PermanentError):
    """The name of the mail server does not resolve; check the account's host name."""

    code = "unknown_host"


class HostNotAllowedError(PermanentError):
    """The name of the mail server leads to an address that is not public and that
    MAIL_ALLOWED_NETWORKS does not list with this port."""

    code = "host_not_allowed"


class CertificateInvalidError(PermanentError):
    """The mail server's certificate cannot be trusted; no password was sent."""

    code = "certificate_invalid"


class EncryptionUnavailableError(PermanentError):
    """The mail server does not offer the encryption that the account asks for; no password was sent."""

    code = "encryption_unavailable"


class SpamEngineUnavailableError(TransientError):
    """A spam engine could not be asked; the rules alone decide."""

    code = "spam_engine_unavailable"
