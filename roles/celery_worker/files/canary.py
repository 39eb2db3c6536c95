"""Read from standard input by the Python of a release, with the environment of its workers: a canary for each worker.

The arguments are how many seconds a canary may take, how many if the worker is at work, and the names of the workers.
Ends with status 1 and, on standard output, the names of the workers whose canaries did not come back.
"""

import sys


def look(patience, patience_if_at_work, *nodes):
    """The names of the workers that do nothing."""
    from tasks.celery_app import celery_app
    from tasks.monitoring import canary

    if not hasattr(canary, "consumption_of_workers"):
        return []  # hosts went back to a release whose workers have no queues of their own
    found = canary.consumption_of_workers(celery_app, nodes, float(patience), float(patience_if_at_work))
    return [worker.name for worker in found if worker.seconds is None]


silent = look(*sys.argv[1:])
sys.stdout.writelines(f"{name}\n" for name in silent)
sys.exit(bool(silent))
