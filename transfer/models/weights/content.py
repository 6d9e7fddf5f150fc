"""What a file really is, from its first bytes: a download that went wrong keeps the name of what it should be."""

from pathlib import Path

from transfer.utils.errors import UserError
from transfer.utils.filetype import GZIP, HEAD, HTML, ZIP, looks_like

MAX_BYTES = 2 << 30
"""Largest file, and largest sum of tensors, that is read: IR-50 with its last layers has 0.2 GB."""


def kind(path: Path) -> str:
    """The kind of a file in a few words. Raises UserError for one that is not there, or too large."""
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            start = handle.read(HEAD)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if size > MAX_BYTES:
        raise UserError(f"{path}: {size / 1e9:.1f} GB, larger than any weights that are read here; is it another file?")
    if not start:
        return "an empty file"
    if looks := looks_like(start):
        return looks
    if start[:1] == b"\x80" and 2 <= start[1] <= 5:
        return "a pickle"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        return "a safetensors file"
    return "a text" if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start) else "a file of an unknown kind"


def require(path: Path, expected: str, *allowed: str) -> str:
    """The kind of ``path``, which must be one of ``allowed``. Raises UserError."""
    found = kind(path)
    if found not in allowed:
        hint = {
            HTML: "; the page around a download was saved, so fetch the file itself",
            ZIP: "; unpack it if it holds the file",
            GZIP: "; unpack it if it holds the file",
        }.get(found, "")
        raise UserError(f"{path}: expected {expected}, found {found}{hint}")
    return found
