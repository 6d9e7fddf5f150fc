"""The one exception that users see as a single line."""

import os
from collections.abc import Iterable

from transfer.utils.text import printable


class UserError(Exception):
    """Wrong input: "<what is wrong> (<where>); <do this>", in one line.

    The command line prints it on stderr and exits with ``exit_code``; a traceback appears only under ``--debug``.
    ``details``, such as a table, are printed on stdout before it. Control characters are escaped in both.
    """

    exit_code = 1

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(printable(message))
        self.details = printable(details)


def remake(path: str | os.PathLike[str]) -> str:
    """``run: ...``, the command that makes an output of the workflow."""
    return f"run: snakemake --cores all {path}"


def choices(name: str, known: Iterable[str]) -> str:
    """``allowed: ...`` for an unknown ``name``, and the nearest known one."""
    known = list(known)
    return f"allowed: {', '.join(known) or 'none'}{did_you_mean(name, known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` where a known name is nearly ``name``, else nothing."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""
