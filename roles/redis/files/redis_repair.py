#!/usr/bin/python3
"""Mends the append-only file of a Redis instance after a power cut.

    metabuilder-redis-repair INSTANCE       by a person: what redis-check-aof --fix mends, damage in the middle too
    metabuilder-redis-repair --tail FOLDER  by redis-server@.service before each start, as the user of Redis

Made by the role `redis`: changes here are lost. A power cut can leave NUL bytes at the end of a file that was being
written (its length was on the disk, its content was not). No command of Redis ends in one, so --tail cuts them off
and keeps a copy. A command that is cut short it leaves to Redis (aof-load-truncated), damage elsewhere to a person.
"""

import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

DATA = Path("/var/lib/redis")
MANIFEST = "appendonly.aof.manifest"
_PART = re.compile(r"file (appendonly\.aof\.(\d+)\.(?:base\.(?:rdb|aof)|incr\.aof)) seq \2 type ([bhi])(?: .*)?")
_NAME = re.compile(r"appendonly\.aof\.(\d+)\.(base|incr)\.(?:rdb|aof)")
# What a rewrite that did not end leaves behind, which Redis never removes.
_UNFINISHED = ("temp-rewriteaof-*.aof", "temp-rewriteaof-bg-*.aof", "temp-*.rdb")
_BLOCK = 65536
# Levels of the journal (sd-daemon(3)).
_CRITICAL = "<2>"


def say(words):
    """To the journal, or to the person, at once."""
    sys.stderr.write(f"{words}\n")


def parts(folder):
    """The files that the manifest in `folder` names, in order; None where it is damaged or gone."""
    try:
        lines = (folder / MANIFEST).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    matches = [_PART.fullmatch(line) for line in lines]
    if not matches or not all(matches):
        return None
    named = [folder / match[1] for match in matches if match[3] != "h"]
    return named if named and all(path.is_file() for path in named) else None


def content_length(path):
    """The length of a file without the NUL bytes at its end."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            if content := file.read(end - start).rstrip(b"\0"):
                return start + len(content)
            end = start
    return 0


def mend_tail(home):
    """Cut NUL bytes off the end of the last file of the instance in `home`, and remove unfinished rewrites."""
    for pattern in _UNFINISHED:
        for path in home.glob(pattern):
            path.unlink()
    folder = home / "appendonlydir"
    named = parts(folder)
    if not (folder / MANIFEST).exists() and any(path.stat().st_size for path in folder.glob("*.incr.aof")):
        # Redis would begin anew beside them.
        sys.exit(
            f"{_CRITICAL}{folder / MANIFEST} is gone, and without it Redis would begin anew, empty. On a host, "
            f"metabuilder-redis-repair {home.name} makes it anew; elsewhere, move the folder away"
        )
    if not named or not named[-1].name.endswith(".incr.aof"):
        return
    last = named[-1]
    size, length = last.stat().st_size, content_length(last)
    if length == size:
        return
    copy = keep(home, last)
    with last.open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())
    say(
        f"{_CRITICAL}{last} ended in {size - length} NUL bytes, as after a power cut, with which Redis does not "
        f"start: it is cut off at byte {length}. As it was: {copy}. What was written in the last seconds before the "
        "power cut may be missing: tasks that were just queued or done."
    )


def keep(home, path):
    """A copy of a file or folder of an instance as it is now."""
    copy = home / f"damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}" / path.name
    copy.parent.mkdir(mode=0o750, exist_ok=True)
    try:
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, copy)
    except OSError:
        shutil.rmtree(copy.parent)  # the disk is full, and it is tried again every second
        raise
    return copy


def remake_manifest(folder):
    """The manifest anew from the names of the files, where those leave no doubt: one base and what came after it."""
    names = sorted(path.name for path in folder.iterdir())
    found = sorted((int(match[1]), match[2], match[0]) for match in map(_NAME.fullmatch, names) if match)
    bases = [part for part in found if part[1] == "base"]
    if len(bases) != 1 or len(bases) == len(found):
        sys.exit(f"{folder / MANIFEST} is damaged, and which files belong together cannot be told: {names}")
    lines = [f"file {name} seq {number} type b" for number, _, name in bases]
    lines += [f"file {name} seq {number} type i" for number, kind, name in found if kind == "incr"]
    (folder / MANIFEST).write_text("\n".join([*lines, ""]), encoding="ascii")
    say(f"{folder / MANIFEST} was damaged and is made anew: {', '.join(lines)}")


def mend(home):
    """All that can be mended without guessing, with a copy of what there was; the exit status of redis-check-aof."""
    folder = home / "appendonlydir"
    say(f"A copy of {folder} as it is: {keep(home, folder)}")
    if parts(folder) is None:
        remake_manifest(folder)
    mend_tail(home)
    return subprocess.run(["redis-check-aof", "--fix", str(folder / MANIFEST)], check=False).returncode


def main():
    """Take the part that the arguments ask for."""
    if len(sys.argv) == 3 and sys.argv[1] == "--tail":
        mend_tail(Path(sys.argv[2]))
        return
    if len(sys.argv) != 2 or not (DATA / sys.argv[1] / "appendonlydir").is_dir():
        instances = " ".join(sorted(path.parent.name for path in DATA.glob("*/appendonlydir")))
        sys.exit(f"usage: {Path(sys.argv[0]).name} INSTANCE; there are: {instances}")
    unit = f"redis-server@{sys.argv[1]}.service"
    subprocess.run(["systemctl", "stop", unit], check=True)
    user = pwd.getpwnam("redis")
    if not (child := os.fork()):
        # As the user of Redis, to whom the files belong.
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        sys.exit(mend(DATA / sys.argv[1]))
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit("It could not be mended. Nothing was started; the copy has all of it.")
    subprocess.run(["systemctl", "start", unit], check=True)


if __name__ == "__main__":
    main()
