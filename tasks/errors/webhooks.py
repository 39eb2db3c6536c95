"""Endpoints of webhooks."""

from tasks.errors.base import PermanentError


class WebhookUrlError(PermanentError):
    """The URL of a webhook cannot be used."""

    code = "webhook_url"
