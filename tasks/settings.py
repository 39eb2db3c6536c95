"""Everything that can be configured, typed and validated; the only reader of the environment.

Each group is a section of the env file. `load()` reads them all and reports every mistake at once, each by the
name of its variable. Values are read once per process, on first use, never at import.

All groups are in this one file, where each variable is found with its default and its bounds.
"""

import base64
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache, partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tasks.errors import PermanentError
from tasks.secrecy.forms import Known
from tasks.secrecy.urls import (
    address,
    checked_host,
    checked_postgresql_url,
    checked_redis_url,
    redis_url,
    secrets_of_url,
    with_database,
)

# The longest that a retry waits. The visibility timeout must be longer, or the waiting task would be redelivered.
MAX_COUNTDOWN_SECONDS = 600
# The time budget of a task, as a share of its soft time limit.
_BUDGET_SHARE = 0.6

# imap.example.org=10,*=50
_HOST_CONNECTIONS = r"^([a-z0-9.:*-]+=\d+(,[a-z0-9.:*-]+=\d+)*)?$"

_FERNET_KEY_BYTES = 32
_SENTINEL_PORT = 26379

TaskSeconds = Annotated[int, Field(gt=0)]
Port = Annotated[int, Field(gt=0, le=65535)]


class ConfigurationError(PermanentError):
    """The configuration is not valid."""

    code = "configuration"


def _checked(check: Callable[[str], str], url: SecretStr) -> SecretStr:
    return SecretStr(check(url.get_secret_value()))


def _without_brackets(host: str) -> str:
    return host.strip("[]")


def _sentinel_address(text: str) -> tuple[str, int]:
    return address(text, _SENTINEL_PORT)


Host = Annotated[str, AfterValidator(checked_host)]
# What a program listens on. An IPv6 address has brackets only in URLs.
Address = Annotated[Host, AfterValidator(_without_brackets)]
MasterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
SentinelAddress = Annotated[tuple[str, int], BeforeValidator(_sentinel_address)]
RedisUrl = Annotated[SecretStr, AfterValidator(partial(_checked, checked_redis_url))]
DatabaseUrl = Annotated[SecretStr, AfterValidator(partial(_checked, checked_postgresql_url))]


class _Group(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)


class Sentinels(NamedTuple):
    """The Sentinels that say where the master of a Redis is: their hosts and ports, the name that they know it by,
    their password, and how TLS verifies them; no TLS where `tls` is empty."""

    addresses: tuple[tuple[str, int], ...]
    master_name: str
    password: SecretStr | None
    tls: Mapping[str, str]


class RedisPlace(NamedTuple):
    """The URL of a Redis, which holds the password, the variables that its address and its password come from, and
    whether Redis is the result store there instead of the broker.

    With Sentinels, clients connect to the address that the Sentinels name; the URL has the master's name as its host.
    """

    url: str
    variable: str
    password_variable: str
    is_results: bool = False
    sentinels: Sentinels | None = None


