"""Read a dataset where it lies, without unpacking: a folder, a zip or a tar, and archives inside these.

A further format is one function that returns a `Storage`, a suffix in `_KINDS`, and a line in `_open`.
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
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path, PureWindowsPath
from typing import IO, Any

from transfer.utils.errors import UserError
from transfer.utils.filetype import GZIP, HEAD, HTML, TAR, ZIP, looks_like

_KINDS = {".zip": ZIP, ".tar": TAR, ".tar.gz": GZIP, ".tgz": GZIP}
SUFFIXES = tuple(_KINDS)
MAX_RATIO = 100
"""Unpacked to packed bytes. Images do not shrink, csv files shrink to a third, bombs a thousandfold and more."""
FREE = 64 << 20  # unpacked bytes that are always accepted: the ratio of a small text says nothing
MAX_FILE = 4 << 30  # bytes of one file that is read into memory; fer2013.csv has 0.3 GB
_STEP = 1 << 20
_MAX_LINKS = 40  # as Linux follows
_ENCRYPTED, _STRONGLY, _AES = 0x1, 0x40, 99
# zipfile raises RuntimeError for a member with another password than the first.
_DAMAGE = (EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, RuntimeError)


@dataclass(frozen=True)
class Storage:
    """A folder or an archive, read one member at a time."""

    path: Path
    members: dict[str, Any]  # by name: relative, with forward slashes, sorted
    place: Callable[[Any], int | str]  # sort key of a member: where it lies
    size: Callable[[Any], int]  # bytes of a member, as declared
    open: Callable[[Any], IO[bytes]]


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Turn what the archive libraries raise on damaged data into one clear line."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(f"{path}: truncated or corrupt; download it again ({error})") from error


def _accept(path: Path, name: str, packed: int, unpacked: int) -> None:
    """Refuse a member that would be unpacked outside the folder, and an archive of implausibly many bytes."""
    if name.startswith("/") or PureWindowsPath(name).drive or ".." in re.split(r"[\\/]", name):
        raise UserError(f"{path}: member {name!r} leaves the dataset's folder; refused")
    if unpacked > MAX_RATIO * packed + FREE:
        more = f"{packed:,} bytes unpack to {unpacked:,} or more, over {MAX_RATIO} times as many"
        raise UserError(f"{path}: {more}; refused as a zip bomb")


def _members(path: Path, files: Mapping[str, Any], links: Mapping[str, str]) -> dict[str, Any]:
    """The files by name, and those links (name -> target from the top) that lead to one of them."""
    found = {posixpath.normpath(name): member for name, member in files.items()}
    targets = {posixpath.normpath(name): posixpath.normpath(target) for name, target in links.items()}
    for name, target in targets.items():
        if target.startswith("/") or target.split("/")[0] == "..":
            raise UserError(f"{path}: link {name!r} leaves the dataset's folder; refused")
        for _ in range(_MAX_LINKS):
            target = targets.get(target, target)
        if target in found:
            found[name] = found[target]
    macos = re.compile(r"(.*/)?(__MACOSX/.*|\._[^/]*)")
    return {name: found[name] for name in sorted(found) if not macos.fullmatch(name)}


def _folder(path: Path) -> Storage:
    top = str(path.resolve())
    files, links, folders = {}, {}, [""]
    while folders:
        folder = folders.pop()
        with os.scandir(os.path.join(top, folder)) as entries:
            for entry in entries:
                name = folder + entry.name
                if entry.is_symlink():
                    links[name] = os.path.relpath(os.path.realpath(entry.path), top)
                elif entry.is_dir():
                    folders.append(name + "/")
                elif entry.is_file():
                    files[name] = entry.path
    return Storage(path, _members(path, files, links), str, os.path.getsize, lambda file: open(file, "rb"))


def _zip(path: Path, file: IO[bytes], password_file: Path) -> Storage:
    """A zip, encrypted by its classic method (ZipCrypto) or not; its directory is checked before anything is read."""
    password, packed, unpacked = _read_password(password_file), file.seek(0, 2), 0
    with _intact(path):
        archive = zipfile.ZipFile(file)
    archive.setpassword(password)  # type: ignore[arg-type]
    files, links, encrypted = {}, {}, []
    for info in archive.infolist():
        unpacked += info.file_size
        _accept(path, info.filename, packed, unpacked)
        aes = info.compress_type == _AES or info.flag_bits & _STRONGLY
        if aes or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without bound
            what = "encrypted by AES" if aes else f"{info.filename!r} is compressed by method {info.compress_type}"
            remedy = f"unpack it with 7-Zip into the folder {folder_name(path)}/"
            raise UserError(f"{path}: {what}, which is not supported; {remedy}")
        if stat.S_ISLNK(info.external_attr >> 16):
            links[info.filename] = info
        elif not info.is_dir():
            files[info.filename] = info
        if info.flag_bits & _ENCRYPTED and info.file_size:
            encrypted.append(info)
    if encrypted and password is None:
        remedy = f"write its password into {password_file}, or unpack it into the folder {folder_name(path)}/"
        raise UserError(f"{path}: encrypted; {remedy}")
    try:  # a small member is read whole: one wrong password of 256 passes the format's own check
        for smallest in sorted(encrypted, key=attrgetter("file_size"))[:1]:
            archive.read(smallest)
    except (RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: wrong password ({password_file}): {error}") from error
    with _intact(path):
        targets = {name: _beside(name, archive.read(link).decode("utf-8", "replace")) for name, link in links.items()}
    members = _members(path, files, targets)
    return Storage(path, members, attrgetter("header_offset"), attrgetter("file_size"), archive.open)


def _tar(path: Path, file: IO[bytes], gzipped: bool) -> Storage:
    """A tar, gzipped or not; the headers lie between the contents, so the checks are made on the way through it."""
    packed, unpacked = file.seek(0, 2), 0
    file.seek(0)
    reader = _SmallReads(gzip.GzipFile(fileobj=file) if gzipped else file)
    files, links = {}, {}
    with _intact(path):
        archive = tarfile.TarFile(fileobj=reader)  # type: ignore[arg-type]
        while (member := archive.next()) is not None:
            # Before its content is skipped, which for a .tar.gz means to unpack it.
            unpacked += member.size
            _accept(path, member.name, packed, max(unpacked, member.offset_data))
            if member.issym() or member.islnk():
                links[member.name] = _beside(member.name, member.linkname) if member.issym() else member.linkname
            elif member.isreg():
                files[member.name] = member
        # tarfile takes a cut between two members for the end: that is marked by a block of zeros. Reading on to
        # the end of the file lets gzip compare its checksum.
        reader.seek(archive.offset)
        if reader.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("no end-of-archive mark")
        while reader.read(_STEP):
            _accept(path, "", packed, reader.tell())
    reader.bounded = False
    members = _members(path, files, links)
    return Storage(path, members, attrgetter("offset_data"), attrgetter("size"), archive.extractfile)  # type: ignore


def _beside(link: str, target: str) -> str:
    return posixpath.join(posixpath.dirname(link), target)


class _SmallReads:
    """A file whose reads are small while headers are listed: a header may announce a name of any length."""

    def __init__(self, file: Any) -> None:
        self._file, self.bounded = file, True
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if self.bounded and size > _STEP:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


class Source:
    """The regular files of a dataset, as `open_source` opens them; a context manager.

    The ``__MACOSX`` folder and ``._`` files that macOS adds to archives are left out.
    """

    def __init__(self, path: Path, parts: Sequence[tuple[Storage, Mapping[str, Any]]], opened: ExitStack) -> None:
        """``parts`` are storages with what is read from them, name -> member; the first that has a name counts."""
        self.path, self._opened = path, opened
        self._parts = [storage for storage, _ in parts]
        found: dict[str, tuple[int, Any]] = {}
        for number, (_, members) in reversed(list(enumerate(parts))):
            found |= {name: (number, member) for name, member in members.items()}
        self._found = dict(sorted(found.items()))

    def names(self) -> list[str]:
        """All file names, sorted."""
        return list(self._found)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def find_all(self, suffix: str) -> list[str]:
        """Names that are ``suffix`` or end with ``/suffix``: many archives hold everything in one top folder."""
        return [name for name in self._found if f"/{name}".endswith(f"/{suffix}")]

    def find(self, suffix: str) -> str:
        """The one name of `find_all`; UserError if there is none or more than one."""
        found = self.find_all(suffix)
        if not found:
            raise UserError(f"{self.path}: holds no {suffix}; check that it is the right and complete archive")
        if len(found) > 1:
            raise UserError(f"{self.path}: holds {suffix} {len(found)} times ({', '.join(found[:3])}); keep one")
        return found[0]

    def read(self, name: str) -> bytes:
        """The content of one file. For more than a few files use `stream`: a .tar.gz is read from its start."""
        return next(self.stream([name]))[1]

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (name, content) of the wanted files, in one pass, in the order in which they are stored."""
        aliases: dict[tuple[int, Any], list[str]] = defaultdict(list)
        for name in dict.fromkeys(names):
            if name not in self._found:
                raise UserError(f"{self.path}: holds no {name}; if the archive has changed, index it again")
            aliases[self._found[name]].append(name)
        for number, member in sorted(aliases, key=lambda at: (at[0], self._parts[at[0]].place(at[1]))):
            storage, same = self._parts[number], aliases[number, member]
            with _intact(storage.path):
                size, limit = storage.size(member), MAX_FILE >> 30
                if size > MAX_FILE:
                    raise UserError(f"{storage.path}: {same[0]!r} has {size:,} bytes; the limit is {limit} GiB")
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

    Archives inside it, such as RAF-DB's Image/original.zip, are read as if they had been unpacked where they lie, if
    they have not been. Raises UserError for an archive that is truncated, corrupt, of another kind than its name says,
    encrypted without the right password in ``<path>.password``, or implausibly large once unpacked, and for members
    that are absolute, contain ``..``, or are links that leave the dataset's folder.
    """
    path = Path(path)
    password_file = path.with_name(f"{path.name}.password")
    with ExitStack() as stack:
        if path.is_dir():
            outer = _folder(path)
        elif path.name.endswith(SUFFIXES):
            outer = _open(path, stack.enter_context(open(path, "rb")), password_file)
        else:
            raise UserError(f"{path}: neither a folder nor a {', '.join(SUFFIXES)} archive")
        parts, names = [(outer, outer.members)], list(outer.members)
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
    return _zip(path, file, password_file) if suffix == ".zip" else _tar(path, file, gzipped=suffix != ".tar")


def _inner_file(outer: Storage, name: str) -> IO[bytes]:
    """The archive ``name`` as a seekable file: itself in a folder, else a temporary copy."""
    member, folder = outer.members[name], tempfile.gettempdir()
    if outer.path.is_dir():
        return outer.open(member)
    size, free = outer.size(member), shutil.disk_usage(folder).free
    if size > free:
        lacking = f"{name!r} has {size:,} bytes, and {folder} has {free:,} free for a copy of it"
        remedy = f"unpack {outer.path.name} into the folder {folder_name(outer.path)}/"
        raise UserError(f"{outer.path}: {lacking}; {remedy}")
    with ExitStack() as stack:
        copy = stack.enter_context(tempfile.TemporaryFile())
        with _intact(outer.path), outer.open(member) as file:
            shutil.copyfileobj(file, copy, _STEP)
        copy.seek(0)
        stack.pop_all()
        return copy


def _read_password(file: Path) -> bytes | None:
    """The line in ``file``, None without such a file. Not a parameter: parameters are written into results."""
    if not file.exists():
        return None
    lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    if len(lines) != 1 or not lines[0]:
        raise UserError(f"{file}: expected one line, the password of {file.name.removesuffix('.password')}")
    return lines[0]


def locate(raw_dir: Path, archive: str) -> Path:
    """The folder ``archive`` in ``raw_dir``, else the first file of its `spellings`; UserError with the names tried."""
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
