"""Read from standard input by the Python of a release, on the host and in the confinement of its units.

Imports what they import and reads the settings from the environment as they do; where either fails, it ends with
status 1 and one line on standard error.
"""

import sys
import traceback


def prove():
    """Import the application and the operator's command line, and make the configuration."""
    from tasks.celery_app import celery_app

    celery_app.finalize()
    # For the broker's URL all settings are read. Nothing is connected.
    celery_app.connection_for_write().as_uri()
    import manage.cli  # noqa: F401


try:
    prove()
# Whatever a module raises while it is imported, SystemExit included.
except BaseException as error:
    frames = traceback.extract_tb(error.__traceback__)[2:]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    sys.exit(f"{type(error).__name__}: {error}{where}")
