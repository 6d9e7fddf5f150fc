"""What users see of an error: a single line, for wrong input and for what the operating system refuses."""

import errno
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transfer.utils.text import printable

_LONG = re.compile(r"(\S{200})\S{200,}")


class UserError(Exception):
    """Wrong input: "<what is wrong> (<where>); <do this>", in one line, and of long words the start.

    The command line prints it on stderr and exits with ``exit_code``; a traceback appears only under ``--debug``.
    ``details``, such as a table, are printed on stdout before it. Control characters are escaped in both.
    """

    exit_code = 1

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(_LONG.sub(r"\1...", printable(message)))
        self.details = printable(details)


_REMEDIES = {
    errno.ENOSPC: "make room, then start again",
    errno.EDQUOT: "make room or ask for a larger quota, then start again",
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.EMFILE: "raise the limit (ulimit -n), or start fewer jobs",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a file is where a folder should be: move it",
    errno.EISDIR: "a folder is where a file should be: move it",
    errno.ELOOP: "repair the symbolic links",
    errno.EIO: "check the disk; the file may be damaged",
    errno.ESTALE: "the network file system has lost it: start again",
}


def message(error: Exception) -> str:
    """What is said of ``error``: a UserError's own text, else what the system refused, or that it was not expected."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; end other programs, or take a machine with more"
    if isinstance(error, OSError) and error.strerror:
        return _in_words(error)
    return f"{type(error).__name__}: {error} (unexpected; --debug shows the traceback)"


def _in_words(error: OSError) -> str:
    """``<file>: <what the system said>; <do this>``."""
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = " and ".join(os.fsdecode(name) for name in names)
    remedy = _REMEDIES.get(error.errno or 0, "--debug shows the traceback")
    return f"{where + ': ' if where else ''}{error.strerror}; {remedy}"


def with_file(error: Exception, path: Path) -> Exception:
    """``error`` as an OSError that names ``path``, where it comes from writing it; any other as it is.

    Writers of numpy, torch, pyarrow and sqlite report a full disk each in its own way.
    """
    if isinstance(error, OSError) and error.errno and error.errno != errno.ENOSPC:
        if error.filename is None:
            error.filename = str(path)
        return error
    folder = path if path.is_dir() else path.parent
    if "No space left" in str(error) or (not isinstance(error, UserError) and shutil.disk_usage(folder).free < 1 << 20):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return error


_LONGEST = 3000  # characters of a line; lists of allowed names may be long


def one_line(text: str) -> str:
    """``text`` in one line of bounded length, without what would move a terminal's cursor or change its colours."""
    return printable(" ".join(text.split())[:_LONGEST])


def shown(value: Any, most: int = 80) -> str:
    """``value`` as in Python, cut after ``most`` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print numbers of thousands of digits
        return "a number of too many digits"
    return text if len(text) <= most else f"{text[: most - 3]}..."


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
