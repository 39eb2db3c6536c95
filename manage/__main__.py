"""`python -m manage`, which ./manage.sh runs, and `metabuilder` on a host."""

import gc

if __name__ == "__main__":
    # A verb mostly imports, and what it imports stays: looking for garbage in all that takes a tenth of its time.
    gc.set_threshold(50_000)

    from manage.cli import main
    from manage.completion import VARIABLE
    from manage.place import COMMAND
    from tasks.secrecy.visible import log_visibly

    log_visibly()
    main(prog_name=COMMAND, complete_var=VARIABLE)
