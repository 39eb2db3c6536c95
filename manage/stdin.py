"""What a verb is given on standard input."""

import sys

import click


def read_text() -> str:
    """All of it. Raises UsageError where it is no text."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise click.UsageError("standard input is no text (UTF-8)") from None


def read_line() -> str:
    """Its next line, without the end of the line. Raises UsageError where it is no text."""
    try:
        return sys.stdin.readline().rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError("standard input is no text (UTF-8)") from None
