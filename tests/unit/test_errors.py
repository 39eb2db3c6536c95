"""The tree of errors: every leaf says what happened, in words and in a code of its own."""

from tasks import errors
from tasks.errors import EmailError, PermanentError, TransientError


def leaves(cls: type[EmailError]) -> list[type[EmailError]]:
    found = [leaf for child in cls.__subclasses__() for leaf in leaves(child)]
    return found or [cls]


def test_every_error_is_transient_or_permanent_and_not_both() -> None:
    for leaf in leaves(EmailError):
        assert issubclass(leaf, TransientError) != issubclass(leaf, PermanentError), leaf


def test_codes_are_told_apart() -> None:
    codes = [leaf.code for leaf in leaves(EmailError) if leaf.__module__ == "tasks.errors"]
    assert len(codes) == len(set(codes))


def test_results_name_a_class_where_callers_of_every_release_find_it() -> None:
    ours = [leaf for leaf in leaves(EmailError) if leaf.__module__.startswith("tasks.errors")]
    assert len(ours) > 40
    assert [
        leaf for leaf in ours if leaf.__module__ != "tasks.errors" or vars(errors)[leaf.__name__] is not leaf
    ] == []


def test_the_message_is_the_docstring_with_what_it_happened_to() -> None:
    class BrokenError(PermanentError):
        """It is broken."""

    assert str(BrokenError("the cup")) == "It is broken. (the cup)"
    assert str(BrokenError()) == "It is broken."


def test_what_a_server_says_can_be_stored() -> None:
    assert EmailError("a\0b\udcff").detail == "a\ufffdb?"
