import click


@click.command()
def account() -> None:
    """."""