class RedisSettings(_Group):
    """The broker and the result store. A whole URL wins over its parts.

    With `sentinels` both are wherever the Sentinels say that their masters are.
    """

    host: Host = Field("127.0.0.1", validation_alias="REDIS_HOST")
    port: Port = Field(6379, validation_alias="REDIS_PORT")
    username: str | None = Field(None, validation_alias="REDIS_USERNAME")
    password: SecretStr | None = Field(None, validation_alias="REDIS_PASSWORD")
    broker_db: int = Field(0, validation_alias="REDIS_BROKER_DB", ge=0)
    result_db: int = Field(1, validation_alias="REDIS_RESULT_DB", ge=0)
    use_ssl: bool = Field(False, validation_alias="REDIS_USE_SSL")
    ssl_cert_reqs: Literal["required", "optional", "none"] = Field("required", validation_alias="REDIS_SSL_CERT_REQS")
    ssl_ca_certs: str | None = Field(None, validation_alias="REDIS_SSL_CA_CERTS")
    url: RedisUrl | None = Field(None, validation_alias="REDIS_URL")
    result_host: Host | None = Field(None, validation_alias="REDIS_RESULT_HOST")
    result_port: Port | None = Field(None, validation_alias="REDIS_RESULT_PORT")
    result_username: str | None = Field(None, validation_alias="REDIS_RESULT_USERNAME")
    result_password: SecretStr | None = Field(None, validation_alias="REDIS_RESULT_PASSWORD")
    result_use_ssl: bool | None = Field(None, validation_alias="REDIS_RESULT_USE_SSL")
    sentinels: Annotated[tuple[SentinelAddress, ...], NoDecode] = Field((), validation_alias="REDIS_SENTINELS")
    sentinel_password: SecretStr | None = Field(None, validation_alias="REDIS_SENTINEL_PASSWORD")
    master_name: MasterName = Field("broker", validation_alias="REDIS_MASTER_NAME")
    result_master_name: MasterName | None = Field(None, validation_alias="REDIS_RESULT_MASTER_NAME")
    explicit_broker_url: RedisUrl | None = Field(None, validation_alias="CELERY_BROKER_URL")
    explicit_result_backend: RedisUrl | None = Field(None, validation_alias="CELERY_RESULT_BACKEND")

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: dict[str, Any]) -> dict[str, Any]:
        return _split_at_commas(values, "REDIS_SENTINELS")

    @model_validator(mode="after")
    def _one_way_to_find_redis(self) -> Self:
        urls = {
            "REDIS_URL": self.url,
            "CELERY_BROKER_URL": self.explicit_broker_url,
            "CELERY_RESULT_BACKEND": self.explicit_result_backend,
        }
        if self.sentinels and (given := [name for name, url in urls.items() if url]):
            raise ValueError(
                f"REDIS_SENTINELS is set, and so is {' and '.join(given)}: remove one of them. With Sentinels, Redis "
                "is found by the name of its master, REDIS_MASTER_NAME"
            )
        return self

    @property
    def broker_url(self) -> str:
        """The URL Celery publishes to, with its TLS options; it holds the password, so it must not be logged."""
        return self.broker.url

    @property
    def result_backend(self) -> str:
        """The URL Celery stores results at, with its TLS options; it holds the password, so it must not be logged."""
        return self.results.url

    @property
    def broker(self) -> RedisPlace:
        """Where the broker is."""
        if self.explicit_broker_url:
            return self._place(self.explicit_broker_url.get_secret_value(), "CELERY_BROKER_URL")
        if self.url:
            return self._place(with_database(self.url.get_secret_value(), self.broker_db), "REDIS_URL")
        password, sentinels = _text(self.password), self._sentinels(self.master_name)
        host = sentinels.master_name if sentinels else self.host
        url = redis_url(host, self.port, self.username, password, self.broker_db, tls=self.use_ssl)
        variable = "REDIS_SENTINELS" if sentinels else "REDIS_HOST"
        return self._place(url, variable, "REDIS_PASSWORD")._replace(sentinels=sentinels)

    @property
    def results(self) -> RedisPlace:
        """Where the result store is."""
        return self._results._replace(is_results=True)

    @property
    def _results(self) -> RedisPlace:
        if self.explicit_result_backend:
            return self._place(self.explicit_result_backend.get_secret_value(), "CELERY_RESULT_BACKEND")
        if self.url and self.result_host is None:
            return self._place(with_database(self.url.get_secret_value(), self.result_db), "REDIS_URL")
        sentinels = self._sentinels(self.result_master_name or self.master_name)
        url = redis_url(
            sentinels.master_name if sentinels else self.result_host or self.host,
            self.result_port or self.port,
            self.result_username or self.username,
            _text(self.result_password or self.password),
            self.result_db,
            tls=self.use_ssl if self.result_use_ssl is None else self.result_use_ssl,
        )
        named = "REDIS_RESULT_HOST" if self.result_host else "REDIS_HOST"
        password_variable = "REDIS_RESULT_PASSWORD" if self.result_password else "REDIS_PASSWORD"
        variable = "REDIS_SENTINELS" if sentinels else named
        return self._place(url, variable, password_variable)._replace(sentinels=sentinels)

    def _sentinels(self, master_name: str) -> Sentinels | None:
        if not self.sentinels:
            return None
        tls = self._tls_options if self.use_ssl else {}
        return Sentinels(self.sentinels, master_name, self.sentinel_password, tls)

    def _place(self, url: str, variable: str, password_variable: str | None = None) -> RedisPlace:
        return RedisPlace(self._with_tls_options(url), variable, password_variable or variable)

    def _with_tls_options(self, url: str) -> str:
        # The TLS options are part of the URL, so that every client that uses the URL verifies the server.
        if not url.startswith("rediss://") or "ssl_cert_reqs=" in url:
            return url
        return f"{url}{'&' if '?' in url else '?'}{urlencode(self._tls_options)}"

    @property
    def _tls_options(self) -> dict[str, str]:
        options = {"ssl_cert_reqs": self.ssl_cert_reqs, "ssl_ca_certs": self.ssl_ca_certs}
        return {name: value for name, value in options.items() if value}


