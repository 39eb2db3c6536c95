""".env.example names every variable, with its default."""

import io
from typing import Any

from dotenv import dotenv_values
from pydantic import SecretStr

from native.environment import variables
from native.state import ROOT
from tasks.settings import Settings

EXAMPLES = ("REDIS_URL",)  # shown with an example because it has no default


def shown() -> dict[str, str]:
    """The variables of the file as if none were commented out."""
    text = (ROOT / ".env.example").read_text()
    lines = [line[1:] for line in text.splitlines() if line.startswith("#") and not line.startswith("# ")]
    values = dotenv_values(stream=io.StringIO("\n".join(lines)), interpolate=False)
    return {name: value or "" for name, value in values.items()}


def default(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value in (None, ()) else str(value)


def test_every_variable_is_there_and_no_other() -> None:
    assert set(shown()) == variables()


def test_the_defaults_are_those_of_the_settings() -> None:
    expected = {
        str(field.validation_alias): default(field.default)
        for group in Settings.model_fields.values()
        for field in group.annotation.model_fields.values()  # type: ignore[union-attr]
    }
    actual = {name: value for name, value in shown().items() if name in expected and name not in EXAMPLES}
    assert actual == {name: value for name, value in expected.items() if name not in EXAMPLES}


def test_as_it_is_it_sets_nothing() -> None:
    assert dotenv_values(ROOT / ".env.example") == {}
