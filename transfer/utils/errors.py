"""The one exception that users see as a single line."""

from collections.abc import Iterable


class UserError(Exception):
    """What is wrong with the input, and what to do, in one line.

    The command line prints it on stderr and ends with ``exit_code``; a traceback appears only under ``--debug``.
    ``details`` may be longer, such as a table: they are printed on stdout before it.
    """

    exit_code = 1

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def choices(name: str, known: Iterable[str]) -> str:
    """``allowed: ...`` for an unknown ``name``, and the nearest known one."""
    known = list(known)
    return f"allowed: {', '.join(known) or 'none'}{did_you_mean(name, known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` where a known name is nearly ``name``, else nothing."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""
