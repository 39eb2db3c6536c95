"""`python -m manage`, which ./manage.sh runs."""

from manage.cli import main

if __name__ == "__main__":
    main(prog_name="./manage.sh")
