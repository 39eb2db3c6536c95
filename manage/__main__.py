"""`python -m manage`, which ./manage.sh runs, and `metabuilder` on a host."""

from manage.cli import main
from manage.place import COMMAND

if __name__ == "__main__":
    main(prog_name=COMMAND)
