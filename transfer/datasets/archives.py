"""Read a dataset where it lies: a folder, a zip, a tar or a 7z, and archives inside these.

A further format is one function that returns a `Storage`, a suffix in `_KINDS`, and a line in `_open`.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import re
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ntpath import splitdrive
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

from transfer.utils.digests import is_junk
from transfer.utils.errors import UserError
from transfer.utils.filetype import BZIP2, GZIP, HEAD, HTML, SEVEN_ZIP, TAR, XZ, ZIP, looks_like

_KINDS = {
    ".zip": ZIP, ".tar": TAR, ".tar.gz": GZIP, ".tgz": GZIP, ".tar.bz2": BZIP2, ".tar.xz": XZ, ".7z": SEVEN_ZIP,
}  # fmt: skip
SUFFIXES = tuple(_KINDS)
UNPACKED = Path(".snakemake/unpacked")
"""What was in 7z archives, by their digests, until a workflow has ended or `transfer prune` removes it."""
MAX_RATIO = 100
"""Unpacked to packed bytes. Images do not shrink, csv files shrink to a third, bombs a thousandfold and more."""
FREE = 64 << 20  # unpacked bytes that are always accepted: the ratio of a small text says nothing
MAX_FILE = 1 << 30  # bytes of one file that is read into memory; fer2013.csv has 0.3 GB
MAX_INNER, MAX_DEPTH = 200, 3  # archives inside an archive: each is an open file, and a copy if it is packed
BY_THE_SYSTEM = "files of the operating system"  # why they are left out
_STEP = 1 << 20
_MAX_LINKS = 40  # as Linux follows
_ENCRYPTED, _STRONGLY, _UTF8, _AES, _DEFLATE64 = 0x1, 0x40, 0x800, 99, 9
# Methods that zipfile reads, and how many packed bytes at once: those of 4 KiB unpack without bound.
_STEPS = {zipfile.ZIP_STORED: _STEP, zipfile.ZIP_DEFLATED: _STEP, zipfile.ZIP_BZIP2: 4096, zipfile.ZIP_LZMA: 4096}
_NO_ARCHIVES = (".jpg", ".png", ".npy", ".txt", ".csv")  # most of the files
_PART = re.compile(r"(.+\.(?:zip|7z|rar|tar|tgz|tar\.(?:gz|xz|bz2)))\.(?:(\d{3})|[a-z]{2}(?<!gz))", re.IGNORECASE)
_SPLIT_ZIP = re.compile(r"(.+)\.z(\d\d)", re.IGNORECASE)
_OTHER = re.compile(r"(.+?)(?:\.part\d+)?\.(?:rar|r\d\d|tar\.zst|tar\.z|tbz2?|txz|lzh|ace|arj)", re.IGNORECASE)


@dataclass(frozen=True)
class Storage:
    """A folder or an archive, read one member at a time."""

    path: Path
    members: dict[str, Any]  # by name: relative, with forward slashes, sorted
    left_out: dict[str, str]  # name -> why it is no member
    place: Callable[[Any], int | str]  # sort key of a member: where it lies
    size: Callable[[Any], int]  # bytes of a member, as declared
    chunks: Callable[[Any], Iterator[bytes]]  # its content

    def content(self, name: str, member: Any) -> Iterator[bytes]:
        """The content in pieces; UserError where it is damaged, or more than was declared."""
        left = self.size(member)
        with _intact(self.path, name):
            for chunk in self.chunks(member):
                left -= len(chunk)
                if left < 0:
                    raise zipfile.BadZipFile("more bytes than declared")
                yield chunk
            if left:
                raise EOFError(f"{left:,} bytes are missing")


@contextmanager
def _intact(path: Path, name: str = "") -> Iterator[None]:
    """Turn what the archive libraries raise on damaged data, which is nearly anything, into one clear line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename:  # of the file system
            raise
        why = " ".join(f"{name!r}: {error}".split() if name else str(error).split())
        raise UserError(f"{path}: truncated or corrupt; download it again ({why or type(error).__name__})") from error


def _accept(path: Path, name: str, packed: int, unpacked: int) -> None:
    """Refuse a member that would be unpacked outside the folder, and an archive of implausibly many bytes."""
    if name.startswith(("/", "\\")) or splitdrive(name)[0] or ".." in name and ".." in re.split(r"[\\/]", name):
        raise UserError(f"{path}: member {name!r} leaves the dataset's folder; refused")
    if unpacked > MAX_RATIO * packed + FREE:
        more = f"{packed:,} bytes unpack to {unpacked:,} or more, over {MAX_RATIO} times as many"
        raise UserError(f"{path}: {more}; refused as a zip bomb")


