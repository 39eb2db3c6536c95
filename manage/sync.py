"""`sync`: queue the sync of an account, and watch it."""

import click

from manage.examples import example
from manage.output import print_json, say, tell
from manage.place import COMMAND
from manage.session import account_argument, connect, tenant_option


@example("sync you@example.org --follow")
@click.command()
@account_argument
@click.option("--full", is_flag=True, help="Compare every message instead of only what has changed.")
@click.option("--follow", is_flag=True, help="Watch the sync until it is done.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@tenant_option
def sync(account_name: str, full: bool, follow: bool, as_json: bool, tenant: str) -> None:
    """Sync an account through the worker."""
    connect(broker=True)
    from manage.progress import queue_sync, report, watch
    from tasks.storage.accounts.rows import find_account

    account = find_account(tenant, account_name)
    task_id = queue_sync(account, full=full)
    if not follow:
        if as_json:
            print_json({"task_id": task_id, "status": "queued"})
        else:
            tell(task_id)
            say(f"Queued. To watch the sync: {COMMAND} sync {account_name} --follow")
        return
    result = watch(task_id, quiet=as_json)
    if as_json:
        print_json({"task_id": task_id, **result})
    else:
        report(account, result)
