import click


@click.command()
def sync() -> None:
    """."""