def _name(stored: str) -> str:
    """A stored name with forward slashes, as text that can be written: bytes that are no UTF-8 become escapes.

    An accent is a part of its letter, as people type it, also where macOS has split the two.
    """
    text = stored.replace("\\", "/").encode("utf-8", "backslashreplace").decode()
    return posixpath.normpath(unicodedata.normalize("NFC", text))


def _members(
    path: Path, files: Iterable[tuple[str, Any]], links: Mapping[str, str], special: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, str]]:
    """The files by name, with those links (name -> target from the top) that lead to one; and what is left out.

    Raises UserError for a name that two files have: which one is meant cannot be known.
    """
    found: dict[str, Any] = {}
    for name, member in files:
        if found.setdefault(_name(name), member) is not member and not _same(found[_name(name)], member):
            raise UserError(f"{path}: holds {_name(name)!r} twice, with different content; keep one")
    left_out = {_name(name): "special files" for name in special}
    targets = {_name(name): _name(target) for name, target in links.items()}
    names = sorted(found)
    for name, target in targets.items():
        if target.startswith("/") or target.split("/")[0] == "..":
            raise UserError(f"{path}: link {name!r} leaves the dataset's folder; refused")
        for _ in range(_MAX_LINKS):
            target = targets.get(target, target)
        below = bisect_left(names, f"{target}/")
        if target in found:
            found[name] = found[target]
        elif "".join(names[below : below + 1]).startswith(f"{target}/"):
            left_out[name] = "links to folders"
        else:
            left_out[name] = "links to no file"
    left_out |= {name: BY_THE_SYSTEM for name in found if is_junk(name)}
    return {name: found[name] for name in sorted(found) if name not in left_out}, left_out


def _same(one: Any, other: Any) -> bool:
    """Whether two members of a zip have equal bytes; of a tar that is not known."""
    return isinstance(one, zipfile.ZipInfo) and (one.CRC, one.file_size) == (other.CRC, other.file_size)


def _folder(path: Path) -> Storage:
    top = str(path.resolve())
    files, links, special, folders = [], {}, [], [""]
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
                    files.append((name, entry.path))
                else:
                    special.append(name)
    return Storage(path, *_members(path, files, links, special), str, os.path.getsize, _file_chunks)


def _file_chunks(file: str) -> Iterator[bytes]:
    with open(file, "rb") as handle:
        while chunk := handle.read(_STEP):
            yield chunk


def _zip(path: Path, file: IO[bytes], password_file: Path) -> Storage:
    """A zip, encrypted (ZipCrypto or AES) or not; its directory is checked before anything is read."""
    password, packed, unpacked = _read_password(password_file), file.seek(0, 2), 0
    files, links, encrypted = [], [], []
    with _intact(path):
        archive = zipfile.ZipFile(file)
        archive.setpassword(password)  # type: ignore[arg-type]
        for info in archive.infolist():
            if not (info.flag_bits & _UTF8 or info.filename.isascii()):  # macOS writes UTF-8 and does not say so
                with suppress(UnicodeError):
                    info.filename = info.filename.encode("cp437").decode()
            unpacked += info.file_size
            _accept(path, info.filename, packed, unpacked)
            if info.volume:
                raise UserError(f"{path}: a part of a split zip; {_join(folder_name(path))}")
            if info.flag_bits & _STRONGLY or info.compress_type not in (*_STEPS, _AES, _DEFLATE64):
                what = f"{info.filename!r} is compressed by method {info.compress_type}, or strongly encrypted"
                raise UserError(f"{path}: {what}, which is not supported; {_unpack(path)}")
            if stat.S_ISLNK(info.external_attr >> 16) and info.file_size < 4096:
                links.append(info)
            elif not info.is_dir() and not info.filename.endswith("\\"):
                files.append((info.filename, info))
            if info.flag_bits & _ENCRYPTED and info.file_size:
                encrypted.append(info)
    if encrypted and password is None:
        remedy = f"write its password into {password_file}, or unpack it into the folder {folder_name(path)}/"
        raise UserError(f"{path}: encrypted; {remedy}")

    def chunks(info: zipfile.ZipInfo) -> Iterator[bytes]:
        if info.compress_type in _STEPS:
            step = min(_STEPS[info.compress_type], info.file_size + 1)
            with archive.open(info) as member:
                while chunk := member.read(step):
                    yield chunk
        elif info.file_size:  # zipfile has neither AES nor Deflate64
            from stream_unzip import stream_unzip

            file.seek(info.header_offset)
            yield from next(iter(stream_unzip(iter(lambda: file.read(1 << 16), b""), password=password)))[2]

    try:  # a small member is read whole: one wrong password of 256 passes the format's own check
        for smallest in sorted(encrypted, key=attrgetter("file_size"))[:1]:
            for _ in chunks(smallest):
                pass
    except Exception as error:
        raise UserError(f"{path}: wrong password ({password_file}): {error or type(error).__name__}") from error
    with _intact(path):
        read = {link.filename: b"".join(chunks(link)).decode("utf-8", "replace") for link in links}
    targets = {name: _beside(name.replace("\\", "/"), target) for name, target in read.items()}
    members = _members(path, files, targets)
    return Storage(path, *members, attrgetter("header_offset"), attrgetter("file_size"), chunks)


