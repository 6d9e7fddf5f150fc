"""A zip archive, encrypted by its classic method (ZipCrypto) or not."""

import posixpath
import stat
import zipfile
import zlib
from pathlib import Path
from typing import IO

from transfer.datasets.source.bounds import Bounds
from transfer.datasets.source.names import folder_name
from transfer.datasets.source.password import password_file
from transfer.datasets.source.storage import Storage
from transfer.utils.errors import UserError

# Of the methods that Python knows, those that unpack in steps of bounded size; nothing else is in use for images.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED, _STRONGLY, _AES = 0x1, 0x40, 99


class Zip(Storage):
    """Members of a zip; what it declares to hold is bounded before anything is read."""

    def __init__(self, path: Path, file: IO[bytes], password: bytes | None, password_beside: Path) -> None:
        """``file`` is the open archive; the password lies beside ``password_beside``, the archive around this one."""
        super().__init__(path)
        self._password_file = password_file(password_beside)
        packed = file.seek(0, 2)
        with self.intact():
            self._zip = zipfile.ZipFile(file)
        if password is not None:
            self._zip.setpassword(password)
        bounds = Bounds(path, packed)
        files, links = [], []
        for info in self._zip.infolist():
            self._check_name(info.filename)
            self._check_method(info)
            bounds.add(info.file_size)
            if stat.S_ISLNK(info.external_attr >> 16):
                links.append(info)
            elif not info.is_dir():
                files.append(info.filename)
        self._check_password(password)
        targets = {link.filename: self._target(link) for link in links}
        self._register(files, targets)

    def _check_method(self, info: zipfile.ZipInfo) -> None:
        folder = folder_name(self.path)
        if info.compress_type == _AES or info.flag_bits & _STRONGLY:
            raise UserError(
                f"{self.path}: encrypted by AES, which Python cannot read; unpack it with 7-Zip and its password "
                f"into the folder {folder}/"
            )
        if info.compress_type not in _METHODS:
            raise UserError(
                f"{self.path}: {info.filename!r} is compressed by method {info.compress_type}, which is not read "
                f"here; unpack the archive into the folder {folder}/"
            )

    def _check_password(self, password: bytes | None) -> None:
        """Read the smallest encrypted member, so that a wrong password shows before time is spent."""
        encrypted = [info for info in self._zip.infolist() if info.flag_bits & _ENCRYPTED and info.file_size]
        if not encrypted:
            return
        if password is None:
            raise UserError(
                f"{self.path}: encrypted; write its password into {self._password_file}, or unpack it into the "
                f"folder {folder_name(self.path)}/"
            )
        smallest = min(encrypted, key=lambda info: info.file_size)
        try:
            # One wrong password of 256 passes the archive's own check, and shows in the content.
            self._zip.read(smallest)
        except (RuntimeError, zlib.error, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path}: the password in {self._password_file} is wrong ({error})") from error

    def _target(self, link: zipfile.ZipInfo) -> str:
        with self.intact():
            target = self._zip.read(link).decode("utf-8", "replace")
        return posixpath.join(posixpath.dirname(link.filename), target)

    def position(self, member: str) -> int:
        """Where the member lies."""
        return self._zip.getinfo(member).header_offset

    def size(self, member: str) -> int:
        """Bytes that the header declares."""
        return self._zip.getinfo(member).file_size

    def open(self, member: str) -> IO[bytes]:
        """The member as an open file; UserError if it has a password of its own."""
        try:
            return self._zip.open(member)
        except RuntimeError as error:
            raise UserError(f"{self.path}: {member!r} has another password than {self._password_file}") from error

    def close(self) -> None:
        """Close the archive; its file is closed by whoever opened it."""
        self._zip.close()
