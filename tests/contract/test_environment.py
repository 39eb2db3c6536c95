"""One name for each variable, the same in the settings and in .env.example, with the same default."""

import re
from pathlib import Path

import pytest

from tasks.settings import Settings

ENV_EXAMPLE = Path(__file__).parents[2] / ".env.example"

# Examples that are not defaults: setting them changes what is started.
EXAMPLES_ONLY = {"REDIS_URL"}


def documented() -> dict[str, str]:
    """Variables of .env.example with the values shown."""
    return dict(re.findall(r"^#([A-Z][A-Z0-9_]*)=(.*)$", ENV_EXAMPLE.read_text(), re.MULTILINE))


def fields() -> dict[str, object]:
    """Variables of the settings with their defaults."""
    return {
        str(field.validation_alias): field.default
        for group in Settings.model_fields.values()
        for field in group.annotation.model_fields.values()
    }


def test_every_variable_is_documented_and_none_that_does_not_exist() -> None:
    assert set(documented()) == set(fields())


@pytest.mark.parametrize("name", sorted(set(fields()) - EXAMPLES_ONLY))
def test_the_documented_value_is_the_default(name: str) -> None:
    default, shown = fields()[name], documented()[name]
    if hasattr(default, "get_secret_value"):
        default = default.get_secret_value()
    if default is None or default == ():
        assert shown == ""
    elif isinstance(default, bool):
        assert shown == str(default).lower()
    else:
        assert shown == str(default)
