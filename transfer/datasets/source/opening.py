"""Opening a folder or an archive, with the archives that lie inside it."""

import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from transfer.datasets.source.folder import Folder
from transfer.datasets.source.names import SUFFIXES, folder_name
from transfer.datasets.source.password import read_password
from transfer.datasets.source.reading import Source
from transfer.datasets.source.storage import Storage
from transfer.datasets.source.tars import Tar
from transfer.datasets.source.zips import Zip
from transfer.utils.errors import UserError
from transfer.utils.filetype import GZIP, HEAD, HTML, TAR, ZIP, looks_like

_STEP = 1 << 20
_KINDS = {".zip": ZIP, ".tar": TAR, ".tar.gz": GZIP, ".tgz": GZIP}


def open_source(path: Path) -> Source:
    """Open a folder, .zip, .tar, .tar.gz or .tgz for reading; use as a context manager.

    Archives inside it are read as if they had been unpacked where they lie, into a folder of their name; one level, and
    not those that have been unpacked there already. RAF-DB, for one, comes with Image/original.zip. Raises UserError
    for an archive that is truncated, corrupt, of another kind than its name says, encrypted without the right password
    in ``<path>.password``, or holds more than is plausible (`transfer.datasets.source.bounds`), and for members that
    are absolute, contain ``..``, or are links that leave the dataset's folder.
    """
    path = Path(path)
    password = read_password(path)
    with ExitStack() as stack:
        if path.is_dir():
            outer: Storage = Folder(path)
        elif path.name.endswith(SUFFIXES):
            outer = _open_archive(path, stack.enter_context(open(path, "rb")), password, path, stack)
        else:
            raise UserError(f"{path}: neither a folder nor a {', '.join(SUFFIXES)} archive")
        parts = [(outer, outer.members)]
        for name in _packed(outer.members):
            file = stack.enter_context(_inner_file(outer, name))
            inner = _open_archive(path / name, file, password, path, stack)
            parts.append((inner, _as_unpacked(inner.members, _folder_of(name))))
        return Source(path, parts, stack.pop_all())


def _open_archive(path: Path, file: IO[bytes], password: bytes | None, beside: Path, stack: ExitStack) -> Storage:
    suffix = next(suffix for suffix in SUFFIXES if path.name.endswith(suffix))
    kind = looks_like(file.read(HEAD))
    if kind not in (None, _KINDS[suffix]):
        raise UserError(f"{path}: is {kind}, not {_KINDS[suffix]}; {_remedy(path, kind)}")
    source = Zip(path, file, password, beside) if suffix == ".zip" else Tar(path, file, packed=suffix != ".tar")
    stack.callback(source.close)
    return source


def _remedy(path: Path, kind: str) -> str:
    if kind in _KINDS.values():
        suffix = next(suffix for suffix, named in _KINDS.items() if named == kind)
        return f"rename it to {folder_name(path)}{suffix}"
    if kind == HTML:
        return "the download gave a web page, of a login or an error: download it again"
    if kind.endswith((" archive", " file")):
        return f"unpack it into the folder {folder_name(path)}/"
    return "download it again"


def _packed(members: Collection[str]) -> list[str]:
    """Those of the (sorted) members that are archives with no folder of their name beside them."""
    names = list(members)

    def unpacked(name: str) -> bool:
        folder = _folder_of(name)
        at = bisect_left(names, folder)
        return at < len(names) and names[at].startswith(folder)

    return [name for name in names if name.endswith(SUFFIXES) and not unpacked(name)]


def _folder_of(name: str) -> str:
    """The folder, with its slash, that the archive ``name`` would be unpacked into."""
    return name.removesuffix(Path(name).name) + folder_name(Path(name)) + "/"


def _as_unpacked(members: Mapping[str, str], folder: str) -> dict[str, str]:
    """The members with the names that they have once the archive is unpacked into ``folder``.

    Some archives hold the folder itself, others only what is in it.
    """
    top = Path(folder).name + "/"
    return {folder + name.removeprefix(top): member for name, member in members.items()}


def _inner_file(outer: Storage, name: str) -> IO[bytes]:
    """The archive ``name`` as a file that can be searched: itself in a folder, else a temporary copy."""
    member = outer.members[name]
    if isinstance(outer, Folder):
        return outer.open(member)
    folder = tempfile.gettempdir()
    size, free = outer.size(member), shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{outer.path}: {name!r} has {size:,} bytes, and {folder} has {free:,} free for a copy of it; "
            f"unpack {outer.path.name} into the folder {folder_name(outer.path)}/"
        )
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with outer.intact(), outer.open(member) as file:
            shutil.copyfileobj(file, copy, _STEP)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return copy
