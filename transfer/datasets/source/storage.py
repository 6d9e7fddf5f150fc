"""What a folder, a zip and a tar have in common: members by name, read one at a time."""

import gzip
import posixpath
import re
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import IO

from transfer.utils.errors import UserError

_DAMAGE = (
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    NotImplementedError,
)


class Storage(ABC):
    """A folder or an archive; names are relative, with forward slashes."""

    def __init__(self, path: Path) -> None:
        """``path`` names the storage in messages."""
        self.path = path
        self.members: dict[str, str] = {}
        """The name of every regular file, sorted, and the member it is: another one where the name is a link."""

    @abstractmethod
    def position(self, member: str) -> int | str:
        """Sort key: where the member lies in the storage."""

    @abstractmethod
    def size(self, member: str) -> int:
        """Bytes of the member, as the storage declares them."""

    @abstractmethod
    def open(self, member: str) -> IO[bytes]:
        """The member as an open file."""

    @abstractmethod
    def close(self) -> None:
        """Close the archive; its file is closed by whoever opened it."""

    @contextmanager
    def intact(self) -> Iterator[None]:
        """Turn what the archive libraries raise on damaged data into one clear line."""
        try:
            yield
        except _DAMAGE as error:
            raise UserError(f"{self.path}: truncated or corrupt; download it again ({error})") from error

    def _check_name(self, name: str) -> None:
        """Refuse a member that would lie outside the folder if the archive were unpacked."""
        if name.startswith("/") or PureWindowsPath(name).drive or ".." in re.split(r"[\\/]", name):
            raise UserError(f"{self.path}: member {name!r} leaves the dataset's folder; refused")

    def _register(self, files: Collection[str], links: dict[str, str]) -> None:
        """List the files, and those links (name -> target relative to the top) that lead to one of the files."""
        targets = {posixpath.normpath(name): name for name in files}
        normal = {posixpath.normpath(name): posixpath.normpath(target) for name, target in links.items()}
        for name, target in normal.items():
            if target.startswith("/") or target.split("/")[0] == "..":
                raise UserError(f"{self.path}: link {name!r} leaves the dataset's folder; refused")
            for _ in normal:  # a chain of links is no longer than there are links, unless it is a loop
                if target not in normal:
                    break
                target = normal[target]
            if target in targets:
                targets[name] = targets[target]
        self.members = {name: targets[name] for name in sorted(targets) if not _is_macos(name)}


def _is_macos(name: str) -> bool:
    return "__MACOSX" in name.split("/") or posixpath.basename(name).startswith("._")
