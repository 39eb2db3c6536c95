"""`python -m manage`, which ./manage.sh runs, and `metabuilder` on a host."""

from manage.cli import main
from manage.completion import VARIABLE
from manage.place import COMMAND
from tasks.secrecy.visible import log_visibly

if __name__ == "__main__":
    log_visibly()
    main(prog_name=COMMAND, complete_var=VARIABLE)
