"""Fetching what params/sources.yaml lists: downloads, checks, and what a person has to ask for."""

import hashlib
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock
from rich.table import Table

from transfer.datasets.archives import find
from transfer.sources.download import Damaged, download
from transfer.sources.table import SOURCES, SourceEntry, SourceFile
from transfer.utils.errors import UserError
from transfer.utils.files import write_json
from transfer.utils.filetype import HEAD, HTML, looks_like

LOCK = Path("params/sources.lock.json")
"""The sha256 of files for which params/sources.yaml has none, as first seen. It lies beside the table, and not in
raw_dir, so that git keeps it: what one member of a team got is what the others have to get."""


def fetch(name: str, entry: SourceEntry, raw_dir: Path, mirror: str | None = None) -> Iterator[str]:
    """Download the files of ``entry`` that are not there, and check all that are; yields what was done, a line each.

    ``mirror`` is an address below which the files have the same paths as below raw_dir. Raises UserError for a file
    that cannot be downloaded, that a person has to ask for, or that is not the expected one.
    """
    packed = packed_archive(entry, raw_dir)
    if packed:
        yield f"{name}: {packed} is read, nothing to fetch"
    elif entry.files:
        for file in entry.files:
            yield fetch_file(entry, file, raw_dir, mirror)
    elif is_there(entry, raw_dir):
        yield f"{name}: {raw_dir / str(entry.archive)} is there"
    else:
        raise UserError(f"{name}: {_by_hand(entry, raw_dir)}")


def fetch_file(entry: SourceEntry, file: SourceFile, raw_dir: Path, mirror: str | None = None) -> str:
    """Download one file unless it is there, and check it; what was done, in one line. Raises UserError as ``fetch``."""
    path = raw_dir / file.path
    there = path.exists()
    if not there:
        packed = packed_archive(entry, raw_dir)
        if packed:
            raise UserError(
                f"{path}: not downloaded: its folder would be read in place of {packed}; unpack that, or move it away"
            )
        if file.url is None:
            raise UserError(f"{path}: {_by_hand(entry, raw_dir)}")
        url = f"{mirror.rstrip('/')}/{file.path}" if mirror else file.url
        known = bool(file.sha256 or file.sha256_prefix or file.md5 or recorded(file))
        download(url, path, check=lambda part: check(file, part, path), size=file.size, known=known)
    digest = check(file, path)
    return f"{path}: {'there' if there else 'downloaded'}, sha256 {digest[:12]}... {_compared(file, digest)}"


def _by_hand(entry: SourceEntry, raw_dir: Path) -> str:
    return f"not there, and not downloaded by itself; {entry.page}: {entry.ask.replace('RAW_DIR', str(raw_dir))}"


def check(file: SourceFile, path: Path, shown: Path | None = None) -> str:
    """The sha256 of ``path``, which has to be ``file``; ``shown`` is its name in messages.

    Raises Damaged, in one line, if size or checksum are not those of params/sources.yaml or of the lock file.
    """
    shown = shown or path
    with open(path, "rb") as handle:
        if looks_like(handle.read(HEAD)) == HTML:
            raise Damaged(f"{shown}: a web page under this name, perhaps one for login or quota; get the file again")
        handle.seek(0)
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        handle.seek(0)
        md5 = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() if file.md5 else None
    size = path.stat().st_size
    if file.size not in (None, size):
        raise Damaged(f"{shown}: {size:,} bytes; expected {file.size:,} ({SOURCES}): cut off, or another version")
    for what, expected, found in (
        ("sha256", file.sha256, sha256),
        ("sha256", file.sha256_prefix, sha256[: len(file.sha256_prefix or "")]),
        ("md5", file.md5, md5),
    ):
        if expected not in (None, found):
            raise Damaged(f"{shown}: {what} is {found}; expected {expected} ({SOURCES}): damaged, or another file")
    earlier = recorded(file)
    if earlier not in (None, sha256):
        raise Damaged(
            f"{shown}: sha256 is {sha256}; {earlier} was seen first ({LOCK}): damaged, or changed at its source; "
            f"where the change is wanted, remove its entry from {LOCK}"
        )
    return sha256


def recorded(file: SourceFile) -> str | None:
    """The sha256 of ``file`` that was first seen; None if there is none."""
    return _locked().get(file.path)


def _compared(file: SourceFile, digest: str) -> str:
    """What the sha256 agrees with; one that nothing knows is recorded."""
    if file.sha256:
        return f"as in {SOURCES}"
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(LOCK.with_name(f".{LOCK.name}.lock")):
        table = _locked()
        if table.get(file.path) == digest:
            return f"as in {LOCK}"
        write_json(LOCK, dict(sorted((table | {file.path: digest}).items())))
    return f"recorded in {LOCK}"


def _locked() -> dict[str, str]:
    try:
        table = json.loads(LOCK.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{LOCK}: not a JSON file: {error}") from None
    if not isinstance(table, dict):
        raise UserError(f"{LOCK}: expected a mapping of paths to sha256")
    return table


def packed_archive(entry: SourceEntry, raw_dir: Path) -> Path | None:
    """The archive file that holds the dataset of ``entry``, where it is read from one; None if a folder is read."""
    path = find(raw_dir, entry.archive) if entry.archive else None
    return path if path and path.is_file() else None


def is_there(entry: SourceEntry, raw_dir: Path) -> bool:
    """Whether all files of ``entry``, or the archive that holds them, are below ``raw_dir``; they are not opened."""
    if packed_archive(entry, raw_dir):
        return True
    if entry.files:
        return all((raw_dir / file.path).exists() for file in entry.files)
    return (raw_dir / str(entry.archive)).is_dir()


def instructions(name: str, entry: SourceEntry, raw_dir: Path) -> str:
    """What a person has to ask for, where, and which file to put where."""
    lines = {
        "what": entry.title,
        "where": entry.page,
        "to do": entry.ask.replace("RAW_DIR", str(raw_dir)),
        "licence": entry.licence,
        "cite": entry.citation,
        "not confirmed": entry.unconfirmed,
    }
    wrapped = [
        textwrap.fill(
            text,
            width=110,
            initial_indent=f"  {key:<14}",
            subsequent_indent=" " * 16,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for key, text in lines.items()
        if text
    ]
    return "\n".join([f"{name} is not there, and has to be had by hand:", *wrapped])


def overview(sources: Mapping[str, SourceEntry], raw_dir: Path) -> Table:
    """A row per source: name, kind, how it is had, size, licence, and whether it is below ``raw_dir``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "kind", "how", "bytes", "there", "licence"):
        table.add_column(column, justify="right" if column == "bytes" else "left", no_wrap=column == "name")
    for name, entry in sources.items():
        sizes = [file.size for file in entry.files]
        size = f"{sum(filter(None, sizes)):,}" if sizes and all(sizes) else "?"
        table.add_row(name, entry.kind, entry.how, size, _state(entry, raw_dir), entry.licence)
    return table


def _state(entry: SourceEntry, raw_dir: Path) -> str:
    if is_there(entry, raw_dir):
        return "yes"
    paths = [raw_dir / file.path for file in entry.files]
    some = sum(path.exists() for path in paths)
    if some:
        return f"{some} of {len(paths)}"
    return "partly" if any(path.with_name(f"{path.name}.part").exists() for path in paths) else "no"
