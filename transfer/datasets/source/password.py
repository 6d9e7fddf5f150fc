"""The password of an archive lies in a small text file beside it: parameters are written into results."""

from pathlib import Path

from transfer.utils.errors import UserError


def password_file(path: Path) -> Path:
    """The text file that holds the password of the archive or folder ``path``: its name + ``.password``."""
    return path.with_name(f"{path.name}.password")


def read_password(path: Path) -> bytes | None:
    """The password of the archive or folder ``path``, None if there is no such file; UserError unless it is one line.

    The password is what stands before the end of the line, blanks included.
    """
    file = password_file(path)
    try:
        lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except FileNotFoundError:
        return None
    if len(lines) != 1 or not lines[0]:
        raise UserError(f"{file}: expected one line, the password of {path.name}")
    return lines[0]
