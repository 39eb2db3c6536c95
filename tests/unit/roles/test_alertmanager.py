"""Alertmanager delivers to those whom the inventory names, and to nobody else."""

from typing import Any

import pytest
import yaml

from native.state import ROOT
from tests.unit.roles.plugins import load

plugin = load("monitoring/filter_plugins/alertmanager.py")
TEXT = (ROOT / "monitoring" / "alertmanager.yml").read_text()
NO_MAIL = {"to": "", "from": "", "server": "", "user": "", "password_file": "/run/password"}
MAIL = {**NO_MAIL, "to": "ops@example.org", "from": "site@example.org", "server": "smtp.example.org:587"}
NO_WEBHOOK = {"url": "", "token_file": ""}


def configured(mail: dict[str, str], webhook: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The global part of the configuration, and its one receiver."""
    made = plugin.alertmanager_configuration(TEXT, mail, webhook)
    assert made["route"] == yaml.safe_load(TEXT)["route"]
    (receiver,) = made["receivers"]
    return made["global"], receiver


def test_mail_goes_by_the_server_of_the_inventory() -> None:
    shared, receiver = configured({**MAIL, "user": "ada"}, NO_WEBHOOK)
    assert shared == {
        "smtp_smarthost": "smtp.example.org:587",
        "smtp_from": "site@example.org",
        "smtp_auth_username": "ada",
        "smtp_auth_password_file": "/run/password",
    }
    assert receiver["email_configs"][0]["to"] == "ops@example.org"
    assert "webhook_configs" not in receiver


def test_a_mail_server_that_asks_for_no_login_gets_none() -> None:
    shared, _ = configured(MAIL, NO_WEBHOOK)
    assert shared == {"smtp_smarthost": "smtp.example.org:587", "smtp_from": "site@example.org"}


@pytest.mark.parametrize("token_file", ["/run/token", ""])
def test_a_webhook_gets_its_token(token_file: str) -> None:
    shared, receiver = configured(NO_MAIL, {"url": "https://hook.example.org", "token_file": token_file})
    (webhook,) = receiver["webhook_configs"]
    authorization = webhook.get("http_config", {}).get("authorization")
    assert (webhook["url"], authorization) == (
        "https://hook.example.org",
        {"credentials_file": token_file} if token_file else None,
    )
    assert (shared, "email_configs" in receiver) == ({}, False)
