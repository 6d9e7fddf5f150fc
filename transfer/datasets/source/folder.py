"""A folder."""

import os
from pathlib import Path
from typing import IO

from transfer.datasets.source.storage import Storage


class Folder(Storage):
    """Regular files below a folder, and links to them that stay inside."""

    def __init__(self, path: Path) -> None:
        """``path`` may be a link itself."""
        super().__init__(path)
        self._top = str(path.resolve())
        files, links, folders = [], {}, [""]
        while folders:
            folder = folders.pop()
            with os.scandir(os.path.join(self._top, folder)) as entries:
                for entry in entries:
                    name = folder + entry.name
                    if entry.is_symlink():
                        links[name] = os.path.relpath(os.path.realpath(entry.path), self._top)
                    elif entry.is_dir():
                        folders.append(name + "/")
                    elif entry.is_file():
                        files.append(name)
        self._register(files, links)

    def position(self, member: str) -> str:
        """The name: a folder has no order of its own."""
        return member

    def size(self, member: str) -> int:
        """Bytes on disk."""
        return os.stat(os.path.join(self._top, member)).st_size

    def open(self, member: str) -> IO[bytes]:
        """The member as an open file."""
        return open(os.path.join(self._top, member), "rb")

    def close(self) -> None:
        """Do nothing: a folder is not held open."""
