"""While Redis's passwords change, whoever could log in before still can."""

import pytest

from tests.unit.roles.plugins import load

keep = load("redis/filter_plugins/redis_logins.py").redis_keep_logins

A, B, C, ADMIN = (f"#{letter * 64}" for letter in "abcd")
NEW = f"user default on {ADMIN} ~* &* +@all\nuser metabuilder on {B} ~* -@admin\n"


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ("", NEW),
        (NEW, NEW),
        (NEW.replace(B, A), NEW.replace(B, f"{B} {A}")),
        # A run before this one did not get to its end
        (NEW.replace(B, f"{C} {A}"), NEW.replace(B, f"{B} {C} {A}")),
        (NEW.replace(B, f"{B} {A}"), NEW.replace(B, f"{B} {A}")),
        (NEW.replace(B, f"{A} {B}"), NEW.replace(B, f"{B} {A}")),
        # All passwords are new, and so is what the user may do
        (
            NEW.replace(B, A).replace(ADMIN, C).replace("-@admin", "+@all"),
            NEW.replace(B, f"{B} {A}").replace(ADMIN, f"{ADMIN} {C}"),
        ),
        # The user has another name
        (NEW.replace("metabuilder", "before").replace(B, A), f"{NEW}user before on {A} ~* -@admin\n"),
        ("# a comment\n\nuser\nnonsense\n", NEW),
    ],
)
def test_whoever_could_log_in_still_can(present: str, expected: str) -> None:
    assert keep(NEW, present) == expected
    assert keep(expected, present) == expected
    assert keep(NEW, expected) == expected
