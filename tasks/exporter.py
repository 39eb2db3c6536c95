"""`python -m tasks.exporter` serves the metrics of the site on PROMETHEUS_ADDRESS and PROMETHEUS_PORT."""

import logging

from tasks.celery_app import celery_app
from tasks.monitoring.exporter.server import serve
from tasks.runtime import log
from tasks.settings import get_settings


def main() -> None:
    """Serve until the process is told to stop."""
    settings = get_settings()
    logging.basicConfig(level=settings.log.level)
    log.set_up(logging.getLogger())
    monitoring = settings.monitoring
    serve(celery_app, monitoring.address, monitoring.port, monitoring.logins)


if __name__ == "__main__":
    main()
