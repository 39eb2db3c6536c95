"""The Molecule scenarios: the whole deployment on hosts that boot systemd."""

import warnings

import pytest

from tests.conftest import unavailable
from tests.support.hosts.machine import missing


# The longest first: the last ones are waited for.
@pytest.mark.parametrize("scenario", ["default", "cluster", "ha", "upgrade"])
def test_scenario(scenario: str, request: pytest.FixtureRequest) -> None:
    if wanting := missing():
        unavailable("; ".join(wanting))
    outcome = request.getfixturevalue("scenarios").wait_for(scenario)
    for shown in outcome.tried_twice:
        warnings.warn(shown, stacklevel=1)
    assert outcome.status == 0, outcome.output
