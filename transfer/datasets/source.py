"""Reading a dataset where it lies: in a folder, a zip or a tar, without unpacking it."""

import csv
import gzip
import io
import lzma
import os
import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from transfer.errors import UserError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_DAMAGE = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    NotImplementedError,
)


def locate(raw_dir: Path, archive: str) -> Path:
    """Path of ``archive`` under ``raw_dir``: the folder of that name, else the first of name + .zip/.tar/.tar.gz/.tgz.

    ``archive`` may carry its suffix already; then only that file will do. Raises UserError with the names looked for
    when there is none.
    """
    candidates = [archive] if archive.endswith(SUFFIXES) else [archive, *(archive + suffix for suffix in SUFFIXES)]
    for name in candidates:
        path = Path(raw_dir) / name
        if path.is_file() if name.endswith(SUFFIXES) else path.is_dir():
            return path
    shown = [name if name.endswith(SUFFIXES) else f"{name}/" for name in candidates]
    raise UserError(f"{archive}: not found in {raw_dir} (looked for {', '.join(shown)})")


def open_source(path: Path) -> "Source":
    """Open a folder, .zip, .tar, .tar.gz or .tgz for reading; use as a context manager.

    Raises UserError for an archive that is truncated, corrupt or encrypted, and for members that are absolute, contain
    ``..``, or are links that leave the dataset's folder.
    """
    path = Path(path)
    if path.is_dir():
        return _Folder(path)
    if path.name.endswith(".zip"):
        return _Zip(path)
    if path.name.endswith(SUFFIXES):
        return _Tar(path)
    raise UserError(f"{path}: neither a folder nor a {', '.join(SUFFIXES)} archive")


