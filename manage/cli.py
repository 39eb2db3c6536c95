"""The verbs of ./manage.sh.

With -i INVENTORY a verb is about the hosts of that site (manage/site.py).

Exit codes: 0 the verb worked, 1 it failed, 2 the command line is wrong. Expected errors are one line on stderr; a
traceback means a bug. Modules that are slow to import are imported only when their verb runs.
"""

import sys
from typing import Any

import click

from manage import (
    account,
    backup,
    beat,
    bench,
    checks,
    clean,
    completion,
    credentials,
    db,
    demo,
    dev,
    dlq,
    docs,
    event,
    health,
    info,
    lock,
    outbox,
    preflight,
    psql,
    queue,
    redis_cli,
    redis_site,
    release,
    reread,
    restore,
    secrets,
    send,
    stack,
    stats,
    sync,
    task,
    task_lists,
    top,
    units,
    webhook,
    worker,
)
from manage.advice import explained, said_here
from manage.examples import example
from manage.output import complain
from manage.place import IS_HOST
from manage.site import remember, site_options
from manage.trouble import redis_words
from tasks.secrecy.forms import Known
from tasks.secrecy.secrets import NOT_SHOWN, secrets_kept, tells_secret, without_secrets
from tasks.secrecy.visible import visible


class Manage(click.Group):
    """Lists the verbs in the order in which they were added, and turns expected errors into one line.

    `elsewhere` maps the verbs of the clone that hosts do not have to what an operator does there instead, `on_hosts`
    those that hosts have in their own way to that way. The verbs `of_the_control_machine` are about a site and run on
    the control machine.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.elsewhere: dict[str, str] = {}
        self.on_hosts: dict[str, click.Command] = {}
        self.of_the_control_machine: set[str] = set()

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse, for all verbs, what neither PostgreSQL nor Redis takes as text."""
        wrong = next((argument for argument in args if not _is_text(argument)), None)
        if wrong is not None and not ctx.resilient_parsing:
            raise click.UsageError(f"this argument is no text (UTF-8 without NUL): {visible(wrong)}", ctx)
        rest = super().parse_args(ctx, args)
        remember(ctx)
        return rest

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As Click's, which suggests verbs that are alike; says of a verb of another place where it is."""
        is_about_hosts = IS_HOST or bool(ctx.params.get("inventories"))
        if is_about_hosts and (instead := self.elsewhere.get(args[0])) and not ctx.resilient_parsing:
            how = f"./manage.sh {args[0]}" + ("" if IS_HOST else ", without -i")
            raise click.UsageError(f"{args[0]} works in a clone, on the native stack: {how}. {instead}", ctx)
        if IS_HOST and args[0] in self.of_the_control_machine and not ctx.resilient_parsing:
            how = f"./manage.sh -i inventories/NAME {args[0]}"
            raise click.UsageError(f"{args[0]} works in a clone, on the control machine: {how}", ctx)
        if is_about_hosts and (verb := self.on_hosts.get(args[0])):
            return args[0], verb, args[1:]
        name, command, rest = super().resolve_command(ctx, args)
        is_here = command in (info.help_, completion.completion) or name in self.of_the_control_machine
        if command is None or IS_HOST or not is_about_hosts or is_here:
            return name, command, rest
        from manage.passed_on import passed_on

        return name, passed_on(command), rest

    def invoke(self, ctx: click.Context) -> Any:
        with secrets_kept(Known()):
            try:
                return super().invoke(ctx)
            except click.ClickException as error:
                error.message = visible(error.message)  # type: ignore[misc]  # it is shown by Click itself
                raise
            except (click.exceptions.Exit, click.Abort):
                raise
            except Exception as error:
                without_secrets(error)
                if tells_secret(error):
                    complain(f"{type(error).__name__}: {NOT_SHOWN}")
                elif said := redis_words(error):
                    complain(said_here(said))
                elif _is_expected(error):
                    complain(explained(error, ctx.obj))
                elif isinstance(error, OSError) and error.filename is not None:
                    complain(f"{error.filename}: {error.strerror}")
                else:
                    raise
            sys.exit(1)


