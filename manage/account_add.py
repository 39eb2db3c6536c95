"""`account add`: registers an account that logs in with a password, or with OAuth2."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from manage.account_watch import CHOICES
from manage.examples import example
from manage.output import say, tell
from manage.place import COMMAND
from manage.session import connect, not_empty, tenant_option
from manage.stdin import read_line
from native import USER
from tasks.mail.kinds import Encryption, MailProtocol

if TYPE_CHECKING:
    from tasks.mail.oauth2 import Provider
    from tasks.storage.accounts.grants import Grant

_PORTS: dict[str, dict[str, int]] = {
    MailProtocol.IMAP: {Encryption.TLS: 993, Encryption.STARTTLS: 143, Encryption.NONE: 143},
    MailProtocol.POP3: {Encryption.TLS: 995, Encryption.STARTTLS: 110, Encryption.NONE: 110},
}
_SMTP_PORTS: dict[str, int] = {Encryption.TLS: 465, Encryption.STARTTLS: 587, Encryption.NONE: 25}
_PROTOCOLS = click.Choice([str(kind) for kind in MailProtocol])
_ENCRYPTIONS = click.Choice([str(kind) for kind in _SMTP_PORTS])
_PROVIDERS = ("google", "microsoft", "other")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class _Options:
    """The options of `account add`."""

    email: str
    hostname: str | None
    protocol: str
    port: int | None
    encryption: str
    keep_days: int | None
    username: str | None
    name: str | None
    smtp_hostname: str | None
    smtp_port: int | None
    smtp_encryption: str | None
    sent_copies: str
    all_mail: str
    watch: str
    oauth2: str | None
    client_id: str | None
    token_endpoint: str | None
    scope: str | None
    password_stdin: bool
    user: str
    tenant: str


@example("account add --email you@example.org --hostname imap.example.org")
@click.command()
@click.option("--email", required=True, help="The mail address.")
@click.option("--hostname", help="The IMAP or POP3 server.  [default with --oauth2 google or microsoft: theirs]")
@click.option("--protocol", type=_PROTOCOLS, default=MailProtocol.IMAP.value, show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), help="Its port.  [default: the protocol's own]")
@click.option("--encryption", type=_ENCRYPTIONS, default=Encryption.TLS.value, show_default=True)
@click.option(
    "--keep-days",
    type=click.IntRange(0),
    help="POP3: delete messages from the server so many days after they were stored.  [default: never]",
)
@click.option("--username", help="The name to log in with.  [default: the mail address]")
@click.option("--name", help="What to call the account here.  [default: the mail address]")
@click.option("--smtp-hostname", help="The SMTP server, with the same login.  [default: none, or the provider's]")
@click.option("--smtp-port", type=click.IntRange(1, 65535), help="Its port.  [default: 465, 587 or 25]")
@click.option("--smtp-encryption", type=_ENCRYPTIONS, help="[default: tls]")
@click.option(
    "--sent-copies",
    type=click.Choice(["auto", "append", "none"]),
    default="auto",
    show_default=True,
    help="Whether the workers put sent messages into the Sent folder; auto: unless the provider does that itself.",
)
@click.option(
    "--all-mail",
    type=click.Choice(["skip", "sync"]),
    default="skip",
    show_default=True,
    help="Folders that show messages of other folders again (\\All, \\Flagged, \\Important), outside Gmail.",
)
@click.option(
    "--watch",
    type=click.Choice(CHOICES),
    default="auto",
    show_default=True,
    help="Whether the server tells of changes as they happen, over a connection that a watcher holds (IMAP).",
)
@click.option("--oauth2", type=click.Choice(_PROVIDERS), help="Log in with OAuth2: asks for a refresh token.")
@click.option("--client-id", help="OAuth2: the client that the refresh token was granted to.")
@click.option("--token-endpoint", help="OAuth2: where tokens are refreshed (https).  [default: the provider's]")
@click.option("--scope", help="OAuth2: what to ask for.  [default: all that was granted]")
@click.option(
    "--password-stdin",
    is_flag=True,
    help="Read the password (OAuth2: the refresh token and, on a second line, the client secret if there is one) "
    "from standard input.",
)
@click.option("--user", default=USER, show_default=True, callback=not_empty, help="Who owns the account.")
@tenant_option
def add(**given: Any) -> None:
    """Register an account, and print its id."""
    options = _Options(**given)
    if options.keep_days is not None and options.protocol != MailProtocol.POP3:
        raise click.UsageError("--keep-days is for --protocol pop3: IMAP never deletes by itself")
    provider = _provider(options)
    if options.hostname is None and provider is None:
        raise click.UsageError("--hostname is needed: which server has the mail?")
    secret = _grant(options, provider) if options.oauth2 else read_secret(options.password_stdin)
    connect()
    from tasks.storage.accounts.rows import NewAccount, add_account

    hostname = options.hostname or (provider.hostname(options.protocol) if provider else "")
    if options.encryption == Encryption.NONE and hostname not in _LOOPBACK:
        say(f"Warning: with --encryption none the password goes over the network to {hostname} readable by anyone")
    new = NewAccount(
        account_name=options.name or options.email,
        email_address=options.email,
        hostname=hostname,
        port=options.port or _PORTS[options.protocol][options.encryption],
        encryption=options.encryption,
        username=options.username or options.email,
        password=secret,
        protocol=options.protocol,
        pop3_keep_days=options.keep_days,
        all_mail=options.all_mail,
        watch=options.watch,
        **_smtp(options, provider),
    )
    tell(add_account(options.tenant, options.user, new))
    say(f"Added. Try it: {COMMAND} account test {new.account_name!r}, then {COMMAND} sync {new.account_name!r}")


def read_secret(from_stdin: bool, what: str = "password") -> str:
    """A secret that has to be given, from standard input or by asking."""
    if from_stdin:
        secret = read_line()
        if not secret:
            raise click.UsageError(f"--password-stdin was given, but standard input holds no {what}")
        return secret
    if not sys.stdin.isatty():
        raise click.UsageError(f"there is no terminal to ask for the {what}: use --password-stdin")
    return str(click.prompt(what.capitalize(), hide_input=True, err=True))


def read_client_secret(from_stdin: bool) -> str | None:
    """The client's secret, which public clients do not have."""
    if from_stdin:
        return read_line() or None
    asked = "Client secret (empty: none, or the one that is stored)"
    return str(click.prompt(asked, default="", show_default=False, hide_input=True, err=True)) or None


