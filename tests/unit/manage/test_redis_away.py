"""A verb whose Redis fails ends in one sentence and the code 1."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner
from kombu.exceptions import OperationalError
from redis import exceptions

from manage.cli import Manage
from manage.trouble import redis_words
from native.errors import StackError
from tasks.errors import ResultsUnavailableError


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectionError("Connection refused."),
        exceptions.TimeoutError("Timeout reading from socket"),
        exceptions.AuthenticationError("invalid username-password pair"),
        exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
        exceptions.ReadOnlyError("You can't write against a read only replica."),
        exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        OperationalError("Connection refused."),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.usefixtures("environment")
def test_it_is_one_sentence(error: Exception) -> None:
    group = Manage("main")

    @group.command()
    def verb() -> None:
        raise error

    result = CliRunner().invoke(group, ["verb"])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    [line] = result.output.splitlines()
    assert str(error).rstrip(".") in line


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        ({"CELERY_RESULT_BACKEND": "redis://results.test/1"}, ("CELERY_RESULT_BACKEND", "CELERY_RESULT_BACKEND")),
        ({"REDIS_RESULT_HOST": "results.test"}, ("REDIS_RESULT_HOST", "REDIS_PASSWORD")),
        (
            {"REDIS_RESULT_HOST": "results.test", "REDIS_RESULT_PASSWORD": "theirs"},
            ("REDIS_RESULT_HOST", "REDIS_RESULT_PASSWORD"),
        ),
        ({}, ("REDIS_URL", "REDIS_URL")),
    ],
)
def test_advice_on_the_result_store_names_the_variables_that_lead_to_it(
    given: dict[str, str], variables: tuple[str, str], environment: Callable[..., None]
) -> None:
    environment(REDIS_URL="redis://broker.test:6379", REDIS_PASSWORD="the broker's", **given)
    for cause, variable in zip(
        (exceptions.ConnectionError("Connection refused"), exceptions.AuthenticationError("WRONGPASS")),
        variables,
        strict=True,
    ):
        error = ResultsUnavailableError(str(cause))
        error.__cause__ = cause
        said = redis_words(error)
        assert said is not None
        assert ("results.test" if given else "broker.test") in said
        assert f" {variable}." in said


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_full_result_store_is_not_told_to_empty_its_queues(
    is_wrapped: bool, environment: Callable[..., None]
) -> None:
    environment(REDIS_URL="redis://broker.test:6379", CELERY_RESULT_BACKEND="redis://results.test/1")
    error: Exception = ResultsUnavailableError("OOM command not allowed when used memory > 'maxmemory'.")
    error.__cause__ = exceptions.OutOfMemoryError(str(error))
    if is_wrapped:
        wrapped = StackError("the sync failed")
        wrapped.__cause__ = error
        error = wrapped
    said = redis_words(error)
    assert said is not None
    assert said.startswith("The result store (Redis at results.test:6379) is full")
    assert "CELERY_RESULT_BACKEND" in said
    assert "CELERY_RESULT_EXPIRES" in said
    assert "queues" not in said


def test_other_errors_are_still_shown_as_faults() -> None:
    group = Manage("main")

    @group.command()
    def verb() -> None:
        raise LookupError("a fault")

    assert isinstance(CliRunner().invoke(group, ["verb"]).exception, LookupError)
