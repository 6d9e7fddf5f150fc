"""Read a dataset where it lies, without unpacking: a folder, a zip or a tar, and archives inside these.

A further format is one subclass of `Storage`, a suffix in `_KINDS`, and a line in `_open`.
"""

import gzip
import os
import posixpath
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from pathlib import Path, PureWindowsPath
from typing import IO, Any

from transfer.utils.errors import UserError
from transfer.utils.filetype import GZIP, HEAD, HTML, TAR, ZIP, looks_like

_KINDS = {".zip": ZIP, ".tar": TAR, ".tar.gz": GZIP, ".tgz": GZIP}
SUFFIXES = tuple(_KINDS)
MAX_RATIO = 100
"""Unpacked to packed bytes. Images do not shrink, csv files shrink to a third, bombs a thousandfold and more."""
FREE = 64 << 20
"""Unpacked bytes that are always accepted: the ratio of a small text says nothing."""
MAX_FILE = 4 << 30
"""Bytes of one file that is read into memory; fer2013.csv has 0.3 GB."""
_STEP = 1 << 20
_MAX_LINKS = 40  # as Linux follows
_ENCRYPTED, _STRONGLY, _AES = 0x1, 0x40, 99
_DAMAGE = (EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, NotImplementedError)


class Storage:
    """A folder or an archive: ``members`` by name (relative, forward slashes, sorted), read one at a time."""

    place: Callable[[Any], int | str]
    """Sort key of a member: where it lies."""
    size: Callable[[Any], int]
    """Bytes of a member, as declared."""
    open: Callable[[Any], IO[bytes]]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, Any] = {}

    @contextmanager
    def intact(self) -> Iterator[None]:
        """Turn what the archive libraries raise on damaged data into one clear line."""
        try:
            yield
        except _DAMAGE as error:
            raise UserError(f"{self.path}: truncated or corrupt; download it again ({error})") from error

    def _accept(self, name: str, packed: int, unpacked: int) -> None:
        """Refuse a member that would be unpacked outside the folder, and an archive of implausibly many bytes."""
        if name.startswith("/") or PureWindowsPath(name).drive or ".." in re.split(r"[\\/]", name):
            raise UserError(f"{self.path}: member {name!r} leaves the dataset's folder; refused")
        if unpacked > MAX_RATIO * packed + FREE:
            raise UserError(
                f"{self.path}: {packed:,} bytes unpack to {unpacked:,} or more, over {MAX_RATIO} times as many; "
                "refused as a zip bomb"
            )

    def _list(self, files: Mapping[str, Any], links: Mapping[str, str]) -> None:
        """Set ``members``: the files, and those links (name -> target from the top) that lead to one of them."""
        found = {posixpath.normpath(name): member for name, member in files.items()}
        targets = {posixpath.normpath(name): posixpath.normpath(target) for name, target in links.items()}
        for name, target in targets.items():
            if target.startswith("/") or target.split("/")[0] == "..":
                raise UserError(f"{self.path}: link {name!r} leaves the dataset's folder; refused")
            for _ in range(_MAX_LINKS):
                target = targets.get(target, target)
            if target in found:
                found[name] = found[target]
        self.members = {
            name: found[name]
            for name in sorted(found)
            if "__MACOSX" not in name.split("/") and not posixpath.basename(name).startswith("._")
        }


class _Folder(Storage):
    """Regular files below a folder, and links to them that stay inside; a member is its name."""

    place = staticmethod(str)

    def __init__(self, path: Path) -> None:
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
        self._list(dict(zip(files, files, strict=True)), links)

    def size(self, member: str) -> int:
        return os.stat(os.path.join(self._top, member)).st_size

    def open(self, member: str) -> IO[bytes]:
        return open(os.path.join(self._top, member), "rb")


