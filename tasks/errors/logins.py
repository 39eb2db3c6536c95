"""Logins that are refused or wait, paused accounts, stored secrets and OAuth2 tokens."""

from tasks.errors.base import PermanentError, Remedy, TransientError
from tasks.errors.servers import MailServerBusyError


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
    """The mail server refuses a user name and password that worked before. The login is tried again, and the account
    is paused only after hours of refusals."""

    code = "login_refused"
    remedy = Remedy.STORE_PASSWORD


class LoginFailedError(LoginDelayedError):
    """The mail server does not let the account in, and does not say that user name or password are wrong; the
    login is tried again, with growing pauses."""

    code = "login_failed"


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


class LoginMethodUnavailableError(PermanentError):
    """The mail server does not take OAuth2 tokens (OAUTHBEARER or XOAUTH2); use a password."""

    code = "login_method_unavailable"


class CredentialUnreadableError(PermanentError):
    """The stored secret cannot be decrypted with any key in CREDENTIAL_ENCRYPTION_KEY; the password or token has to
    be entered again."""

    code = "credential_unreadable"
    remedy = Remedy.STORE_SECRET_AGAIN
