"""`send`: send a message from an account, through the worker."""

import click

from manage.examples import example
from manage.output import print_json, say, tell
from manage.place import COMMAND
from manage.session import account_argument, connect, tenant_option
from manage.stdin import read_text
from native.errors import StackError

_PATIENCE_SECONDS = 120


@example("send you@example.org --to bob@example.net --subject Hello --text 'Good morning'")
@click.command()
@account_argument
@click.option("--to", required=True, multiple=True, help="A recipient: a@b or 'Name <a@b>'. May be given again.")
@click.option("--cc", multiple=True, help="May be given again.")
@click.option("--bcc", multiple=True, help="May be given again.")
@click.option("--subject", default="")
@click.option("--text", help="What it says.  [default: standard input]")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@tenant_option
def send(
    account_name: str,
    to: tuple[str, ...],
    cc: tuple[str, ...],
    bcc: tuple[str, ...],
    subject: str,
    text: str | None,
    as_json: bool,
    tenant: str,
) -> None:
    """Send a message through the worker, and wait for the mail server's answer."""
    text = read_text() if text is None else text
    connect(broker=True)
    from celery.exceptions import TimeoutError as NotYetError

    from tasks.celery_app import send_email
    from tasks.errors import EmailError
    from tasks.storage.accounts.rows import find_account

    account = find_account(tenant, account_name)
    arguments = (account.id, tenant, account.user_id, list(to), list(cc), list(bcc))
    # Without a second try, because nobody would know whether Redis took the first.
    task = send_email.apply_async(arguments, {"subject": subject, "body_text": text}, retry=False)
    try:
        result = task.get(timeout=_PATIENCE_SECONDS, interval=0.1)
    except NotYetError:
        raise StackError(f"not sent yet; see: {COMMAND} outbox list (task {task.id})") from None
    except Exception as error:
        if isinstance(error, EmailError):
            raise
        raise StackError(f"not sent: {error}") from error
    if as_json:
        print_json({"task_id": task.id, **result})
        return
    tell(result["message_id"])
    say(f"Sent to {result['recipients_sent']}")
    for address, words in result["recipients_refused"].items():
        say(f"{address} was refused: {words}")
