"""Redis's ACL file while its passwords change."""

import re

_HASH = re.compile(r"#[0-9a-f]{64}")


def redis_keep_logins(wanted, present):
    """The ACL file `wanted`, by which everybody can log in as well who can by the ACL file `present`.

    A user of both gets the passwords of both; a user of `present` alone stays as it is. `present` may be empty.
    """
    before = _lines_by_user(present)
    kept = [_with_hashes(line, before.pop(user, "")) for user, line in _lines_by_user(wanted).items()]
    return "".join(f"{line}\n" for line in [*kept, *before.values()])


def _lines_by_user(text):
    """Each line of an ACL file (`user NAME RULE ...`) by its user."""
    return {line.split()[1]: line for line in text.splitlines() if line.startswith("user ")}


def _with_hashes(line, before):
    """`line` with the hashes of passwords that stand in `before`."""
    others = [each for each in _HASH.findall(before) if each not in line]
    return " ".join([*line.split(" ")[:4], *others, *line.split(" ")[4:]])


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self):
        """The filters by name."""
        return {"redis_keep_logins": redis_keep_logins}
