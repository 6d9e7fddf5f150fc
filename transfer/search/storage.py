"""Where studies are kept: a journal file, sqlite or PostgreSQL; and the locks that belong to each.

A lock is freed when its process ends, however it ends: this is how a worker that was killed is told from one that
works. Optuna's heartbeat is not used for that: it fails trials that are alive but slow.
"""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from transfer.layout import Layout
from transfer.params import Params
from transfer.utils.errors import UserError

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_WAIT = 0.05  # seconds between two attempts at a lock
_SQLITE_SECONDS = 100  # for the writing of others


class Store:
    """A storage by its ``url``, or the path of its journal; ``shown`` is its name without a password."""

    def __init__(self, url: str) -> None:
        self.journal = None if "://" in url else Path(url).absolute()
        self.url = url
        self.shown = url if self.journal else make_url(url).render_as_string(hide_password=True)

    def open(self) -> BaseStorage:
        """Optuna's storage, made if there is none. Raises UserError: not reachable, of another version, damaged."""
        with self.errors():
            if self.journal:
                return self._open_journal(self.journal)
            if self.file:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                return RDBStorage(self.url, engine_kwargs={"connect_args": {"timeout": _SQLITE_SECONDS}})
            return RDBStorage(self.url, engine_kwargs={"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}})

    def _open_journal(self, path: Path) -> JournalStorage:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The path is absolute: Optuna's lock is a link to it, and is never given up as stale if it leads nowhere.
        lock = JournalFileSymlinkLock(str(path))
        try:
            return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        except (ValueError, LookupError, TypeError):
            advice = "not a journal of Optuna, or damaged; repair it, put it aside, or name another search_storage"
            raise UserError(f"search_storage {self.shown}: {advice}") from None

    @property
    def file(self) -> Path | None:
        """The file of a journal or a sqlite database."""
        if self.journal or not self.url.startswith("sqlite:"):
            return self.journal
        return Path(make_url(self.url).database or "").absolute()

    def lock(self, study: str, name: str) -> "FileLock | AdvisoryLock":
        """The lock ``name`` of a study: beside the storage's file, or in the PostgreSQL server."""
        if self.file:
            return FileLock(Path(f"{self.file}.locks") / study / name)
        return AdvisoryLock(self, f"{study}/{name}")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what a storage raises into a UserError of one line."""
        try:
            yield
        except ImportError:
            advice = "its driver is not installed; pip install psycopg2-binary"
            raise UserError(f"search_storage {self.shown}: {advice}") from None
        except (OSError, SQLAlchemyError, StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
            reason = str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0]
            wait = "another process holds it; wait until it ends, or end it"
            advice = wait if "database is locked" in reason else "make it usable"
            advice += ", then start again: finished trials stay, unfinished ones continue"
            raise UserError(f"search_storage {self.shown}: {reason}; {advice}") from None
        except RuntimeError as error:
            if "table schema" not in str(error):
                raise
            import optuna

            if "storage upgrade" in str(error):
                made, advice = "an older", "make a copy of it, then run: optuna storage upgrade --storage URL"
            else:
                made, advice = "a newer", "use the Optuna that made it"
            than = f"made by {made} Optuna than the installed {optuna.__version__}"
            raise UserError(f"search_storage {self.shown}: {than}; {advice}; or name another search_storage") from None


def store_of(params: Params, layout: Layout) -> Store:
    """The storage that ``params`` name, with the environment's values in it. Raises UserError for one that is not set.

    A value inside a URL is quoted, so that a password may hold any sign; a variable that is the whole URL is not.
    """
    named = params.search_storage
    whole = _VARIABLE.fullmatch(named) is not None

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UserError(f"search_storage: the environment variable {match[1]} is not set; {named} needs it")
        return os.environ[match[1]] if whole else quote(os.environ[match[1]], safe="")

    url = _VARIABLE.sub(value, named)
    if url == "journal":
        return Store(str(layout.journal))
    if not re.match(r"sqlite:///.|postgresql(\+\w+)?://.", url):
        raise UserError(f"search_storage: {named} is neither sqlite:///FILE nor postgresql://USER@HOST/DATABASE")
    return Store(url)


class FileLock:
    """A lock on a file, also between the nodes of a shared file system that knows flock."""

    def __init__(self, path: Path) -> None:
        self.path, self._handle = path, None
        self.shown = str(path)

    def acquire(self, seconds: float) -> bool:
        """Take the lock, waiting for ``seconds`` at most; whether it was got."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = open(self.path, "w")  # noqa: SIM115  it is held
        if _until(seconds, self._try):
            return True
        self.release()
        return False

    def _try(self) -> bool:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give it back; the file stays, since removing it would let two processes lock two files of one name."""
        self._handle.close()


class AdvisoryLock:
    """A lock in a PostgreSQL server, which belongs to a connection and ends with it."""

    def __init__(self, store: Store, name: str) -> None:
        self._url, self._connection = store.url, None
        self._key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        self.shown = f"{name} in {store.shown}"

    def acquire(self, seconds: float) -> bool:
        """Take the lock, waiting for ``seconds`` at most; whether it was got."""
        timeout = {"connect_timeout": 10}
        engine = sqlalchemy.create_engine(self._url, poolclass=sqlalchemy.NullPool, connect_args=timeout)
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        # A node that lost its power must not hold the lock for the hours that TCP would wait for it.
        self._execute("SET tcp_keepalives_idle = 30")
        if _until(seconds, lambda: self._execute(f"SELECT pg_try_advisory_lock({self._key})").scalar()):
            return True
        self.release()
        return False

    def _execute(self, statement: str) -> Any:
        return self._connection.execute(sqlalchemy.text(statement))

    def release(self) -> None:
        """Give it back."""
        self._connection.close()


def _until(seconds: float, attempt: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not attempt():
        if time.monotonic() >= end:
            return False
        time.sleep(_WAIT)
    return True
