"""Where the command line runs: in a clone, as ./manage.sh beside the native stack, or on a host, as `metabuilder`.

On a host the environment comes from the units.
"""

import os

COMMAND = os.environ.get("METABUILDER_COMMAND") or "./manage.sh"
IS_HOST = COMMAND != "./manage.sh"
LOOK_AT_HEALTH = f"Run {COMMAND} health"