def _tar(path: Path, file: IO[bytes], unpack: Callable[[Any], Any] | None) -> Storage:
    """A tar, packed or not; the headers lie between the contents, so the checks are made on the way through it."""
    packed, unpacked = file.seek(0, 2), 0
    file.seek(0)
    reader = _SmallReads(unpack(file) if unpack else file)
    files, links, special = [], {}, []
    with _intact(path):
        archive = tarfile.TarFile(fileobj=reader)  # type: ignore[arg-type]
        while (member := archive.next()) is not None:
            # Before its content is skipped, which in a packed tar means to unpack it.
            unpacked += member.size
            _accept(path, member.name, packed, max(unpacked, member.offset_data))
            if member.issym() or member.islnk():
                links[member.name] = _beside(member.name, member.linkname) if member.issym() else member.linkname
            elif member.isreg():
                files.append((member.name, member))
            elif not member.isdir():
                special.append(member.name)
            reader.left = _STEP
        # tarfile takes a cut between two members for the end: that is marked by a block of zeros. Reading on to
        # the end of the file lets gzip compare its checksum.
        reader.seek(archive.offset)
        reader.left = None
        if reader.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("no end-of-archive mark")
        while reader.read(_STEP):
            _accept(path, "", packed, reader.tell())

    def chunks(member: tarfile.TarInfo) -> Iterator[bytes]:
        content = archive.extractfile(member)
        while content and (chunk := content.read(_STEP)):
            yield chunk

    return Storage(path, *_members(path, files, links, special), attrgetter("offset_data"), attrgetter("size"), chunks)


def _seven_zip(path: Path, file: IO[bytes], password_file: Path) -> Storage:
    """A 7z, unpacked once into `UNPACKED` for all that read it: its members are packed together."""
    try:
        from py7zr import SevenZipFile
    except ImportError:
        raise UserError(f"{path}: reading 7z needs py7zr; pip install py7zr, or {_unpack(path)}") from None
    from py7zr.exceptions import PasswordRequired, UnsupportedCompressionMethodError

    password, packed, unpacked = _read_password(password_file), file.seek(0, 2), 0
    file.seek(0)
    content = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
    content.update(password or b"")
    file.seek(0)
    folder = UNPACKED / content.hexdigest()
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _intact(path), tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
                archive = SevenZipFile(file, password=password.decode() if password else None)
                for member in archive.list():
                    unpacked += member.uncompressed
                    _accept(path, member.filename, packed, unpacked)
                _require_room(path, "its content", unpacked, unfinished)
                archive.extractall(whole := Path(unfinished, "whole"))
                with suppress(OSError):  # another process was faster
                    whole.replace(folder)
    except UserError as error:
        if isinstance(error.__cause__, PasswordRequired):
            raise UserError(f"{path}: encrypted; write its password into {password_file}") from error
        if isinstance(error.__cause__, UnsupportedCompressionMethodError):
            raise UserError(f"{path}: {error.__cause__}, which is not supported; {_unpack(path)}") from error
        if password and error.__cause__:
            raise UserError(f"{path}: wrong password ({password_file}), or truncated or corrupt") from error
        raise
    inside = _folder(folder)
    return Storage(path, inside.members, inside.left_out, inside.place, inside.size, inside.chunks)


def _beside(link: str, target: str) -> str:
    return posixpath.join(posixpath.dirname(link), target)