class _Zip(Storage):
    """A zip, encrypted by its classic method (ZipCrypto) or not; its directory is checked before anything is read."""

    place, size = attrgetter("header_offset"), attrgetter("file_size")

    def __init__(self, path: Path, file: IO[bytes], password_file: Path) -> None:
        super().__init__(path)
        self._password_file, password = password_file, _read_password(password_file)
        packed, unpacked = file.seek(0, 2), 0
        with self.intact():
            self._zip = zipfile.ZipFile(file)
        self._zip.setpassword(password)
        files, links, encrypted = {}, [], []
        for info in self._zip.infolist():
            unpacked += info.file_size
            self._accept(info.filename, packed, unpacked)
            self._check_method(info)
            if stat.S_ISLNK(info.external_attr >> 16):
                links.append(info)
            elif not info.is_dir():
                files[info.filename] = info
            if info.flag_bits & _ENCRYPTED and info.file_size:
                encrypted.append(info)
        if encrypted:
            self._check_password(password, min(encrypted, key=lambda info: info.file_size))
        with self.intact():
            texts = {link.filename: self._zip.read(link).decode("utf-8", "replace") for link in links}
        self._list(files, {name: posixpath.join(posixpath.dirname(name), text) for name, text in texts.items()})

    def _check_method(self, info: zipfile.ZipInfo) -> None:
        folder = folder_name(self.path)
        if info.compress_type == _AES or info.flag_bits & _STRONGLY:
            raise UserError(
                f"{self.path}: encrypted by AES, which Python cannot read; unpack it with 7-Zip and its password "
                f"into the folder {folder}/"
            )
        # The two methods that unpack in steps of bounded size.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{self.path}: {info.filename!r} is compressed by method {info.compress_type}, which is not supported; "
                f"unpack the archive into the folder {folder}/"
            )

    def _check_password(self, password: bytes | None, smallest: zipfile.ZipInfo) -> None:
        """Read a small member whole: one wrong password of 256 passes the format's own check."""
        if password is None:
            raise UserError(
                f"{self.path}: encrypted; write its password into {self._password_file}, or unpack it into the "
                f"folder {folder_name(self.path)}/"
            )
        try:
            self._zip.read(smallest)
        except (RuntimeError, zlib.error, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path}: wrong password ({self._password_file}): {error}") from error

    def open(self, member: zipfile.ZipInfo) -> IO[bytes]:
        try:
            return self._zip.open(member)
        except RuntimeError as error:
            raise UserError(
                f"{self.path}: {member.filename!r} has another password than {self._password_file}"
            ) from error


class _Tar(Storage):
    """A tar, gzipped or not; the headers lie between the contents, so the checks are made on the way through it."""

    place, size = attrgetter("offset_data"), attrgetter("size")

    def __init__(self, path: Path, file: IO[bytes], gzipped: bool) -> None:
        super().__init__(path)
        packed, unpacked = file.seek(0, 2), 0
        file.seek(0)
        reader = _SmallReads(gzip.GzipFile(fileobj=file) if gzipped else file)
        files, links = {}, {}
        with self.intact():
            self._tar = tarfile.open(fileobj=reader, mode="r:")  # noqa: SIM115
            while (member := self._tar.next()) is not None:
                # Before its content is skipped, which for a .tar.gz means to unpack it.
                unpacked += member.size
                self._accept(member.name, packed, max(unpacked, member.offset_data))
                if member.issym():
                    links[member.name] = posixpath.join(posixpath.dirname(member.name), member.linkname)
                elif member.islnk():
                    links[member.name] = member.linkname
                elif member.isreg():
                    files[member.name] = member
            # tarfile takes a cut between two members for the end: that is marked by a block of zeros. Reading on to
            # the end of the file lets gzip compare its checksum.
            reader.seek(self._tar.offset)
            if reader.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("no end-of-archive mark")
            while reader.read(_STEP):
                self._accept("", packed, reader.tell())
        reader.bounded = False
        self._list(files, links)

    def open(self, member: tarfile.TarInfo) -> IO[bytes]:
        return self._tar.extractfile(member)


