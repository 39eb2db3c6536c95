"""What can go wrong with the native stack and is told in one line, without a traceback."""


class StackError(Exception):
    """A part of the native stack cannot do what was asked; the message says which, why, and what to do."""
