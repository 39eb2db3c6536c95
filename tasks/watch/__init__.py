"""The watcher: a process with a connection for each of many mailboxes, over which their servers tell of changes.

watcher.py    which accounts this process watches: claims its share, begins and ends watching
mailbox.py    one account: connects, is told, connects again
syncs.py      queues the syncs of what changed, one at a time for an account
threads.py    what blocks: logins and statements
pace.py       how soon after a login the next one at the same mail server may be
__main__.py   the program, `python -m tasks.watch`

A watcher stores no mail. Logins and statements block, and run in a few threads; all connections wait in one event
loop (docs/decisions/0041).
"""