class Source(ABC):
    """The regular files of a dataset; names are relative, with forward slashes."""

    def __init__(self, path: Path) -> None:
        """``path`` is the folder or the archive; it names the source in messages."""
        self.path = path
        # What is listed under a name lies under another one if the name is a link.
        self._stored: dict[str, str] = {}

    def names(self) -> list[str]:
        """All file names, sorted; without the ``__MACOSX`` folder and ``._`` files that macOS adds to archives."""
        return list(self._stored)

    def __contains__(self, name: str) -> bool:
        """Whether the source holds the file ``name``."""
        return name in self._stored

    def find_all(self, suffix: str) -> list[str]:
        """Names that are ``suffix`` or end with ``/suffix``: many archives hold everything in one top folder."""
        return [name for name in self.names() if name == suffix or name.endswith("/" + suffix)]

    def find(self, suffix: str) -> str:
        """The one name that is ``suffix`` or ends with ``/suffix``; UserError if there is none or more than one."""
        found = self.find_all(suffix)
        if not found:
            raise UserError(f"{self.path}: holds no {suffix}; check that it is the right and complete archive")
        if len(found) > 1:
            raise UserError(
                f"{self.path}: holds {suffix} {len(found)} times ({', '.join(found[:3])}); keep one of them"
            )
        return found[0]

    def read(self, name: str) -> bytes:
        """The content of one file. For more than a few files use `stream`: a .tar.gz is read from its start."""
        return next(self.stream([name]))[1]

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (name, content) of the wanted files, in one pass, in the order in which they are stored.

        Raises UserError for a name that the source does not hold and for a damaged archive.
        """
        aliases = defaultdict(list)
        for name in dict.fromkeys(names):
            if name not in self._stored:
                raise UserError(f"{self.path}: holds no {name}; if the archive has changed, index it again")
            aliases[self._stored[name]].append(name)
        for stored in sorted(aliases, key=self._position):
            with self._intact():
                content = self._load(stored)
            for name in aliases[stored]:
                yield name, content

    def __enter__(self) -> "Source":
        """Return the open source."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the archive."""
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the archive."""

    @abstractmethod
    def _position(self, stored: str) -> int | str:
        """Sort key: where the file lies in the storage."""

    @abstractmethod
    def _load(self, stored: str) -> bytes:
        """The content of a stored file."""

    @contextmanager
    def _intact(self) -> Iterator[None]:
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
        self._stored = {name: targets[name] for name in sorted(targets) if not _is_macos(name)}


class _Folder(Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._top = path.resolve()  # the top folder itself may be a link
        files, links, folders = [], {}, [""]
        while folders:
            folder = folders.pop()
            with os.scandir(self._top / folder) as entries:
                for entry in entries:
                    name = folder + entry.name
                    if entry.is_symlink():
                        links[name] = os.path.relpath(os.path.realpath(entry.path), self._top)
                    elif entry.is_dir():
                        folders.append(name + "/")
                    elif entry.is_file():
                        files.append(name)
        self._register(files, links)

    def _position(self, stored: str) -> str:
        return stored

    def _load(self, stored: str) -> bytes:
        return (self._top / stored).read_bytes()

    def close(self) -> None:
        """Do nothing: a folder is not held open."""


class _Zip(Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self._intact():
            self._zip = zipfile.ZipFile(path)
        try:
            files, links = [], {}
            for info in self._zip.infolist():
                self._check_name(info.filename)
                if info.flag_bits & 0x1:
                    raise UserError(f"{path}: encrypted; unpack it with its password into the folder {path.stem}/")
                if info.compress_type not in _ZIP_METHODS:
                    raise UserError(
                        f"{path}: {info.filename!r} is compressed by method {info.compress_type}, which Python "
                        f"cannot read; unpack the archive into the folder {path.stem}/"
                    )
                if stat.S_ISLNK(info.external_attr >> 16):
                    with self._intact():
                        target = self._zip.read(info).decode("utf-8", "replace")
                    links[info.filename] = posixpath.join(posixpath.dirname(info.filename), target)
                elif not info.is_dir():
                    files.append(info.filename)
            self._register(files, links)
        except BaseException:
            self.close()
            raise

    def _position(self, stored: str) -> int:
        return self._zip.getinfo(stored).header_offset

    def _load(self, stored: str) -> bytes:
        return self._zip.read(stored)

    def close(self) -> None:
        self._zip.close()


class _Tar(Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self._intact():
            self._tar = tarfile.open(path, "r:" if path.name.endswith(".tar") else "r:gz")  # noqa: SIM115
        try:
            with self._intact():
                members = self._tar.getmembers()
                self._check_end()
            self._members = {}
            links = {}
            for member in members:
                self._check_name(member.name)
                if member.issym():
                    links[member.name] = posixpath.join(posixpath.dirname(member.name), member.linkname)
                elif member.islnk():
                    links[member.name] = member.linkname
                elif member.isreg():
                    self._members[member.name] = member
            self._register(self._members, links)
        except BaseException:
            self.close()
            raise

    def _check_end(self) -> None:
        """Refuse an archive cut between two members: tarfile takes that for its end.

        An archive ends with zero blocks, and reading to the end of the file lets gzip compare its checksum.
        """
        self._tar.fileobj.seek(self._tar.offset)
        if self._tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("no end-of-archive mark")
        while self._tar.fileobj.read(1 << 20):
            pass

    def _position(self, stored: str) -> int:
        return self._members[stored].offset_data

    def _load(self, stored: str) -> bytes:
        return self._tar.extractfile(self._members[stored]).read()

    def close(self) -> None:
        self._tar.close()


def _is_macos(name: str) -> bool:
    return "__MACOSX" in name.split("/") or posixpath.basename(name).startswith("._")


def text_lines(name: str, content: bytes) -> list[str]:
    """Lines of a text file (UTF-8, with or without a byte order mark); UserError with the file's name if it is not."""
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not a UTF-8 text file ({error})") from error


def csv_rows(name: str, content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield (1-based line number, stripped fields) of each non-empty row; UserError if it is not a csv file."""
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
    reader = csv.reader(text)
    try:
        for row in reader:
            if row:
                yield reader.line_num, [field.strip() for field in row]
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: not a csv file ({error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not a UTF-8 csv file ({error})") from error


def split_path(path: str) -> tuple[str, int | None]:
    """Split the path of an index into file name and row: "fer2013.csv#17" -> ("fer2013.csv", 17), else row None."""
    name, mark, row = path.rpartition("#")
    return (name, int(row)) if mark and name.endswith(".csv") else (path, None)