class _SmallReads:
    """A file of which little is read for one member's headers: they may announce a name of any length, or go on."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.left: int | None = _STEP
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if self.left is not None:
            if size > self.left:
                raise tarfile.ReadError(f"a header of more than {_STEP:,} bytes")
            self.left -= size
        return self._file.read(size)


class Source:
    """The regular files of a dataset, as `open_source` opens them; a context manager.

    ``left_out`` holds the others, name -> reason; ``damaged`` the archives inside that cannot be read, name -> error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: dict[str, str] = {}
        self.damaged: dict[str, str] = {}
        self.opened = ExitStack()
        self.used: set[str] = set()
        """Names of files that have been read, and of archives inside that were opened."""
        self._found: dict[str, tuple[Storage, Any]] = {}

    def add(self, storage: Storage, names: Mapping[str, str]) -> None:
        """Take in the files of ``storage``, name there -> name here; a name that is known already stays."""
        self.left_out |= {names[name]: why for name, why in storage.left_out.items()}
        found = {names[name]: (storage, member) for name, member in storage.members.items()}
        self._found = dict(sorted((found | self._found).items()))

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
            raise self.lacks(f"holds no {suffix}", suffix)
        if len(found) > 1:
            raise UserError(f"{self.path}: holds {suffix} {len(found)} times ({', '.join(found[:3])}); keep one")
        return found[0]

    def lacks(
        self, what: str, name: str, below: str = "", remedy: str = "check that it is the right and complete archive"
    ) -> UserError:
        """The error that says ``what`` is not there, with what is there in its place, and with the remedy for that.

        That may be an archive inside that is damaged, or of a kind that is not read, or the file ``name`` in another
        folder that starts with ``below``. ``remedy`` is for the case that nothing explains its absence.
        """
        elsewhere = [found for found in self.find_all(posixpath.basename(name)) if found.startswith(below)]
        alike = f"/{name}".lower().replace(" ", "")
        for found in self._found if name else ():
            place = f"/{found}".lower().replace(" ", "")
            if place.endswith(alike) or alike.endswith(place) or place.startswith((f"{alike}.", f"{alike}/")):
                elsewhere.append(found)
        if closed := next(self._closed(), None):
            remedy = closed[1]
        elif left_out := next((place for place in self.left_out if f"{name}/".startswith(f"{place}/")), None):
            remedy = (
                f"but {left_out} is there, which is left out ({self.left_out[left_out]}): put the files in its place"
            )
        elif elsewhere:
            remedy = f"but {elsewhere[0]} is there: give such files the names and places that are looked for"
        return UserError(f"{self.path}: {what}; {remedy}")

    def require(self, folder: str) -> None:
        """Raise UserError if an archive that may hold files of ``folder`` is not read."""
        for place, error in self._closed():
            if place.startswith(folder) or folder.startswith(place):
                raise UserError(error)

    def _closed(self) -> Iterator[tuple[str, str]]:
        """The folder of each archive inside that is not read, unless it lies unpacked there, and the error."""
        for name, error in self.damaged.items():
            yield posixpath.join(posixpath.dirname(name), folder_name(Path(name)), ""), error
        names = list(self._found)
        for name in names:
            if not name.endswith(_NO_ARCHIVES) and (foreign := _foreign(name, names)):
                place = posixpath.join(posixpath.dirname(name), foreign[0], "")
                below = bisect_left(names, place)
                if not "".join(names[below : below + 1]).startswith(place):
                    yield place, f"{self.path}: holds {name}, which is not read as it is; {foreign[1]}"

    def size(self, name: str) -> int:
        """Bytes of one file."""
        storage, member = self._found[name]
        return storage.size(member)

    def read(self, name: str) -> bytes:
        """The content of one file. For more than a few files use `stream`: a packed tar is read from its start."""
        return next(self.stream([name]))[1]

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (name, content) of the wanted files, in one pass, in the order in which they are stored."""
        aliases: dict[tuple[int, int], list[str]] = defaultdict(list)
        members = {}
        for name in dict.fromkeys(names):
            if name not in self._found:
                raise UserError(f"{self.path}: holds no {name}; if the archive has changed, index it again")
            storage, member = self._found[name]
            aliases[id(storage), id(member)].append(name)
            members[id(storage), id(member)] = storage, member
        order = {id(storage): number for number, (storage, _) in enumerate(self._found.values())}
        for key in sorted(aliases, key=lambda key: (order[key[0]], members[key][0].place(members[key][1]))):
            (storage, member), same = members[key], aliases[key]
            size, limit = storage.size(member), MAX_FILE >> 30
            if size > MAX_FILE:
                raise UserError(f"{storage.path}: {same[0]!r} has {size:,} bytes; the limit is {limit} GiB")
            content = b"".join(storage.content(same[0], member))
            self.used.update(same)
            for name in same:
                yield name, content

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()


def open_source(path: Path) -> Source:
    """Open a folder or an archive (`SUFFIXES`) for reading; use as a context manager.

    Archives inside it, such as RAF-DB's Image/original.zip, are read as if they had been unpacked where they lie, if
    they have not been. Raises UserError for an archive that is truncated, corrupt, of another kind than its name says,
    encrypted without the right password in ``<path>.password``, or implausibly large once unpacked, and for members
    that are absolute, contain ``..``, or are links that leave the dataset's folder. For an archive inside that error
    waits until something in it is wanted.
    """
    path = Path(path)
    password_file = path.with_name(f"{path.name}.password")
    source = Source(path)
    with ExitStack() as stack:
        stack.enter_context(source)
        if path.is_dir():
            outer = _folder(path)
        elif _suffix(path.name):
            outer = _open(path, source.opened.enter_context(open(path, "rb")), password_file)
        else:
            raise UserError(f"{path}: neither a folder nor a {', '.join(SUFFIXES)} archive")
        source.add(outer, {name: name for name in [*outer.members, *outer.left_out]})
        _open_inner(source, outer, {name: name for name in outer.members}, password_file, [0, 0])
        stack.pop_all()
    return source


def _open_inner(
    source: Source, outer: Storage, names: Mapping[str, str], password_file: Path, spent: list[int], depth: int = 1
) -> None:
    """Open the archives among the members of ``outer``, whose names in ``source`` are ``names``.

    ``spent`` counts the archives opened and the bytes copied so far.
    """
    here = list(outer.members)
    for name in sorted(filter(_suffix, here), key=lambda name: outer.place(outer.members[name])):
        folder = posixpath.join(posixpath.dirname(name), folder_name(Path(name)), "")
        after = bisect_left(here, folder)
        if "".join(here[after : after + 1]).startswith(folder):
            source.left_out[names[name]] = "archives that lie beside their unpacked folder"
            continue
        spent[0] += 1
        if spent[0] > MAX_INNER:
            more = f"holds more than {MAX_INNER} archives ({names[name]}, ...)"
            raise UserError(f"{source.path}: {more}; unpack them, or take away those that are not needed")
        whole = source.path / names[name]
        try:
            if depth > MAX_DEPTH:
                raise UserError(f"{whole}: an archive inside {MAX_DEPTH} others; {_unpack(whole)}")
            if f"{name[:-4]}.z01" in outer.members:
                raise UserError(f"{whole}: the last part of a split zip; {_join(name[:-4])}")
            if source.path.is_file() and not outer.path.is_dir():
                spent[1] += outer.size(outer.members[name])
                _accept(whole, "", source.path.stat().st_size, spent[1])
            with ExitStack() as stack:
                file = stack.enter_context(_inner_file(outer, name))
                inner = _open(whole, file, password_file)
                source.opened.push(stack.pop_all())
        except UserError as error:
            source.damaged[names[name]], source.left_out[names[name]] = str(error), "archives that cannot be read"
            continue
        source.used.add(names[name])
        # Some archives hold the folder itself, others only what is in it.
        top, inside = posixpath.basename(folder[:-1]) + "/", [*inner.members, *inner.left_out]
        place = posixpath.join(posixpath.dirname(names[name]), top)
        taken = set(inside)
        bare = {key: key.removeprefix(top) for key in inside}
        found = {key: place + (key if key != short and short in taken else short) for key, short in bare.items()}
        source.add(inner, found)
        _open_inner(source, inner, found, password_file, spent, depth + 1)


def _open(path: Path, file: IO[bytes], password_file: Path) -> Storage:
    suffix = _suffix(path.name)
    kind, folder = looks_like(file.read(HEAD)), folder_name(path)
    if path.with_name(f"{folder}.z01").exists():
        raise UserError(f"{path}: the last part of a split zip; {_join(folder)}")
    if kind not in (None, _KINDS[suffix]):
        remedy = "download it again"
        if kind in _KINDS.values():
            remedy = f"rename it to {folder}{next(suffix for suffix, named in _KINDS.items() if named == kind)}"
        elif kind == HTML:
            remedy = "the download returned a login or error page: download it again"
        elif kind.endswith((" archive", " file")):
            remedy = _unpack(path)
        raise UserError(f"{path}: is {kind}, not {_KINDS[suffix]}; {remedy}")
    if suffix == ".zip":
        return _zip(path, file, password_file)
    if suffix == ".7z":
        return _seven_zip(path, file, password_file)
    unpack: dict[str, Callable[[Any], Any]] = {
        GZIP: lambda packed: gzip.GzipFile(fileobj=packed), BZIP2: bz2.BZ2File, XZ: lzma.LZMAFile,
    }  # fmt: skip
    return _tar(path, file, unpack.get(_KINDS[suffix]))


def _inner_file(outer: Storage, name: str) -> IO[bytes]:
    """The archive ``name`` as a seekable file: itself in a folder, else a temporary copy."""
    member = outer.members[name]
    if isinstance(member, str):
        return open(member, "rb")
    _require_room(outer.path, repr(name), outer.size(member))
    with ExitStack() as stack:
        copy = stack.enter_context(tempfile.TemporaryFile())
        for chunk in outer.content(name, member):
            copy.write(chunk)
        copy.seek(0)
        stack.pop_all()
        return copy


def _require_room(path: Path, what: str, size: int, folder: str | None = None) -> None:
    folder = folder or tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        lacking = f"{what} has {size:,} bytes, and {folder} has {free:,} free for a copy of it"
        raise UserError(f"{path}: {lacking}; {_unpack(path)}")


def _unpack(path: Path) -> str:
    return f"unpack {path.name} with 7-Zip into the folder {folder_name(path)}/"


def _join(stem: str) -> str:
    name = posixpath.basename(stem)
    return f"join the parts first: zip -s 0 {name}.zip --out {name}_whole.zip, and take the parts away"


def _foreign(name: str, beside: Collection[str]) -> tuple[str, str] | None:
    """Of a file that looks like an archive and is not read, such as a part of one: its folder, and what to do."""
    file = posixpath.basename(name)
    for pattern, join in ((_PART, "join the parts first: cat {0}.* > {0}".format), (_SPLIT_ZIP, _join)):
        if match := pattern.fullmatch(file):
            whole, digits = match.groups()
            if digits:  # parts have numbers from 1
                there = {
                    int(part[2])
                    for path in beside
                    if (part := pattern.fullmatch(posixpath.basename(path))) and part[1] == whole
                }
                if absent := sorted({*range(1, max(there))} - there):
                    return folder_name(Path(whole)), f"its part {absent[0]} is missing: get all parts again"
            return folder_name(Path(whole)), join(whole)
    if match := _OTHER.fullmatch(file):
        return match[1], f"unpack it with 7-Zip into the folder {match[1]}/"
    return None


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
        raw_dir = Path(raw_dir)
        wanted = archive.lower()
        there = sorted(path.name for path in raw_dir.iterdir()) if raw_dir.is_dir() else []
        for name in there:
            if not re.fullmatch(re.escape(wanted) + r"( ?\(\d+\))?(\..*)?", name.lower()) or name.endswith(".password"):
                continue
            _, remedy = _foreign(name, there) or ("", "")
            bare = re.sub(r" ?\(\d+\)", "", name).lower()  # as browsers name what they download again
            if not remedy and (right := next((each for each in spellings(archive) if each.lower() == bare), "")):
                kind = "a folder" if (raw_dir / name).is_dir() else "a file"
                remedy = f"rename it to {right}" if right != name else f"it is {kind}; give it a name that says so"
            remedy = remedy or f"finish its download, or unpack it into the folder {archive}/"
            raise UserError(f"{archive}: {raw_dir} holds {name}, which is not read as it is; {remedy}")
        shown = [name if name.endswith(SUFFIXES) else f"{name}/" for name in spellings(archive)]
        raise UserError(f"{archive}: not found in {raw_dir} (looked for {', '.join(shown)})")
    return found


def find(raw_dir: Path, archive: str) -> Path | None:
    """As `locate`; None where there is none."""
    paths = (Path(raw_dir) / name for name in spellings(archive))
    return next((path for path in paths if (path.is_file() if path.name.endswith(SUFFIXES) else path.is_dir())), None)


def spellings(archive: str) -> list[str]:
    """The names that ``archive`` may have: its own, and unless it carries a suffix, with each suffix."""
    return [archive] if _suffix(archive) else [archive, *(archive + suffix for suffix in SUFFIXES)]


def folder_name(path: Path) -> str:
    """Name of the folder that an archive is unpacked into: its name without the suffix."""
    return path.name[: len(path.name) - len(_suffix(path.name))]


def _suffix(name: str) -> str:
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