class DatabaseSettings(_Group):
    """PostgreSQL. The workers' role sees one tenant at a time; the owner's role runs the migrations."""

    url: DatabaseUrl = Field(
        SecretStr("postgresql+psycopg2://metabuilder_worker@127.0.0.1:5432/metabuilder"),
        validation_alias="DATABASE_URL",
    )
    owner_url: DatabaseUrl | None = Field(None, validation_alias="DATABASE_OWNER_URL")


class WorkerSettings(_Group):
    """The Celery worker."""

    concurrency: int = Field(4, validation_alias="CELERYD_CONCURRENCY", ge=1)
    task_time_limit: TaskSeconds = Field(300, validation_alias="TASK_TIMEOUT")
    task_soft_time_limit: TaskSeconds = Field(280, validation_alias="CELERY_TASK_SOFT_TIME_LIMIT")
    prefetch_multiplier: int = Field(1, validation_alias="CELERY_WORKER_PREFETCH_MULTIPLIER", ge=1)
    max_tasks_per_child: int = Field(1000, validation_alias="CELERY_WORKER_MAX_TASKS_PER_CHILD", ge=1)
    result_expires: int = Field(3600, validation_alias="CELERY_RESULT_EXPIRES", ge=1)
    visibility_timeout: int = Field(1200, validation_alias="CELERY_VISIBILITY_TIMEOUT", ge=1)
    retry_max_delay: int = Field(
        MAX_COUNTDOWN_SECONDS, validation_alias="TASK_RETRY_MAX_DELAY", ge=1, le=MAX_COUNTDOWN_SECONDS
    )
    eta_task_limit: int = Field(5000, validation_alias="CELERY_WORKER_ETA_TASK_LIMIT", ge=1)
    max_redeliveries: int = Field(3, validation_alias="TASK_MAX_REDELIVERIES", ge=1)
    unknown_task_hours: int = Field(24, validation_alias="UNKNOWN_TASK_HOURS", ge=1)
    dead_letter_days: int = Field(30, validation_alias="DEAD_LETTER_RETENTION_DAYS", ge=1, le=3650)

    # Tasks do not read this: `./manage.sh up` does. It is here to be checked with the other variables.
    flower_port: Port = Field(5556, validation_alias="FLOWER_PORT")

    @property
    def budget_seconds(self) -> float:
        """The time budget: after this many seconds a task begins no new batch.

        The rest of the soft time limit is for the batch that is under way, and for delays of a slow server.
        """
        return self.task_soft_time_limit * _BUDGET_SHARE

    @model_validator(mode="after")
    def _limits_fit_each_other(self) -> Self:
        if self.task_soft_time_limit >= self.task_time_limit:
            raise ValueError(
                f"CELERY_TASK_SOFT_TIME_LIMIT ({self.task_soft_time_limit}) must be below "
                f"TASK_TIMEOUT ({self.task_time_limit}), so that a task can hand on before it is killed"
            )
        longest = self.task_time_limit + self.retry_max_delay
        if self.visibility_timeout <= longest:
            raise ValueError(
                f"CELERY_VISIBILITY_TIMEOUT ({self.visibility_timeout}) must be above TASK_TIMEOUT + "
                f"TASK_RETRY_MAX_DELAY ({longest}), or a task still running is delivered a second time"
            )
        return self


class SyncSettings(_Group):
    """The sync engine."""

    batch_size: int = Field(500, validation_alias="SYNC_BATCH_SIZE", ge=1, le=10_000)
    batch_bytes: int = Field(3 * 1024 * 1024, validation_alias="SYNC_BATCH_BYTES", ge=64 * 1024)
    max_message_bytes: int = Field(
        64 * 1024 * 1024, validation_alias="SYNC_MAX_MESSAGE_BYTES", ge=64 * 1024, le=100 * 1024 * 1024
    )
    lease_seconds: int = Field(60, validation_alias="SYNC_LEASE_SECONDS", ge=3)
    interval_seconds: int = Field(300, validation_alias="SYNC_INTERVAL_SECONDS", ge=1, le=30 * 86400)


