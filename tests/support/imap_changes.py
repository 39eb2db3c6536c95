"""The commands of the scripted IMAP server that change folders, by UID only (RFC 3501, RFC 4315, RFC 6851)."""

import re
from typing import TYPE_CHECKING

from tests.support.imap_mailbox import ScriptedFolder

if TYPE_CHECKING:
    from tests.support.imap_server import ImapServer


class Changes:
    """A part of the session: STORE of \\Deleted, EXPUNGE, COPY, MOVE, APPEND and CREATE."""

    server: "ImapServer"
    tag: bytes
    challenged: bool
    _literal: bytes = b""
    _appending: tuple[str, int] | None = None
    _folder: ScriptedFolder | None

    def _done(self, text: str) -> bytes:
        raise NotImplementedError

    def _limited(self, uids: list[int]) -> tuple[list[int], bytes]:
        raise NotImplementedError

    def _examine(self, rest: str) -> bytes:
        raise NotImplementedError

    def _named(self, text: str) -> ScriptedFolder | None:
        raise NotImplementedError

    def _select(self, rest: str) -> bytes:
        return self._examine(rest).replace(b"[READ-ONLY]", b"[READ-WRITE]")

    def _uid_store(self, rest: str) -> bytes:
        wanted, _, change = rest.partition(" ")
        assert change == r"+FLAGS.SILENT (\Deleted)", change
        uids, done = self._limited(self._open().within(wanted))
        for uid in uids:
            self._open().set_flags(uid, " ".join({*self._open().messages[uid].flags, "\\Deleted"}))
        return done

    def _uid_expunge(self, rest: str) -> bytes:
        folder = self._open()
        marked = [uid for uid in folder.within(rest) if "\\Deleted" in folder.messages[uid].flags]
        marked, done = self._limited(marked)
        self.server.expunge(folder, *marked)
        return done

    def _uid_move(self, rest: str) -> bytes:
        wanted, _, name = rest.partition(" ")
        folder, target = self._open(), self._named(name)
        if target is None:
            return self._done("NO [TRYCREATE] no such folder")
        if not (uids := folder.within(wanted)):
            return self._done("OK none of them is there")
        uids, done = self._limited(uids)
        new = self.server.move(folder, target, uids)
        sets = (",".join(map(str, numbers)) for numbers in (uids, new))
        copied = f"* OK [COPYUID {target.uidvalidity} {' '.join(sets)}] moved\r\n".encode()
        return copied + done

    def _uid_copy(self, rest: str) -> bytes:
        wanted, _, name = rest.partition(" ")
        folder, target = self._open(), self._named(name)
        if target is None:
            return self._done("NO [TRYCREATE] no such folder")
        uids = folder.within(wanted)
        target.append(*[folder.messages[uid].raw for uid in uids])
        sets = (",".join(map(str, numbers)) for numbers in (uids, target.uids[-len(uids) :]))
        return self._done(f"OK [COPYUID {target.uidvalidity} {' '.join(sets)}] done")

    def _append(self, rest: str) -> bytes:
        announced = re.search(r"\{(\d+)\}$", rest)
        assert announced, rest
        if self._named(rest) is None:
            return self._done("NO [TRYCREATE] no such folder")
        self._appending, self._literal = (rest, int(announced[1])), b""
        return b"+ go on\r\n"

    def _take_literal(self, line: bytes) -> bytes:
        """A line of the message; the last one ends the command."""
        assert self._appending is not None
        rest, size = self._appending
        if len(self._literal) < size:
            self._literal += line + b"\r\n"
            return b""
        folder = self._named(rest)
        assert folder is not None
        folder.append(self._literal[:size])
        self._appending = None
        return self._done(f"OK [APPENDUID {folder.uidvalidity} {folder.uids[-1]}] done")

    def _create(self, rest: str) -> bytes:
        self.server.add_folder(rest.strip('"'))
        return self._done("OK done")

    def _subscribe(self, _: str) -> bytes:
        return self._done("OK done")

    def _noop(self, _: str) -> bytes:
        return self._done("OK done")

    def _open(self) -> ScriptedFolder:
        assert self._folder is not None
        return self._folder
