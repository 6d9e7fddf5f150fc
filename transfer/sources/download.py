"""Download of one file over HTTPS: it continues where it was cut off, and the file is either whole or absent.

While it grows it is called ``<file>.part``; ``<file>.part.json`` says which version of which address the bytes are of.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry

from transfer.utils.errors import UserError
from transfer.utils.files import write_json
from transfer.utils.filetype import HEAD, HTML, looks_like
from transfer.utils.progress import progress

WAITS = (1, 2, 4, 8)
"""Seconds before each further try; they begin anew whenever bytes have come."""
LONGEST_WAIT = 120
"""Seconds of a Retry-After that are still waited for."""
TIMEOUT = (20, 60)
"""Seconds for the connection and between two pieces of the answer."""
_PIECE = 1 << 18


class Damaged(UserError):
    """A file that is there and is not the one that was expected."""


class _TryAgain(Exception):
    """The attempt failed in a way that passes; ``wait`` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait


class _HttpOnlyHere(HTTPAdapter):
    """Plain HTTP to this computer alone, also after redirects."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send ``request``; UserError if it would leave this computer unencrypted."""
        if urlsplit(request.url or "").hostname not in ("localhost", "127.0.0.1", "::1"):
            raise UserError(f"{request.url}: not downloaded, since the address is not https")
        return super().send(request, *args, **kwargs)


@dataclass(frozen=True)
class _State:
    """What the bytes of a .part are of."""

    url: str
    validator: str | None
    """Strong ETag or Last-Modified: the file's version."""
    size: int | None


class _Part:
    """The growing file and its state, which are dropped together."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self.state_path = target.with_name(target.name + ".part.json")

    def length(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def state(self) -> _State | None:
        """The state; None if there is none that can be read."""
        try:
            return _State(**json.loads(self.state_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.state_path.unlink(missing_ok=True)


def download(
    url: str, target: Path, *, check: Callable[[Path], None], size: int | None = None, known: bool = False
) -> None:
    """Download ``url`` to ``target``, unless it is there; continues after a kill or a cut connection.

    ``check`` raises Damaged for content that is not the expected one. ``size`` is the number of bytes if it is known;
    ``known`` says that ``check`` knows the content, so that bytes without a version may be continued. A second download
    of the same file waits for the first. Proxies are those of the environment. Raises UserError, in one line, when the
    file cannot be had; what has come so far is kept, unless it is wrong.
    """
    part = _Part(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target) as lock, _session() as session:
            if not target.exists():
                try:
                    _fill_and_check(session, url, part, check, size, known)
                except Damaged:
                    part.drop()
                    raise
                with open(part.path, "rb") as handle:
                    os.fsync(handle.fileno())
                os.replace(part.path, target)
                part.drop()
            lock.unlink(missing_ok=True)  # who waits for it finds the file
    except requests.RequestException as error:
        raise UserError(f"{url}: not downloaded: {error}") from None
    except OSError as error:
        raise UserError(
            f"{part.path}: {error.strerror or error}; what has come is kept, run again to continue"
        ) from None


def _session() -> requests.Session:
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"  # sizes and ranges are those of the file, not of its compression
    session.mount("http://", _HttpOnlyHere())
    return session


@contextmanager
def _alone(target: Path) -> Iterator[Path]:
    """Hold the lock of ``target`` in a file beside it, which is yielded."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _note(f"{target.name}: waiting for another download of it")
        lock.acquire()
    try:
        yield Path(lock.lock_file)
    finally:
        lock.release()


def _fill_and_check(
    session: requests.Session,
    url: str,
    part: _Part,
    check: Callable[[Path], None],
    size: int | None,
    known: bool,
) -> None:
    continued = _fill(session, url, part, size, known)
    try:
        check(part.path)
    except Damaged:
        if not continued:
            raise
        # The beginning may have been of another version: a whole download decides.
        _note(f"{url}: what was continued is not the expected file, downloading it from the beginning")
        part.drop()
        _fill(session, url, part, size, known)
        check(part.path)


def _fill(session: requests.Session, url: str, part: _Part, size: int | None, known: bool) -> bool:
    """Let ``part`` grow until it is whole; True if some of its bytes were there before this attempt."""
    tries, longest = 0, part.length()
    while True:
        try:
            return _attempt(session, url, part, size, known)
        except _TryAgain as error:
            if part.length() > longest:
                tries, longest = 0, part.length()
            if tries == len(WAITS):
                kept = f"; {part.length():,} bytes are kept, run again to continue" if part.length() else ""
                raise UserError(f"{url}: {error}, {tries + 1} times{kept}") from None
            if error.wait > LONGEST_WAIT:
                raise UserError(f"{url}: {error}, and asks to come back in {error.wait:,.0f} seconds") from None
            wait = max(WAITS[tries], error.wait)
            _note(f"{url}: {error}; trying again in {wait:g} s")
            time.sleep(wait)
            tries += 1