class WatchSettings(_Group):
    """Watched mailboxes: connections over which mail servers tell of changes at once.

    A watcher watches `max_accounts` at most. Each connection asks to be told anew every `idle_seconds`, because
    servers end silent connections. Where the server tells of INBOX alone, the other folders are looked at every
    `folders_seconds`. Workers poll a watched mailbox every `poll_seconds`.
    """

    enabled: bool = Field(False, validation_alias="WATCH_ENABLED")
    max_accounts: int = Field(10_000, validation_alias="WATCH_MAX_ACCOUNTS", ge=1, le=1_000_000)
    idle_seconds: int = Field(1740, validation_alias="WATCH_IDLE_SECONDS", ge=1, le=1740)
    folders_seconds: int = Field(300, validation_alias="WATCH_FOLDERS_SECONDS", ge=1, le=86_400)
    poll_seconds: int = Field(1800, validation_alias="WATCH_POLL_SECONDS", ge=1, le=30 * 86400)
    host_logins_per_second: int = Field(10, validation_alias="WATCH_HOST_LOGINS_PER_SECOND", ge=1, le=1000)


class RereadSettings(_Group):
    """Rereading: whether it begins by itself, and the limits of each account in an hour."""

    automatically: bool = Field(True, validation_alias="REREAD_AUTOMATICALLY")
    messages_per_hour: int = Field(1000, validation_alias="REREAD_MESSAGES_PER_HOUR", ge=0)
    bytes_per_hour: int = Field(100 * 1024 * 1024, validation_alias="REREAD_BYTES_PER_HOUR", ge=64 * 1024)


class AllowedNetwork(NamedTuple):
    """A network whose servers may be connected to although their
    addresses are not public: at one port, or at every port."""

    network: IPv4Network | IPv6Network
    port: Port | None


