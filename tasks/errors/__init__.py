"""One tree of errors: transient ones are retried, permanent ones are recorded and shown.

The docstring of a class is its message to a person; what the error happened to is given when it is raised. `code` is
stable and is what programs and the `last_error_code` column of an account hold. No message names a command: messages
are stored, and the operator's command differs from place to place. `remedy` says what a person can do, and whoever
shows an error names the command for it (`manage/advice.py`).

All classes are imported from here. Each module has those of one subject.
"""

from tasks.errors.base import *
from tasks.errors.logins import *
from tasks.errors.mailboxes import *
from tasks.errors.sending import *
from tasks.errors.servers import *
from tasks.errors.webhooks import *
from tasks.errors.work import *
