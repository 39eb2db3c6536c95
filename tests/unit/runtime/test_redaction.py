"""What is shown of a task's arguments and errors."""

from tasks.runtime.redaction import redact_arguments, redact_text


def send_email(email_client_id, tenant_id, user_id, to, cc=None, body_text="", attachment_ids=None, is_html=False):
    """The shape of a task."""


def test_identifiers_and_switches_are_shown_and_nothing_else() -> None:
    args, kwargs = redact_arguments(
        send_email,
        ("account", "tenant", "user", ["ann@example.org", "bob@example.org"]),
        {"body_text": "the secret", "attachment_ids": ["a"], "is_html": True, "cc": None},
    )
    assert args == ("account", "tenant", "user", "<2 items>")
    assert kwargs == {"body_text": "<10 characters>", "attachment_ids": ["a"], "is_html": True, "cc": None}


def test_arguments_that_fit_no_signature_are_not_shown() -> None:
    args, kwargs = redact_arguments(lambda one_id: None, ("id", "secret"), {"other": {"a": "b"}})
    assert args == ("id", "<6 characters>")
    assert kwargs == {"other": "<1 items>"}


def test_errors_lose_the_names_in_addresses_and_the_logins_in_urls() -> None:
    text = 'refused <ann.o\'hara+x@example.org>, "bob"@mail.example: redis://:p%40ss@host:1/0 smtp://u:p@h'
    shown = redact_text(text)
    for secret in ("ann", "hara", "p%40ss", "u:p"):
        assert secret not in shown
    assert "example.org" in shown