class MailSettings(_Group):
    """Connections to mail servers, and to the token endpoints of OAuth2.

    A server that is not public is connected to only where its address is in `allowed_networks`.
    """

    timeout: int = Field(60, validation_alias="MAIL_TIMEOUT", ge=1)
    ssl_verify: bool = Field(True, validation_alias="SSL_VERIFY")
    allowed_networks: Annotated[tuple[AllowedNetwork, ...], NoDecode] = Field(
        (), validation_alias="MAIL_ALLOWED_NETWORKS"
    )
    host_connections: str = Field("", validation_alias="MAIL_HOST_CONNECTIONS", pattern=_HOST_CONNECTIONS)
    login_patience_hours: int = Field(6, validation_alias="MAIL_LOGIN_PATIENCE_HOURS", ge=0)

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: dict[str, Any]) -> dict[str, Any]:
        name = "MAIL_ALLOWED_NETWORKS"
        values = _split_at_commas(values, name)
        return {**values, name: tuple(map(_allowed_network, values[name]))} if name in values else values

    def networks_at(self, port: int) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks whose servers may be connected to at this port although they are not public."""
        return tuple(allowed.network for allowed in self.allowed_networks if allowed.port in (None, port))

    def connections_to(self, hostname: str) -> int:
        """How many connections a mail server may have at once; 0 for any number."""
        limits = self.connections_by_host
        return limits.get(hostname.lower(), limits.get("*", 0))

    @property
    def connections_by_host(self) -> dict[str, int]:
        """How many connections each mail server may have at once, by its name; `*` stands for any other."""
        items = (item.rsplit("=", 1) for item in self.host_connections.split(",") if item)
        return {hostname.lower(): int(limit) for hostname, limit in items}


class DeleteSettings(_Group):
    """Deleting. Messages are deleted after `trash_retention_days` in Trash; 0 keeps them for ever."""

    batch_size: int = Field(100, validation_alias="DELETE_BATCH_SIZE", ge=1, le=1000)
    trash_retention_days: int = Field(30, validation_alias="TRASH_RETENTION_DAYS", ge=0, le=36_500)


class EventSettings(_Group):
    """Events. They are kept for `retention_days` after their day has ended; tasks/storage/models has slots for 14."""

    retention_days: int = Field(7, validation_alias="EVENT_RETENTION_DAYS", ge=1, le=14)


class WebhookSettings(_Group):
    """Webhooks. A receiver has `timeout` seconds to answer; without TLS only where `allow_http` is true."""

    timeout: int = Field(10, validation_alias="WEBHOOK_TIMEOUT", ge=1, le=60)
    allow_http: bool = Field(False, validation_alias="WEBHOOK_ALLOW_HTTP")


class SpamSettings(_Group):
    """The spam check."""

    check_enabled: bool = Field(True, validation_alias="SPAM_CHECK_ENABLED")
    score_threshold: float = Field(0.5, validation_alias="SPAM_SCORE_THRESHOLD", gt=0, le=1)
    api_enabled: bool = Field(False, validation_alias="SPAM_API_ENABLED")
    api_url: SecretStr | None = Field(None, validation_alias="SPAM_API_URL")
    spamd_host: str | None = Field(None, validation_alias="SPAMD_HOST")
    spamd_port: Port = Field(783, validation_alias="SPAMD_PORT")
    engine_timeout: int = Field(20, validation_alias="SPAM_ENGINE_TIMEOUT", ge=1, le=30)
    trusted_authserv_ids: Annotated[dict[str, frozenset[str]], NoDecode] = Field(
        "imap.gmail.com=mx.google.com", validation_alias="SPAM_TRUSTED_AUTHSERV_IDS", validate_default=True
    )

    @field_validator("trusted_authserv_ids", mode="before")
    @classmethod
    def _by_server(cls, value: Any) -> Any:
        """`server=authserv-id, ...` as the authserv-ids of each mail server, all in lower case."""
        if not isinstance(value, str):
            return value
        trusted: dict[str, set[str]] = {}
        for pair in filter(None, (part.strip().lower() for part in value.split(","))):
            server, equals, authserv_id = (part.strip() for part in pair.partition("="))
            if not (server and equals and authserv_id):
                raise ValueError("it is a list of server=authserv-id with commas between them")
            trusted.setdefault(server, set()).add(authserv_id)
        return trusted

    @model_validator(mode="after")
    def _api_is_safe(self) -> Self:
        if not self.api_enabled:
            return self
        if self.api_url is None:
            raise ValueError("SPAM_API_URL is missing, and SPAM_API_ENABLED is true")
        try:
            url = urlsplit(self.api_url.get_secret_value())
        except ValueError:  # the error's text may repeat a part of the URL
            raise ValueError("SPAM_API_URL cannot be read as a URL") from None
        if not url.hostname or (url.scheme != "https" and not (url.scheme == "http" and _is_private(url.hostname))):
            raise ValueError(
                "SPAM_API_URL must be an https:// URL, or http:// to a loopback or private address: whole messages "
                "are sent there"
            )
        return self

    @property
    def has_engine(self) -> bool:
        """Whether a spam engine is asked besides the rules."""
        return self.api_enabled or self.spamd_host is not None


class SendSettings(_Group):
    """Sending: the seconds to wait for each answer of an SMTP server, how often the task itself tries a message again
    before the message waits in the outbox, how many seconds a message is tried for, and after how many seconds of
    waiting `health` warns."""

    timeout: int = Field(60, validation_alias="SMTP_TIMEOUT", ge=1)
    retries: int = Field(3, validation_alias="SMTP_RETRIES", ge=0)
    max_age: int = Field(172_800, validation_alias="SMTP_MAX_AGE", ge=0, le=2_592_000)
    delay_warning: int = Field(14_400, validation_alias="SMTP_DELAY_WARNING", ge=0, le=2_592_000)
    max_message_bytes: int = Field(50 * 1024 * 1024, validation_alias="SMTP_MAX_MESSAGE_BYTES", ge=64 * 1024)


class CredentialSettings(_Group):
    """Keys that encrypt stored secrets: the first one encrypts, all of them decrypt."""

    encryption_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), validation_alias="CREDENTIAL_ENCRYPTION_KEY"
    )
    # What encrypts where there are no keys, and opens nothing: the name of a key, and the public key that belongs to
    # it (`storage.credentials`).
    public_key: str | None = Field(
        None, validation_alias="CREDENTIAL_PUBLIC_KEY", pattern=r"^[0-9a-f]{8}:[A-Za-z0-9_-]{43}=$"
    )

    @model_validator(mode="before")
    @classmethod
    def _split_keys(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = _split_at_commas(values, "CREDENTIAL_ENCRYPTION_KEY", "encryption_keys")
        if not all(_is_fernet_key(key) for key in values.get("CREDENTIAL_ENCRYPTION_KEY", ())):
            raise ValueError(
                "CREDENTIAL_ENCRYPTION_KEY: each key must be 32 bytes in URL-safe base64, several separated by commas"
            )
        return values


class MonitoringSettings(_Group):
    """The exporter of metrics, which takes the same logins as Flower."""

    address: Address = Field("127.0.0.1", validation_alias="PROMETHEUS_ADDRESS")
    port: Port = Field(8000, validation_alias="PROMETHEUS_PORT")
    flower_logins: SecretStr | None = Field(None, validation_alias="FLOWER_BASIC_AUTH")

    @property
    def logins(self) -> tuple[str, ...]:
        """The logins, each `user:password`, as Flower reads them."""
        return tuple(filter(None, (_text(self.flower_logins) or "").split(",")))


class LogSettings(_Group):
    """Logging. DEBUG wins over LOG_LEVEL. Without `addresses`, lines have no names before the @ of mail addresses."""

    configured_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", validation_alias="LOG_LEVEL"
    )
    debug: bool = Field(False, validation_alias="DEBUG")
    addresses: bool = Field(False, validation_alias="LOG_ADDRESSES")

    @property
    def level(self) -> str:
        """The level in force."""
        return "DEBUG" if self.debug else self.configured_level


class Settings(BaseModel, frozen=True):
    """All groups of settings.

    `secrets` are all secrets in the settings, including the passwords in URLs; they are cut out of whatever is shown.
    """

    redis: RedisSettings
    database: DatabaseSettings
    worker: WorkerSettings
    sync: SyncSettings
    watch: WatchSettings
    reread: RereadSettings
    mail: MailSettings
    delete: DeleteSettings
    events: EventSettings
    webhooks: WebhookSettings
    spam: SpamSettings
    send: SendSettings
    credentials: CredentialSettings
    monitoring: MonitoringSettings
    log: LogSettings

    @cached_property
    def secrets(self) -> Known:
        values = [value for section in type(self).model_fields for _, value in getattr(self, section)]
        flat = chain.from_iterable(value if isinstance(value, tuple) else (value,) for value in values)
        texts = [value.get_secret_value() for value in flat if isinstance(value, SecretStr)]
        api = self.spam.api_url.get_secret_value() if self.spam.api_url else None
        found = (secrets_of_url(text, is_secret=text == api) if "://" in text else (text,) for text in texts)
        return Known(tuple(dict.fromkeys(filter(None, chain.from_iterable(found)))))


def load() -> Settings:
    """Read the environment. Raises ConfigurationError that names every variable that is wrong, without its value."""
    groups: dict[str, Any] = {}
    mistakes: list[str] = []
    for section, field in Settings.model_fields.items():
        group = field.annotation
        assert isinstance(group, type)
        try:
            groups[section] = group()
        except ValidationError as error:
            mistakes += [_explain(mistake) for mistake in error.errors(include_input=False, include_url=False)]
    if mistakes:
        raise ConfigurationError("; ".join(mistakes))
    return Settings(**groups)


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read from the environment on first use."""
    return load()


