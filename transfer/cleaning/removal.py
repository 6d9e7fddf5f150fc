"""Removing files so that a kill in the middle leaves nothing half there."""

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MARK = ".removed."


@dataclass(frozen=True)
class Item:
    """A file or folder that may go, its bytes, and why; ``model`` is the id of the logged model that it is."""

    path: Path
    why: str
    size: int
    model: str | None = None


def item(path: Path, why: str, model: str | None = None) -> Item:
    """``path`` with its size."""
    return Item(path, why, size_of(path), model)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count nothing."""
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def remove(path: Path) -> None:
    """Remove a file or folder, which is there whole or not at all at every moment; and folders that are empty then."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        # Beside it, so that it is the same file system: a folder gets another name at once, and is emptied under that.
        aside = path if path.name.startswith(_MARK) else path.with_name(f"{_MARK}{uuid.uuid4().hex[:8]}.{path.name}")
        os.replace(path, aside)
        shutil.rmtree(aside)
    with suppress(OSError):  # until one is not empty
        for folder in path.parents:
            folder.rmdir()


def leftovers(folders: Iterable[Path]) -> Iterator[Item]:
    """What a removal that was killed has left below ``folders``."""
    for folder in folders:
        for path in sorted(folder.rglob(f"{_MARK}*")):
            if path.is_dir() and not any(part.startswith(_MARK) for part in path.parent.parts):
                yield item(path, "left by a removal that was cut off")
