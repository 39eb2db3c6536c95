"""Counts what mail servers are blamed for, by protocol, provider and kind of error."""

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.counting import count
from tasks.errors import (
    AuthenticationFailedError,
    CertificateInvalidError,
    DeliveryInterruptedError,
    EmailError,
    EncryptionUnavailableError,
    HostNotAllowedError,
    LoginFailedError,
    LoginMethodUnavailableError,
    LoginRefusedError,
    MailServerBusyError,
    MailServerUnavailableError,
    MessageRefusedError,
    ProtocolError,
    TokenEndpointUnavailableError,
    TokenExpiredError,
    TokenRequestRefusedError,
    TooSlowError,
    UnknownHostError,
)
from tasks.mail.providers import provider_of

_OF_SERVERS = (
    *(MailServerUnavailableError, MailServerBusyError, ProtocolError, TooSlowError, DeliveryInterruptedError),
    *(UnknownHostError, HostNotAllowedError, CertificateInvalidError, EncryptionUnavailableError),
    *(AuthenticationFailedError, LoginRefusedError, LoginFailedError, LoginMethodUnavailableError),
    *(TokenEndpointUnavailableError, TokenExpiredError, TokenRequestRefusedError, MessageRefusedError),
)


@contextmanager
def complaints_counted(protocol: str, hostname: str) -> Iterator[None]:
    """A block that speaks with this server by `imap`, `pop3` or `smtp`. An error of the server counts."""
    try:
        yield
    except EmailError as error:
        if isinstance(error, _OF_SERVERS):
            count("server", protocol, provider_of(hostname), error.code)
        raise
