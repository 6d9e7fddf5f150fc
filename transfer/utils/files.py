"""Files that are whole or absent: every output is written under a temporary name and renamed."""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from transfer.utils.errors import with_file

WRITTEN: set[Path] = set()
"""What this process has written, and not yet noted in a chain of digests."""


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` if the block succeeds, remove it if not.

    The temporary name keeps the suffix, which numpy and matplotlib look at. The data reach the disk before the rename,
    and the rename before this returns: a power cut leaves the old file or the new one. What a killed writer of the same
    file left half written is removed. Raises OSError that names ``path`` where it cannot be written.
    """
    path = Path(path)
    with _beside(path) as part:
        yield part
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        part.chmod(0o666 & ~_umask())  # some writers make files that only their owner reads
        os.replace(part, path)
        sync_folder(path.parent)
    WRITTEN.add(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path``, which takes its place if the block succeeds and is removed if not."""
    with _beside(path) as part:
        part.mkdir()
        yield part
        if path.exists():
            shutil.rmtree(path)
        os.replace(part, path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, of which nothing stays; errors name ``path`` in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.part{glob.escape(path.suffix)}"):
        if abandoned(left):
            remove(left)
    part = path.with_name(f".{path.stem}.{_machine()}-{os.getpid()}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield part
    except Exception as error:
        if isinstance(error, OSError) and str(error.filename or "").startswith(str(part)):
            error.filename, error.filename2 = str(error.filename).replace(str(part), str(path), 1), None
        if (named := with_file(error, path)) is not error:
            raise named from error
        raise
    finally:
        remove(part)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


_PART = re.compile(r"\..+\.(?:([0-9a-f]{8})-)?(\d+)\.[0-9a-f]{8}\.part(\.\w+)?")
_SILENT = 24 * 3600  # seconds after which a writer on another machine counts as gone


@cache
def _machine() -> str:
    """A name for where process ids mean the same: the host, and its container."""
    processes = os.path.basename(os.path.realpath("/proc/self/ns/pid"))
    return hashlib.sha256(f"{os.uname().nodename} {processes}".encode()).hexdigest()[:8]


def abandoned(part: Path) -> bool:
    """Whether ``part`` is an unfinished file of :func:`atomic` whose writer is gone.

    On another machine that is so once nothing was written for a day.
    """
    named = _PART.fullmatch(part.name)
    if not named or part.is_symlink():
        return False
    machine, process = named.group(1, 2)
    try:
        if machine == _machine():
            os.kill(int(process), 0)
        return time.time() - part.stat().st_mtime > _SILENT
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # another user's process, or a file that has just gone
        return False


def sync_folder(folder: Path) -> None:
    """Flush the names in ``folder`` to the disk; some network file systems cannot, and need not."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` (UTF-8) atomically."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