def _attempt(session: requests.Session, url: str, part: _Part, size: int | None, known: bool) -> bool:
    """Ask once for what is missing, and write it; True if bytes of an earlier attempt stayed."""
    state, offset = part.state(), part.length()
    if state is None or state.url != url or not (state.validator or known):
        state, offset = None, 0
    if state and offset and offset == state.size:
        return True
    headers = {}
    if state and offset:
        headers["Range"] = f"bytes={offset}-"
        if state.validator:
            headers["If-Range"] = state.validator
    try:
        answer = session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.exceptions.SSLError as error:
        raise UserError(f"{url}: no trusted connection: {error}") from None
    except requests.ConnectionError as error:
        through = " through the proxy" if isinstance(error, requests.exceptions.ProxyError) else ""
        raise _TryAgain(f"no connection to {urlsplit(url).netloc}{through}") from None
    except requests.Timeout:
        raise _TryAgain("no answer in time") from None
    with answer:
        _refuse(answer, url)
        start, total = _extent(answer)
        now = _State(url, _validator(answer), total)
        if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or (
            start and (start != offset or not _same_version(state, now))
        ):
            part.drop()
            raise _TryAgain("the file has changed and begins anew")
        if offset and not start:
            _note(f"{url}: the server sends the whole file again")
        if size is not None and total is not None and total != size:
            raise UserError(f"{url}: {total:,} bytes on the server; expected {size:,}: another version of the file")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise UserError(f"{url}: the server compresses the file although it was not asked to")
        if total is None and "chunked" not in answer.headers.get("Transfer-Encoding", ""):
            raise UserError(f"{url}: the server does not say how long the file is: a cut could not be seen")
        try:
            _write(answer, part, start, now, total or size)
        except HTTPError:
            raise _TryAgain("the connection was cut") from None
    return start > 0


def _same_version(before: _State | None, now: _State) -> bool:
    """Whether a part of the file belongs to what is there; what the server does not say is no difference."""
    return before is not None and all(
        None in pair or pair[0] == pair[1] for pair in ((before.validator, now.validator), (before.size, now.size))
    )


def _refuse(answer: requests.Response, url: str) -> None:
    """Raise for an answer without the file: _TryAgain where it may pass."""
    status = answer.status_code
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
        raise _TryAgain(f"HTTP {status} {answer.reason}", _retry_after(answer))
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        raise UserError(f"{url}: HTTP {status} {answer.reason}")
    if status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and _media_type(answer) == "text/html":
        raise UserError(_PAGE.format(url))


_PAGE = "{}: a web page came in place of the file: a page for login, quota or errors"


def _media_type(answer: requests.Response) -> str:
    return answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _retry_after(answer: requests.Response) -> float:
    value = answer.headers.get("Retry-After")
    try:
        return Retry().parse_retry_after(value) if value else 0
    except InvalidHeader:
        return 0


def _validator(answer: requests.Response) -> str | None:
    """What If-Range may hold (RFC 9110, 13.1.5): a strong ETag, else the date of the last change."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified")


def _extent(answer: requests.Response) -> tuple[int, int | None]:
    """First byte of the answer, and bytes of the whole file if the server says them."""
    if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not match:
            raise UserError(f"{answer.url}: a part of the file came that does not say which")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _write(answer: requests.Response, part: _Part, start: int, state: _State, total: int | None) -> None:
    """Write the answer behind the first ``start`` bytes; ``total`` bytes are expected in the end."""
    if total is not None:
        missing, free = total - start, shutil.disk_usage(part.path.parent).free
        if missing > free:
            raise UserError(f"{part.path}: {missing:,} bytes are to come and {free:,} are free on the disk; make room")
    what = part.path.name.removesuffix(".part")
    shown = progress(what, total, "bytes", start=start) if total else nullcontext(lambda _: None)
    with open(part.path, "ab" if start else "wb") as handle, shown as report:
        # After the old bytes are gone, never before: the state always says what the bytes are of.
        write_json(part.state_path, asdict(state))
        done = start
        # Whatever has come is written at once: of a larger piece a cut would lose the beginning.
        while piece := answer.raw.read1(_PIECE, decode_content=False):
            if not done and looks_like(piece[:HEAD]) == HTML:
                raise Damaged(_PAGE.format(answer.url))
            handle.write(piece)
            done += len(piece)
            if total is not None and done > total:
                raise Damaged(f"{answer.url}: more than the expected {total:,} bytes came")
            report(done)
    if total is not None and done < total:
        raise _TryAgain("the connection was cut")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
