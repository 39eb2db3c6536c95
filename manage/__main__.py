"""`python -m manage`, which ./manage.sh runs, and `metabuilder` on a host."""

from manage.cli import main
from manage.output import take_over_logs
from manage.place import COMMAND

if __name__ == "__main__":
    take_over_logs()
    main(prog_name=COMMAND)