def _is_text(argument: str) -> bool:
    # Python passes on bytes that are no UTF-8 as lone surrogates (PEP 383).
    return "\0" not in argument and not any("\ud800" <= char <= "\udfff" for char in argument)


def _is_expected(error: Exception) -> bool:
    from native.errors import StackError
    from tasks.errors import EmailError

    return isinstance(error, StackError | EmailError)


@example("queue:status", "help queue:flush", *(() if IS_HOST else ("-i inventories/production queue:status",)))
@click.group(cls=Manage, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main(**_: Any) -> None:
    """MetaBuilder email workers: run, look at and test them."""


if not IS_HOST:  # hosts are no control machines
    site_options(main)


# Verbs that exist only in a clone, and what an operator uses on a host instead.
_UNITS = "On a host, units run the programs:"
_CONTROL_MACHINE = "Hosts are set up from the clone on the control machine"
_IN_A_CLONE = {
    demo.demo: "Hosts have no demo mailbox: metabuilder account add",
    info.setup: _CONTROL_MACHINE,
    checks.test: _CONTROL_MACHINE,
    bench.bench: _CONTROL_MACHINE,
    stack.rebuild: "A release is brought to hosts by playbooks/deploy.yml from the control machine",
    dev.flower_open: "Flower listens on its host alone: ssh -L 5556:127.0.0.1:5556 HOST, then http://127.0.0.1:5556",
    dev.shell: "Hosts run releases; tasks and accounts have their verbs: metabuilder help",
    dev.logs: "Hosts have logs -f",
    dev.test: _CONTROL_MACHINE,
    clean.logs: f"{_UNITS} journalctl --vacuum-time=7d",
    clean.everything: "On a host: metabuilder clean:redis, metabuilder clean:db, journalctl --vacuum-time=7d",
    lock.lock: _CONTROL_MACHINE,
    release.release: _CONTROL_MACHINE,
    secrets.secrets: _CONTROL_MACHINE,
    docs.docs: _CONTROL_MACHINE,
}
# Verbs that are about supervisor's programs in a clone, and about systemd's units on hosts.
_ITS_OWN_WAY = {
    stack.up: units.up,
    stack.down: units.down,
    stack.restart: units.restart,
    stack.ps: units.ps,
    stack.logs: units.logs,
    stack.health: health.health,
    stack.beat_restart: units.beat_restart,
    stack.worker_reload: units.worker_reload,
    stack.worker_drain: units.worker_drain,
}
_ON_THE_CONTROL_MACHINE = (
    preflight.preflight,
    backup.backup,
    redis_site.status,
    redis_site.switchover,
    db.status,
    db.switchover,
    db.rebuild,
)
_EVERYWHERE = (
    account.account,
    credentials.credentials,
    sync.sync,
    reread.reread,
    send.send,
    outbox.outbox,
    event.event,
    webhook.webhook,
    dlq.dlq,
    queue.status,
    queue.list_,
    queue.flush,
    queue.purge,
    task_lists.tasks_,
    task.status,
    task.run,
    task.revoke,
    task.retry,
    worker.ping,
    worker.info,
    worker.shutdown,
    stats.stats,
    top.top,
    clean.redis,
    clean.database,
    restore.settle,
    beat.status,
    redis_cli.redis_cli,
    psql.psql,
    info.version,
    completion.completion,
    info.help_,
)

_HERE = (*_ITS_OWN_WAY, *_IN_A_CLONE, *_ON_THE_CONTROL_MACHINE, *_EVERYWHERE)
for verb in (*_ITS_OWN_WAY.values(), *_EVERYWHERE) if IS_HOST else _HERE:
    main.add_command(verb)
main.elsewhere = {str(verb.name): instead for verb, instead in _IN_A_CLONE.items()}
main.of_the_control_machine = {str(verb.name) for verb in _ON_THE_CONTROL_MACHINE}
main.on_hosts = {str(verb.name): verb for verb in _ITS_OWN_WAY.values()}
