"""`demo`: the main job in one command, with a mailbox that is made up."""

import click

from manage.output import say
from manage.session import USER


@click.command()
def demo() -> None:
    """Start everything, and watch a demo mailbox arrive in PostgreSQL."""
    from manage.progress import queue_sync, report, watch
    from native import TENANT
    from native import demo as mailbox
    from native.environment import make_secrets
    from native.stack import Stack
    from native.state import State

    state = State.default()
    if written := mailbox.make(state):
        say(f"Made a demo mailbox of {written} messages")
    started = Stack(state, say).up()
    if not started.changed:
        say("The native stack is already up")
    mailbox.register(TENANT, USER, make_secrets(state)["DEMO_PASSWORD"], started.ports["demo-imap"])
    from tasks.storage.accounts import find_account

    account = find_account(TENANT, mailbox.ACCOUNT)
    say("Syncing the demo mailbox through the broker and the worker")
    report(account, watch(queue_sync(account)))
    say("")
    say(f"Flower      http://127.0.0.1:{started.ports['flower']}  (user and password: FLOWER_BASIC_AUTH in")
    say(f"            {state.secrets})")
    say(f"Mailbox     imap://{mailbox.USER}@127.0.0.1:{started.ports['demo-imap']}  (password: DEMO_PASSWORD there)")
    say("Next        ./manage.sh demo again syncs what is new; ps, health, logs -f; down stops it")
