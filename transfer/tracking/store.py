"""MLflow's store: opened with one clear line where that cannot be, and the few things that all parts ask of it.

Importing this module imports nothing of MLflow; opening the store does.
"""

import contextlib
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from transfer.tracking.views import experiment_tags
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARAMS_PER_BATCH, METRICS_PER_BATCH = 100, 1000  # limits of mlflow.utils.validation

_LOCK_SECONDS = 120
_STALLED_SECONDS = 10  # between two of MLflow's migrations, on a busy machine
_SQLITE_SECONDS = 20  # for another process's writing
_CONNECT_SECONDS = 5
_ADVISORY_LOCK = 0x7A5FE2  # any number, the same for all that open one PostgreSQL

# A local store has no reason to report its use; a store that is not there has to be noticed within a training.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def open_store(seconds: float = _CONNECT_SECONDS) -> "MlflowClient":
    """MLflow's client on the store that ``MLFLOW_TRACKING_URI`` names, or on mlflow.db; makes the database if needed.

    Waits at most ``seconds`` for a server. Raises UserError, one line: not reachable, no database, locked, made by
    another version of MLflow.
    """
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it logs tracebacks and progress on stderr
    logging.getLogger("alembic").setLevel(logging.CRITICAL)

    import mlflow

    uri = mlflow.get_tracking_uri()
    try:
        if uri.startswith("sqlite:"):
            _prepare_sqlite(uri)
        elif uri.startswith(("http:", "https:")):
            _reach(uri, seconds)
        elif uri.split(":")[0].split("+")[0] in ("postgresql", "mysql", "mssql"):
            with _prepared_server(uri, seconds):
                return mlflow.MlflowClient(uri)
        return mlflow.MlflowClient(uri)
    except UserError:
        raise
    except Exception as error:  # whatever it is, the user has to be told in one line
        advice = ": another process holds it; wait until it ends, or end it" if "is locked" in str(error) else ""
        raise UserError(f"MLflow's store {public(uri)}: {one_line(error)}{advice}") from error


def open_existing() -> "MlflowClient | None":
    """The same, but None where there is no database yet: looking makes none. Raises UserError."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return None
    return open_store()


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def public(uri: str) -> str:
    """``uri`` without its password."""
    from sqlalchemy.engine import make_url

    try:
        return make_url(uri).render_as_string(hide_password=True)
    except Exception:  # not of that form: a folder
        return uri


def local_path(uri: str) -> Path | None:
    """The folder that ``uri`` is on this machine; None where it is somewhere else."""
    parsed = urlparse(uri)
    return Path(unquote(parsed.path)) if parsed.scheme in ("", "file") else None


def _prepare_sqlite(uri: str) -> None:
    """Make the database if there is none.

    MLflow makes a database by running all its migrations, in place and unlocked: two processes at that break it, and so
    does a kill. Here one process at a time opens the store, and a new database gets its name when it is whole.
    """
    import mlflow
    from filelock import FileLock, Timeout
    from sqlalchemy.engine import make_url

    path, part = Path(make_url(uri).database), Path(make_url(uri).database + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=_LOCK_SECONDS):
            if not path.exists():
                part.unlink(missing_ok=True)
                mlflow.MlflowClient(f"sqlite:///{part}")
                if not path.exists():
                    part.rename(path)
                part.unlink(missing_ok=True)
            _refuse_other_schema(_wait_for_migrations(path), f"{path}", uri)
    except Timeout:
        raise UserError(
            f"{path}.lock: held by another process for {_LOCK_SECONDS} s; wait until it ends, or end it"
        ) from None


def _wait_for_migrations(path: Path) -> str | None:
    """The version of the database's tables, None where there are none yet.

    Waits while an ``mlflow ui`` that has just been started makes the database, as long as that gets on; MLflow itself
    would start to make it a second time. Raises sqlite3.DatabaseError at once if the file is no database, which MLflow
    would try to open for minutes.
    """
    from mlflow.store.db.utils import _get_latest_schema_revision

    head, before, since = _get_latest_schema_revision(), None, time.monotonic()
    with contextlib.closing(sqlite3.connect(path, timeout=_SQLITE_SECONDS)) as connection:
        while True:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            row = ("alembic_version",) in tables and connection.execute("SELECT * FROM alembic_version").fetchone()
            version = row[0] if row else None
            whole = version == head or not tables or (version and not _known(version))
            if whole or time.monotonic() - since > _STALLED_SECONDS:
                return version
            if (tables, version) != before:
                before, since = (tables, version), time.monotonic()
            time.sleep(0.1)


def _known(version: str) -> bool:
    """Whether the installed MLflow has a migration of this name."""
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store.db.utils import _get_alembic_config

    try:
        return ScriptDirectory.from_config(_get_alembic_config("")).get_revision(version) is not None
    except CommandError:
        return False


def _refuse_other_schema(version: str | None, name: str, uri: str) -> None:
    """Raise UserError for tables of another MLflow, which would be upgraded, or used wrongly, without a question."""
    import mlflow
    from mlflow.store.db.utils import _get_latest_schema_revision

    if version in (None, _get_latest_schema_revision()):
        return
    if _known(version):
        raise UserError(
            f"{name}: made by an older MLflow (tables {version}) than the installed {mlflow.__version__}; make a copy "
            f"of it, then run: mlflow db upgrade {public(uri)}"
        )
    raise UserError(
        f"{name}: made by a newer MLflow (tables {version}) than the installed {mlflow.__version__}; use the MLflow "
        "that made it, or name another store in MLFLOW_TRACKING_URI"
    )


def _reach(uri: str, seconds: float) -> None:
    import requests

    try:
        response = requests.get(uri.rstrip("/") + "/health", timeout=seconds)
    except requests.RequestException as error:
        raise UserError(
            f"MLflow's store {public(uri)} cannot be reached ({type(error).__name__}); start its server, or correct "
            "MLFLOW_TRACKING_URI"
        ) from None
    if response.status_code >= 500:
        raise UserError(
            f"MLflow's store {public(uri)} answers {response.status_code} {response.reason}; look at its log"
        )


@contextlib.contextmanager
def _prepared_server(uri: str, seconds: float) -> Iterator[None]:
    """While one process at a time opens a database server: the tables are looked at, and perhaps made, under a lock."""
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    postgres = uri.startswith("postgresql")
    arguments = {"connect_timeout": max(1, round(seconds))} if postgres else {}
    engine = create_engine(uri, connect_args=arguments)
    try:
        with engine.connect() as connection:
            if postgres:  # two machines at the migrations of one empty database break it
                connection.execute(text(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})"))
            _refuse_other_schema(MigrationContext.configure(connection).get_current_revision(), public(uri), uri)
            connection.commit()  # ends the transaction, which the migrations would wait for; the lock stays
            yield
    except SQLAlchemyError as error:
        raise UserError(
            f"MLflow's store {public(uri)} cannot be used: {one_line(error)}; start its server, or correct "
            "MLFLOW_TRACKING_URI"
        ) from None
    finally:
        engine.dispose()


def experiment_id(client: "MlflowClient", name: str) -> str:
    """The id of an experiment, which is made if there is none. Raises UserError if it was deleted in MLflow."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, tags=experiment_tags(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
        found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise UserError(
            f"MLflow: the experiment {name} was deleted there; run: mlflow experiments restore "
            f"--experiment-id {found.experiment_id}"
        )
    return found.experiment_id


