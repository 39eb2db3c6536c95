"""A verb whose Redis fails ends in one sentence and the code 1."""

import pytest
from click.testing import CliRunner
from kombu.exceptions import OperationalError
from redis import exceptions

from manage.cli import Manage


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


def test_other_errors_are_still_shown_as_faults() -> None:
    group = Manage("main")

    @group.command()
    def verb() -> None:
        raise LookupError("a fault")

    assert isinstance(CliRunner().invoke(group, ["verb"]).exception, LookupError)
