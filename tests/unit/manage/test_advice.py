"""What can be done about an error is said with the command and the variables of the place where it is shown."""

import re
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from manage import cli, place
from manage.account_show import remedies
from manage.advice import advice, advice_for_code, explained, said_here
from manage.session import account_argument
from native.errors import StackError
from tasks import errors
from tasks.errors import EmailError, PoisonedTaskError, Remedy, SendingPausedError, SmtpLoginRefusedError
from tasks.storage.accounts.rows import Account

PLACES = ["./manage.sh", "metabuilder"]


@pytest.fixture(params=PLACES)
def command(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(place, "COMMAND", request.param)
    monkeypatch.setattr(place, "IS_HOST", request.param == "metabuilder")
    return str(request.param)


def classes(kind: type[EmailError] = EmailError) -> Iterator[type[EmailError]]:
    yield kind
    for derived in kind.__subclasses__():
        yield from classes(derived)


def test_no_error_names_a_command() -> None:
    """Its text is stored, and shown in a clone, on a host and by the application."""
    told = [kind for kind in classes() if re.search(r"manage\.sh|metabuilder |`", kind.__doc__ or "")]
    assert told == []


@pytest.mark.parametrize("remedy", Remedy)
def test_every_remedy_is_a_command_of_this_place_that_exists(command: str, remedy: Remedy) -> None:
    said = advice(remedy, "a box", "42")
    assert said is not None
    verbs = re.findall(rf"{re.escape(command)} (\w+) (\w+) (?:'a box'|42)", said)
    assert len(verbs) == said.count(command) > 0
    for group, verb in verbs:
        found = cli.main.commands[group]
        assert isinstance(found, click.Group)
        assert verb in found.commands


def test_an_error_of_a_verb_is_followed_by_what_to_do(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @account_argument
    def fail(account_name: str) -> None:
        raise SendingPausedError(f"{account_name}: 535 no")

    monkeypatch.setitem(cli.main.commands, "fail", fail)
    said = CliRunner().invoke(cli.main, ["fail", "mail"]).stderr
    assert f"{command} account password mail (with --smtp" in said
    assert f"{command} account test mail" in said
    assert said.count("\n") == 1


def test_so_is_one_that_came_of_an_error_of_a_task(command: str) -> None:
    failed = StackError("the sync failed")
    failed.__cause__ = SmtpLoginRefusedError("no")
    assert f"{command} account password mail" in explained(failed, "mail")
    assert explained(StackError("no")) == "no"


def test_a_stored_code_tells_what_to_do(command: str) -> None:
    assert f"{command} account password mail. " in str(advice_for_code("authentication_failed", "mail"))
    assert f"{command} dlq retry 42" in str(advice_for_code(PoisonedTaskError.code, item_id="42"))
    assert advice_for_code("server_busy") is advice_for_code(None) is advice_for_code("nobody's") is None


def test_each_side_of_an_account_has_its_remedy(command: str) -> None:
    fields: dict[str, Any] = dict.fromkeys(Account._fields)
    well = Account(**{**fields, "account_name": "mail"})
    assert remedies(well) == []
    refused = well._replace(last_error_code="authentication_failed", smtp_last_error="no")
    password, test = remedies(refused)
    assert f"{command} account password mail." in password
    assert test == f"Try the login now: {command} account test mail"


def test_a_variable_is_named_as_the_inventory_names_it_on_hosts(command: str) -> None:
    words = str(errors.HostNotAllowedError("MAIL_TIMEOUT, REDIS_HOST, NO_SETTING, TASK_TIMEOUT"))
    names = re.findall(r"(\w+) \((\w+) in the inventory\)", said_here(words))
    expected = [
        ("MAIL_ALLOWED_NETWORKS", "application_mail_allowed_networks"),
        ("MAIL_TIMEOUT", "application_mail_timeout"),
        ("TASK_TIMEOUT", "celery_worker_task_timeout"),
    ]
    assert names == (expected if command == "metabuilder" else [])
