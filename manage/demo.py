"""`demo`: the main job in one command, with an invented mailbox."""

import click

from manage.examples import example
from manage.output import say, table


@example("demo", "demo --with-inbox")
@click.command()
@click.option(
    "--with-inbox/--without-inbox",
    default=None,
    help="Also run the example application, a page that shows the mailbox and changes as mail arrives; or run it no "
    "more.",
)
def demo(with_inbox: bool | None) -> None:
    """Start everything, watch a demo mailbox arrive in PostgreSQL, and mail go round."""
    from manage.progress import queue_sync, report, watch
    from manage.roundtrip import go_round
    from native import TENANT, USER, inbox
    from native import demo as mailbox
    from native.environment import make_secrets
    from native.stack import Stack
    from native.state import State

    state = State.default()
    stack = Stack(state, say)
    stack.check()
    if written := mailbox.make(state):
        say(f"Made a demo mailbox of {written} messages")
    started = stack.up(with_inbox=with_inbox)
    if not started.changed:
        say("The native stack is already up")
    password, ports = make_secrets(state)["DEMO_PASSWORD"], started.ports
    mailbox.register(TENANT, USER, password, ports["demo-imap"], ports["demo-smtp"])
    from tasks.storage.accounts.rows import find_account

    account = find_account(TENANT, mailbox.ACCOUNT)
    say("Syncing the demo mailbox through the broker and the worker")
    report(account, watch(queue_sync(account)))
    say("Going round: sending, receiving, checking and deleting mail, each by its task")
    steps = go_round(account)
    table(("step", "task", "result", "seconds"), [step.as_row() for step in steps], right=("seconds",))
    say("")
    say(f"Flower      http://127.0.0.1:{started.ports['flower']}  (user and password: FLOWER_BASIC_AUTH in")
    say(f"            {state.secrets})")
    if inbox.NAME in stack.supervisor.status():
        say(f"Inbox       http://127.0.0.1:{started.ports[inbox.NAME]}  (any user; password: {inbox.PASSWORD} there)")
    say(f"Mailbox     imap://{mailbox.USER}@127.0.0.1:{started.ports['demo-imap']}  (password: DEMO_PASSWORD there)")
    say("Next        ./manage.sh demo again syncs new mail; ps, health, logs -f; down stops everything")
