"""`python -m tasks.watch` watches mailboxes until it is told to stop (SIGTERM, SIGINT)."""

import asyncio
import logging
import resource
import signal

from tasks.celery_app import celery_app
from tasks.runtime import log
from tasks.settings import get_settings
from tasks.storage.session import keep_connections
from tasks.watch.watcher import CONNECTIONS, Watcher


def main() -> None:
    """Watch until the process is told to stop."""
    settings = get_settings()
    logging.basicConfig(level=settings.log.level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request for a token
    log.set_up(logging.getLogger())
    celery_app.set_current()
    keep_connections(CONNECTIONS)
    # Each watched account is an open file. systemd sets the limit, and lets the process change none.
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_watch())


async def _watch() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await Watcher().run(stopped)


if __name__ == "__main__":
    main()
