"""States, protocols, encryption and types of folders are compared by their enumerations, never as bare words."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.mail.kinds import Encryption, FolderType, MailProtocol
from tasks.storage.states import OutboxState, RecipientState

_ROOT = Path(__file__).parents[2]
_ENUMERATIONS = (MailProtocol, Encryption, FolderType, OutboxState, RecipientState)
_WORDS = {member.value for enumeration in _ENUMERATIONS for member in enumeration}
_NAMES = {"state", "protocol", "encryption", "smtp_encryption", "type", "folder_type", "kind"}


def _bare_words(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            named = any(getattr(side, "attr", getattr(side, "id", None)) in _NAMES for side in sides)
            words = [word for side in sides for word in ast.walk(side) if isinstance(word, ast.Constant)]
            if named and any(word.value in _WORDS for word in words):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def test_no_kind_is_compared_with_a_bare_word() -> None:
    found = [
        f"{path.relative_to(_ROOT)} {bare}"
        for folder in ("tasks", "manage")
        for path in sorted((_ROOT / folder).rglob("*.py"))
        if "migrations" not in path.parts
        for bare in _bare_words(path.read_text())
    ]
    assert not found, "compare with a member of tasks/mail/kinds.py or tasks/storage/states.py:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "code", ["x.protocol == 'imap'", "state in ('sent', 'failed')", "'tls' != endpoint.encryption"]
)
def test_a_bare_word_is_found(code: str) -> None:
    assert list(_bare_words(code))
