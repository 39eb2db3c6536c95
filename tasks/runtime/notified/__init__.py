"""What beat does as soon as PostgreSQL notifies it: a thread of its own, beside the schedule.

Every beat does it, and none leads: what is there to do is claimed in PostgreSQL by whoever comes first.

listener.py    the thread: it waits for notifications, and looks without one now and then
HANDLERS       which channel wakes what: a row for each
"""

from tasks.runtime.notified.listener import Handler

HANDLERS: tuple[Handler, ...] = ()
