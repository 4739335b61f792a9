"""The one exception that means "the input is wrong, not the program"."""


class BadInput(Exception):
    """What is wrong, where, and what to do, in one line; the command line exits with code 2."""