def _provider(options: _Options) -> "Provider | None":
    from tasks.mail.oauth2 import PROVIDERS

    return PROVIDERS.get(options.oauth2) if options.oauth2 else None


def _grant(options: _Options, provider: "Provider | None") -> "Grant":
    from tasks.storage.accounts.grants import Grant, Secrets

    endpoint = options.token_endpoint or (provider.token_endpoint if provider else None)
    if not options.client_id:
        raise click.UsageError("--client-id is needed: a refresh token works only for the client it was granted to")
    if not endpoint or not endpoint.startswith("https://"):
        raise click.UsageError("--token-endpoint is needed, and must begin with https://")
    refresh_token = read_secret(options.password_stdin, "refresh token")
    return Grant(
        provider=options.oauth2 or "other",
        token_endpoint=endpoint,
        client_id=options.client_id,
        scope=options.scope if options.scope is not None else (provider.scope if provider else ""),
        secrets=Secrets(refresh_token, read_client_secret(options.password_stdin)),
    )


def _smtp(options: _Options, provider: "Provider | None") -> dict[str, Any]:
    hostname = options.smtp_hostname or (provider.smtp_hostname if provider else None)
    if hostname is None:
        return {}
    theirs = provider if provider and hostname == provider.smtp_hostname else None
    encryption = options.smtp_encryption or (theirs.smtp_encryption if theirs else Encryption.TLS)
    return {
        "smtp_hostname": hostname,
        "smtp_port": options.smtp_port or _SMTP_PORTS[encryption],
        "smtp_encryption": encryption,
        "sent_copies": options.sent_copies,
    }