def parent_run(client: "MlflowClient", experiment: str, name: str, recipe: str) -> str:
    """The id of the run that stands for a recipe, the parent of its seeds; ``name`` is that of the experiment.

    Two processes may make it at the same time: the earliest stays, and the one that sees another takes its own away.
    """
    own = None
    while True:
        query = f"tags.`transfer.recipe` = '{name}/{recipe}'"
        found = client.search_runs([experiment], query, order_by=["attributes.start_time ASC"], max_results=50)
        if found:
            first = min(found, key=lambda run: (run.info.start_time, run.info.run_id)).info.run_id
            if own not in (None, first):
                client.delete_run(own)
            return first
        tags = {"transfer.recipe": f"{name}/{recipe}", "dataset": name.partition("/")[2], "recipe": recipe}
        own = client.create_run(experiment, int(time.time() * 1000), tags, run_name=recipe).info.run_id


def all_runs(client: "MlflowClient", experiment: str, query: str = "") -> "Iterator[Run]":
    """Every active run of an experiment that ``query`` finds, the latest first."""
    order = ["attributes.start_time DESC"]
    return every_page(client.search_runs, [experiment], query, order_by=order, max_results=1000)


def every_page(search: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """What a search of MLflow's client finds, page after page."""
    token = None
    while True:
        page = search(*arguments, page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return


def logged_points(client: "MlflowClient", run: "Run") -> set[tuple[str, int]]:
    """The (metric, step) pairs that a run has. MLflow's own key contains time and value: twice would be two points."""
    return {(key, point.step) for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)}


def log_points(client: "MlflowClient", run_id: str, points: Iterable[tuple[str, float, int, int]]) -> None:
    """Log metrics: (name, value, time in milliseconds, step)."""
    from mlflow.entities import Metric

    for batch in batches([Metric(*point) for point in points], METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=batch)


def log_settings(client: "MlflowClient", run: "Run", params: dict[str, str], tags: dict[str, str]) -> None:
    """Log what ``run`` lacks of ``params``, which cannot be changed, and set those ``tags`` that differ."""
    from mlflow.entities import Param, RunTag

    # Tags first and alone: they are few, and params may need several batches.
    changed = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
    if changed:
        client.log_batch(run.info.run_id, tags=changed)
    missing = [Param(key, value) for key, value in params.items() if key not in run.data.params]
    for batch in batches(missing, PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=batch)


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """``items`` in lists of at most ``size``."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