class _SmallReads:
    """A file whose reads are small while headers are listed: a header may announce a name of any length."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.bounded = file, True
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if self.bounded and size > _STEP:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


class Source:
    """The regular files of a dataset, as `open_source` opens them; a context manager."""

    def __init__(self, path: Path, parts: Sequence[tuple[Storage, Mapping[str, Any]]], opened: ExitStack) -> None:
        """``parts`` are storages with what is read from them, name -> member; the first that has a name counts."""
        self.path = path
        self._parts = [storage for storage, _ in parts]
        self._opened = opened
        found: dict[str, tuple[int, Any]] = {}
        for number, (_, members) in reversed(list(enumerate(parts))):
            found |= {name: (number, member) for name, member in members.items()}
        self._found = dict(sorted(found.items()))

    def names(self) -> list[str]:
        """All file names, sorted; without the ``__MACOSX`` folder and ``._`` files that macOS adds to archives."""
        return list(self._found)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def find_all(self, suffix: str) -> list[str]:
        """Names that are ``suffix`` or end with ``/suffix``: many archives hold everything in one top folder."""
        return [name for name in self._found if name == suffix or name.endswith("/" + suffix)]

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
        aliases: dict[tuple[int, Any], list[str]] = defaultdict(list)
        for name in dict.fromkeys(names):
            if name not in self._found:
                raise UserError(f"{self.path}: holds no {name}; if the archive has changed, index it again")
            aliases[self._found[name]].append(name)
        for number, member in sorted(aliases, key=lambda at: (at[0], self._parts[at[0]].place(at[1]))):
            storage, same = self._parts[number], aliases[number, member]
            with storage.intact():
                size = storage.size(member)
                if size > MAX_FILE:
                    raise UserError(
                        f"{storage.path}: {same[0]!r} has {size:,} bytes; the limit is {MAX_FILE >> 30} GiB"
                    )
                # Asked for no more than was declared, a member that yields more fails its checksum.
                with storage.open(member) as file:
                    content = file.read(size)
            for name in same:
                yield name, content

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()


def open_source(path: Path) -> Source:
    """Open a folder, .zip, .tar, .tar.gz or .tgz for reading; use as a context manager.

    Archives inside it are read as if they had been unpacked where they lie, into a folder of their name; one level, and
    not those that have been unpacked there already. RAF-DB, for one, comes with Image/original.zip. Raises UserError
    for an archive that is truncated, corrupt, of another kind than its name says, encrypted without the right password
    in ``<path>.password``, or implausibly large once unpacked, and for members that are absolute, contain ``..``, or
    are links that leave the dataset's folder.
    """
    path = Path(path)
    password_file = path.with_name(f"{path.name}.password")
    with ExitStack() as stack:
        if path.is_dir():
            outer: Storage = _Folder(path)
        elif path.name.endswith(SUFFIXES):
            outer = _open(path, stack.enter_context(open(path, "rb")), password_file)
        else:
            raise UserError(f"{path}: neither a folder nor a {', '.join(SUFFIXES)} archive")
        parts = [(outer, outer.members)]
        names = list(outer.members)
        for name in (name for name in names if name.endswith(SUFFIXES)):
            folder = posixpath.join(posixpath.dirname(name), folder_name(Path(name)), "")
            after = bisect_left(names, folder)
            if "".join(names[after : after + 1]).startswith(folder):
                continue  # unpacked already
            inner = _open(path / name, stack.enter_context(_inner_file(outer, name)), password_file)
            # Some archives hold the folder itself, others only what is in it.
            top = posixpath.basename(folder[:-1]) + "/"
            parts.append((inner, {folder + key.removeprefix(top): member for key, member in inner.members.items()}))
        return Source(path, parts, stack.pop_all())


def _open(path: Path, file: IO[bytes], password_file: Path) -> Storage:
    suffix = next(suffix for suffix in SUFFIXES if path.name.endswith(suffix))
    kind, folder = looks_like(file.read(HEAD)), folder_name(path)
    if kind not in (None, _KINDS[suffix]):
        remedy = "download it again"
        if kind in _KINDS.values():
            remedy = f"rename it to {folder}{next(suffix for suffix, named in _KINDS.items() if named == kind)}"
        elif kind == HTML:
            remedy = "the download returned a login or error page: download it again"
        elif kind.endswith((" archive", " file")):
            remedy = f"unpack it into the folder {folder}/"
        raise UserError(f"{path}: is {kind}, not {_KINDS[suffix]}; {remedy}")
    return _Zip(path, file, password_file) if suffix == ".zip" else _Tar(path, file, gzipped=suffix != ".tar")


def _inner_file(outer: Storage, name: str) -> IO[bytes]:
    """The archive ``name`` as a seekable file: itself in a folder, else a temporary copy."""
    member = outer.members[name]
    if isinstance(outer, _Folder):
        return outer.open(member)
    folder = tempfile.gettempdir()
    size, free = outer.size(member), shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{outer.path}: {name!r} has {size:,} bytes, and {folder} has {free:,} free for a copy of it; "
            f"unpack {outer.path.name} into the folder {folder_name(outer.path)}/"
        )
    with ExitStack() as stack:
        copy = stack.enter_context(tempfile.TemporaryFile())
        with outer.intact(), outer.open(member) as file:
            shutil.copyfileobj(file, copy, _STEP)
        copy.seek(0)
        stack.pop_all()
        return copy


def _read_password(file: Path) -> bytes | None:
    """The line in ``file``, None without such a file. Not a parameter: parameters are written into results."""
    try:
        lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except FileNotFoundError:
        return None
    if len(lines) != 1 or not lines[0]:
        raise UserError(f"{file}: expected one line, the password of {file.name.removesuffix('.password')}")
    return lines[0]


def locate(raw_dir: Path, archive: str) -> Path:
    """The folder ``archive`` in ``raw_dir``, else the first of its name + suffix that is there.

    ``archive`` may carry its suffix already; then only that file will do. Raises UserError with the names tried.
    """
    found = find(raw_dir, archive)
    if found is None:
        shown = [name if name.endswith(SUFFIXES) else f"{name}/" for name in spellings(archive)]
        raise UserError(f"{archive}: not found in {raw_dir} (looked for {', '.join(shown)})")
    return found


def find(raw_dir: Path, archive: str) -> Path | None:
    """As `locate`; None where there is none."""
    paths = (Path(raw_dir) / name for name in spellings(archive))
    return next((path for path in paths if (path.is_file() if path.name.endswith(SUFFIXES) else path.is_dir())), None)


def spellings(archive: str) -> list[str]:
    """The names that ``archive`` may have: its own, and unless it carries a suffix, with each suffix."""
    return [archive] if archive.endswith(SUFFIXES) else [archive, *(archive + suffix for suffix in SUFFIXES)]


def folder_name(path: Path) -> str:
    """Name of the folder that an archive is unpacked into: its name without the suffix."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix)