def _split_at_commas(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """A copy of `values` in which the values of these names are split at commas into tuples."""
    lists = {name: values[name] for name in names if isinstance(values.get(name), str)}
    return {**values, **{name: tuple(filter(None, map(str.strip, text.split(",")))) for name, text in lists.items()}}


def _allowed_network(text: str) -> tuple[IPv4Network | IPv6Network, str | None]:
    network, equals, port = text.partition("=")
    try:
        if equals and not (port.isdecimal() and 0 < int(port) <= 65535):
            raise ValueError(port)
        return ip_network(network), port or None
    except ValueError:
        raise ValueError(
            "MAIL_ALLOWED_NETWORKS: each must be a network like 10.1.2.0/24, or one of its ports like 10.1.2.3=143"
        ) from None


def _is_fernet_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, altchars=b"-_", validate=True)) == _FERNET_KEY_BYTES
    except ValueError:
        return False


def _explain(mistake: Any) -> str:
    message = str(mistake["msg"]).removeprefix("Value error, ")
    variable = ".".join(str(part) for part in mistake["loc"])
    return f"{variable}: {message}" if variable else message


def _text(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _is_private(hostname: str) -> bool:
    if hostname == "localhost":
        return True
    try:
        return ip_address(hostname).is_private
    except ValueError:
        return False
