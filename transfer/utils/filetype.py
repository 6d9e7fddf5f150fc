"""File types by the first bytes of the content."""

HEAD = 512
"""Bytes that `looks_like` needs."""

HTML = "an HTML page"
ZIP = "a zip archive"
GZIP = "a gzip file"
TAR = "a tar archive"
BZIP2 = "a bzip2 file"
XZ = "an xz file"
SEVEN_ZIP = "a 7-Zip archive"

_MAGIC = (
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
    (b"\x1f\x8b", GZIP),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", SEVEN_ZIP),
    (b"BZh", BZIP2),
    (b"\xfd7zXZ\x00", XZ),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF-", "a PDF document"),
    (b"\x93NUMPY", "a numpy array"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)
_HTML = (b"<!doctype html", b"<html", b"<head", b"<?xml")


def looks_like(head: bytes) -> str | None:
    """The type of a file that begins with ``head`` (`HEAD` bytes, or the whole of a smaller file), or None."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar":
        return TAR
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_HTML):
        return HTML
    return None
