"""Where studies are stored: a journal file, SQLite or PostgreSQL."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from transfer.layout import Layout
from transfer.params import Params
from transfer.utils.errors import UserError

warnings.simplefilter("ignore", ExperimentalWarning)  # of heartbeats, retries and samplers

HEARTBEAT = 60
"""Seconds between a database's signs of life of a running trial; without one for twice as long it is retried."""

retry = RetryHeartbeatStaleTrialCallback()
"""Queues the values of a failed trial again."""


def storage_url(params: Params, layout: Layout) -> str:
    """The URL, or the path of the journal, that ``search_storage`` names. Raises UserError for a variable not set.

    A variable that is a part of the URL is quoted: a password may hold any character.
    """
    named = params.search_storage

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise UserError(f"search_storage: {named} needs the environment variable {found[1]}; set it")
        return os.environ[found[1]] if found[0] == named else quote(os.environ[found[1]], safe="")

    url = re.sub(r"\$\{(\w+)\}", value, named)
    if url == "journal":
        return str(layout.journal.absolute())  # Optuna's lock is a link to it, stale only where the link leads to it
    if not re.match(r"sqlite:///.|postgresql(\+\w+)?://.", url):
        raise UserError(f"search_storage: {named} is neither sqlite:///FILE nor postgresql://USER@HOST/DATABASE")
    return url


def shown(url: str) -> str:
    """``url`` without its password."""
    return make_url(url).render_as_string(hide_password=True) if "://" in url else url


def open_storage(url: str) -> BaseStorage:
    """Optuna's storage, created if there is none. Raises UserError: unreachable, of another Optuna, damaged."""
    path = make_url(url).database if url.startswith("sqlite:") else None if "://" in url else url
    options = {"timeout": 100} if path else {"connect_timeout": 10}
    try:
        if path:
            Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
        if "://" not in url:
            return JournalStorage(JournalFileBackend(url))
        engine = {"pool_pre_ping": True, "connect_args": options}
        return RDBStorage(url, engine, heartbeat_interval=HEARTBEAT, heartbeat_stale_trial_callback=retry)
    except (ImportError, OSError, RuntimeError, ValueError, LookupError, TypeError, SQLAlchemyError) as error:
        # RuntimeError: tables of another version. ValueError, LookupError, TypeError: a damaged journal.
        raise _unusable(url, error) from None


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn the errors of a database that is lost in the middle into a UserError."""
    try:
        yield
    except Exception as error:
        # Optuna 5.0 raises an UnboundLocalError where it cannot even note that a trial failed.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, StorageInternalError | SQLAlchemyError):
            cause = cause.__context__
        if cause is None:
            raise
        raise _unusable(url, cause) from None


def _unusable(url: str, error: BaseException) -> UserError:
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    reason = str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0]
    return UserError(
        f"search_storage {shown(url)}: cannot be used ({reason}); repair it, then run the same command again, or "
        "choose another search_storage"
    )
