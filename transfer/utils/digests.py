"""What the bytes of files and folders say, whatever dates, links and file managers do.

Digests are cached by size, inode and both times to the nanosecond, so that an unchanged file is not read again. One of
the times is that of the inode (ctime), which nobody can set: an edit that puts the old date back counts.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transfer.utils.environment import cores
from transfer.utils.errors import UserError
from transfer.utils.files import atomic, sha256
from transfer.utils.progress import progress

CACHE = Path(".snakemake/digests")
_JUNK = re.compile(r"(.*/)?(__MACOSX/.*|\._[^/]*|\.nfs[^/]*|\.DS_Store|\.directory|thumbs\.db|desktop\.ini)", re.I)
_SMALL = 1 << 20  # bytes of a single file that is rather read than looked up
_TICK_NS = 50_000_000  # longer than the step of a file system's clock: a later write within a step changes no time
_GROUPS, _NAMED = 40, 5  # groups of files; files of a group that are listed each, where more are one entry
_SHOWN = 5000  # files to be read, from which on the progress is shown
_SHORT = 16  # hexadecimal digits of an entry


def is_junk(name: str) -> bool:
    """Whether a file below a dataset's folder is what file managers and macOS leave, and no data."""
    return _JUNK.fullmatch(name) is not None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, from the cache if it has not changed since. Raises OSError."""
    if os.stat(path).st_size < _SMALL:
        return sha256(path)
    return _digests(path)[""]


def contents(path: Path) -> list[str]:
    """What is in a file or folder: a line per file, or per group of more than a few, each with a digest.

    Equal lists mean equal names and bytes; junk is left out, links count as what they lead to. UserError: unreadable.
    """
    try:
        found = _digests(path)
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror}); make it readable") from None
    groups: dict[str, list[str]] = {}
    for name in found:
        folder, slash, last = name.rpartition("/")
        groups.setdefault(f"{folder}{slash}*{os.path.splitext(last)[1]}", []).append(name)
    for depth in (1, 0):  # where the folders are many, by the top ones; else by suffix alone
        if len(groups) > _GROUPS:
            finer, groups = groups, {}
            for group, names in finer.items():
                *folders, last = group.split("/")
                groups.setdefault("/".join([*folders[:depth], last]), []).extend(names)
    lines = []
    for group, names in groups.items():
        if len(names) <= _NAMED:
            lines += [f"{name or path.name} {found[name][:_SHORT]}" for name in names]
        else:
            every = "".join(f"{found[name]} {name}\n" for name in names).encode(errors="surrogateescape")
            lines.append(f"{group} ({len(names):,} files) {hashlib.sha256(every).hexdigest()[:_SHORT]}")
    return sorted(lines)


def _digests(path: Path) -> dict[str, str]:
    """SHA-256 of every file below ``path`` by its name there, sorted; of a file itself under the name ""."""
    begun = time.time_ns()
    states = dict(sorted(_states(path)))
    cache = CACHE / hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    known = _read(cache)
    new = [name for name, (state, _) in states.items() if known.get(name, ("",))[0] != state]
    if new or len(known) != len(states):
        known = {name: known.get(name, ("", "")) for name in states}
        with ThreadPoolExecutor(cores()) as pool, progress(f"reading {path}", len(new), "files") as report:
            files = (path / name if name else path for name in new)
            for done, (name, digest) in enumerate(zip(new, pool.map(sha256, files, chunksize=64), strict=True), 1):
                known[name] = (states[name][0], digest)
                if len(new) > _SHOWN:
                    report(done)
        settled = begun - _TICK_NS
        lines = (f"{' '.join(known[name])} {name}" for name, (_, changed) in states.items() if changed < settled)
        with contextlib.suppress(OSError), atomic(cache) as part:  # where it cannot be kept, it is made again
            part.write_bytes(os.fsencode("\0".join(lines)))
    return {name: digest for name, (_, digest) in known.items()}


def _states(path: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    """Name of every file below ``path``, what changes whenever it is written to, and its ctime."""
    if not path.is_dir():
        yield "", _state(os.stat(path))
        return
    waiting = [("", frozenset[tuple[int, int]]())]
    while waiting:
        folder, above = waiting.pop()
        with os.scandir(os.path.join(path, folder)) as entries:
            here = os.stat(os.path.join(path, folder))
            inside = above | {(here.st_dev, here.st_ino)}
            for entry in entries:
                name = folder + entry.name
                if is_junk(name):
                    continue
                try:
                    if entry.is_file():
                        yield name, _state(entry.stat())
                    elif entry.is_dir():
                        found = entry.stat() if not entry.is_symlink() else os.stat(entry.path)
                        if not (entry.is_symlink() and (found.st_dev, found.st_ino) in inside):  # a link into itself
                            waiting.append((f"{name}/", inside))
                except FileNotFoundError:  # removed just now
                    continue


def _state(found: os.stat_result) -> tuple[str, int]:
    return f"{found.st_size}.{found.st_ino}.{found.st_mtime_ns}.{found.st_ctime_ns}", found.st_ctime_ns


def _read(cache: Path) -> dict[str, tuple[str, str]]:
    """State and digest of each file when it was read last; nothing where the cache is missing or damaged."""
    try:
        lines = os.fsdecode(cache.read_bytes()).split("\0")
        return {name: (state, digest) for state, digest, name in (line.split(" ", 2) for line in lines)}
    except (OSError, ValueError):
        return {}
