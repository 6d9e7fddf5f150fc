"""What MLflow shows of a run, the same live and from its files; and its store. Only opening that imports MLflow."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from transfer.params.read import flat
from transfer.utils.errors import UserError
from transfer.utils.text import public

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Known = frozenset[tuple[str, int]]
Point = tuple[str, float, int, int]
"""A value of a metric: name, value, time in milliseconds since 1970, step."""

# MLflow shows the charts of a run in groups ordered by name; with this prefix the curves come first.
EPOCH = "epoch/"
RUN, RECIPE, FILES, IN_TABLE = "transfer.run", "transfer.recipe", "transfer.files", "transfer.in_table"
"""Our tags: identity of a run, identity of a recipe's run, digest of the synced files, whether the tables use it."""
PER_SPLIT = ("accuracy", "mean_class_accuracy", "macro_f1")
_ENVIRONMENT = ("commit", "python", "system", "cpu", "cores", "device", "precision", "threads", "deployment")
_DIGESTS = ("data_digest", "params_digest", "code_digest")
_PARAM_LENGTH, _TAG_LENGTH = 6000, 8000  # MLflow refuses longer values
_BATCH = 1000  # metrics; a limit of mlflow.utils.validation
_CREATE_SECONDS = 120  # for another process that creates the database
_CONNECT_SECONDS = 5
_NOTE = "A run per recipe with the means over its seeds; below it a run per seed with its curves."

# No telemetry; a store that is down must be noticed soon.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # it logs tracebacks and progress on stderr
}


@dataclass
class View:
    """What MLflow shows of a run in the MLflow experiment ``experiment``; times in milliseconds since 1970."""

    experiment: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    started: int
    status: str = "RUNNING"
    ended: int | None = None
    points: list[Point] = field(default_factory=list)


def new_view(
    *,
    experiment: str,
    dataset: str,
    recipe: str,
    seed: int,
    digest: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    started: int,
) -> View:
    """A run without metrics; ``digest`` covers its data, parameters and code, ``params`` may be nested."""
    tags = {
        RUN: f"{experiment}/{dataset}/{recipe}/seed{seed}@{digest}",
        "dataset": dataset,
        "recipe": recipe,
        "seed": str(seed),
        "mlflow.source.name": "transfer",
        "mlflow.source.type": "LOCAL",
        **{key: str(value)[:_TAG_LENGTH] for key, value in tags.items()},
    }
    texts = {key: str(value)[:_PARAM_LENGTH] for key, value in flat(params).items()}
    return View(f"{experiment}/{dataset}", f"{recipe}/seed{seed}", tags, texts, started)


def environment_tags(env: Mapping[str, Any]) -> dict[str, str]:
    """Commit, hardware, versions, protocols and digests, from env.json."""
    tags = {name: str(env.get(name) or "none") for name in (*_ENVIRONMENT, *_DIGESTS)}
    versions = {name: version for name, version in env.get("packages", {}).items() if name in ("torch", "timm")}
    return tags | versions | {"mlflow.source.git.commit": tags["commit"], "protocols": ",".join(env["protocols"])}


def epoch_metrics(env: Mapping[str, Any]) -> list[dict[str, float]]:
    """Seconds and images per second of each epoch, from env.json, for MLflow's page of system metrics."""
    images = env["training_images_per_epoch"]
    return [
        {"system/epoch_seconds": seconds, "system/images_per_second": round(images / seconds, 1) if seconds else 0.0}
        for seconds in env["seconds_per_epoch"]
    ]


def epoch_points(row: Mapping[str, float], more: Mapping[str, float], time: int) -> list[Point]:
    """A line of history.csv, and ``more``; what has no group gets the group ``epoch``, and NaN is left out."""
    named = {name if "/" in name else EPOCH + name: float(value) for name, value in {**row, **more}.items()}
    epoch = int(named.pop(f"{EPOCH}epoch"))
    return [(name, value, time, epoch) for name, value in named.items() if value == value]


def result_points(results: Mapping[str, Any], time: int) -> list[Point]:
    """Selected epoch and accuracies per protocol, from metrics.json, at step 0, for which MLflow draws bars."""
    values = {}
    for protocol, result in results["protocols"].items():
        values[f"{protocol}/epoch"] = float(result["epoch"])
        for split, numbers in result["splits"].items():
            values |= {f"{protocol}/{split}_{name}": numbers[name] for name in PER_SPLIT}
    return [(name, value, time, 0) for name, value in values.items()]


def open_store() -> "MlflowClient":
    """MLflow's client on the store ``MLFLOW_TRACKING_URI``, or on mlflow.db, which is created if needed.

    Raises UserError for a store that is unreachable, not a database, locked, or made by another version of MLflow.
    """
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    logging.getLogger("alembic").setLevel(logging.CRITICAL)

    import mlflow

    uri = _tracking_uri()
    try:
        if uri.startswith(("http:", "https:")):
            _reach(uri)
        elif "://" in uri:
            _prepare_database(uri)
        return mlflow.MlflowClient(uri)
    except UserError:
        raise
    except Exception as error:  # MLflow, SQLAlchemy and drivers have many types
        advice = "start it, or correct MLFLOW_TRACKING_URI"
        if "is locked" in str(error):
            advice = "another process holds it; wait until it ends"
        raise UserError(f"MLflow's store {public(uri)}: {one_line(error)}; {advice}") from error


@contextlib.contextmanager
def connected() -> "Iterator[MlflowClient]":
    """``open_store``, with UserError for errors of the store within the block."""
    client = open_store()
    from mlflow.exceptions import MlflowException

    try:
        yield client
    except MlflowException as error:
        raise UserError(f"MLflow's store: {one_line(error)}; run the same command again to continue") from error


def _tracking_uri() -> str:
    """MLflow's own setting; a default that it has quoted as a relative path.

    SQLAlchemy does not read quotes: below a folder named a#b it would make another one, a%23b.
    """
    import mlflow

    uri = mlflow.get_tracking_uri()
    if "%" in uri and unquote(uri) == f"sqlite:///{Path('mlflow.db').absolute()}":
        os.environ["MLFLOW_TRACKING_URI"] = uri = "sqlite:///mlflow.db"
    return uri


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _reach(uri: str) -> None:
    import requests

    try:
        response = requests.get(uri.rstrip("/") + "/health", timeout=_CONNECT_SECONDS)
        response.raise_for_status()
    except requests.RequestException as error:
        raise UserError(
            f"MLflow's store {public(uri)} cannot be reached ({type(error).__name__}); start its server, or correct "
            "MLFLOW_TRACKING_URI"
        ) from None


def _prepare_database(uri: str) -> None:
    """Create the database if there is none; raise UserError for tables of another MLflow.

    MLflow creates a database by running all its migrations in place without a lock, so two processes or a kill would
    break it. Here one process at a time does it, and an sqlite file gets its name when complete. MLflow would partly
    upgrade an older database without asking.
    """
    import mlflow
    from alembic.migration import MigrationContext
    from filelock import FileLock, Timeout
    from mlflow.store.db.utils import _get_latest_schema_revision
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    if url.get_backend_name() == "sqlite":
        path, part = Path(str(url.database)), Path(f"{url.database}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{path}.lock", timeout=_CREATE_SECONDS):
                if not path.exists():
                    part.unlink(missing_ok=True)
                    mlflow.MlflowClient(f"sqlite:///{part}")
                    part.rename(path)
        except Timeout:
            raise UserError(
                f"{path}.lock: held by another process for {_CREATE_SECONDS} s; wait until it ends, or end it"
            ) from None
    timeout = {"connect_timeout": _CONNECT_SECONDS} if url.get_backend_name() == "postgresql" else {}
    engine = create_engine(uri, connect_args=timeout)
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    engine.dispose()
    if found not in (None, expected := _get_latest_schema_revision()):
        raise UserError(
            f"{public(uri)}: made by another MLflow (tables {found}; MLflow {mlflow.__version__} has {expected}); "
            f"use the MLflow that made it, or copy it and run: mlflow db upgrade {public(uri)}"
        )


def experiment_id(client: "MlflowClient", name: str) -> str:
    """The id of an experiment, created if needed. Raises UserError if it was deleted in MLflow."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            # Of a plain path MLflow would take %20 in the name of a folder for a blank.
            quoted = "%" in os.getcwd() and _tracking_uri().startswith("sqlite:")
            artifacts = (Path("mlruns") / name).absolute().as_uri() if quoted else None
            return client.create_experiment(name, artifacts, tags={"mlflow.note.content": _NOTE})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
        return experiment_id(client, name)
    if found.lifecycle_stage != "active":
        raise UserError(
            f"MLflow: the experiment {name} was deleted; run: mlflow experiments restore "
            f"--experiment-id {found.experiment_id}"
        )
    return found.experiment_id


def parent_run(client: "MlflowClient", experiment: str, name: str, recipe: str) -> str:
    """The id of a recipe's run, parent of its seeds, in the experiment called ``name``; created if needed.

    If two machines create it at the same time, the earlier one stays and the other is deleted by its creator.
    """
    own, tag = None, f"{name}/{recipe}"
    query, order = f"tags.`{RECIPE}` = '{tag}'", ["attributes.start_time ASC"]
    while not (found := client.search_runs([experiment], query, order_by=order, max_results=50)):
        tags = {RECIPE: tag, "dataset": name.partition("/")[2], "recipe": recipe}
        own = client.create_run(experiment, int(time.time() * 1000), tags, run_name=recipe).info.run_id
        client.set_terminated(own)
    first = min(found, key=lambda run: (run.info.start_time, run.info.run_id)).info.run_id
    if own not in (None, first):
        client.delete_run(own)
    return first


def find_run(client: "MlflowClient", experiment: str, identity: str, query: str = "") -> "Run | None":
    """The latest run with the tag ``identity`` that also matches ``query``."""
    query = " and ".join(filter(None, [f"tags.`{RUN}` = '{identity}'", query]))
    return next(iter(client.search_runs([experiment], query, order_by=["attributes.start_time DESC"])), None)


def logged_points(client: "MlflowClient", run: "Run") -> Known:
    """The (metric, step) pairs of a run; MLflow would store a pair that is logged again a second time."""
    histories = [client.get_metric_history(run.info.run_id, key) for key in run.data.metrics]
    return frozenset((point.key, point.step) for history in histories for point in history)


def log_points(client: "MlflowClient", run_id: str, points: Sequence[Point], known: Known = frozenset()) -> Known:
    """Log the points that are not ``known``, as (metric, step); return the known ones afterwards."""
    from mlflow.entities import Metric

    new = [Metric(*point) for point in {(p[0], p[3]): p for p in points if (p[0], p[3]) not in known}.values()]
    for start in range(0, len(new), _BATCH):
        client.log_batch(run_id, metrics=new[start : start + _BATCH])
    return known | {(metric.key, metric.step) for metric in new}


def log_settings(client: "MlflowClient", run: "Run", params: dict[str, str], tags: dict[str, str]) -> None:
    """Log the ``params`` that ``run`` lacks (logged ones cannot change), and set the ``tags`` that differ."""
    from mlflow.entities import Param, RunTag

    changed = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
    missing = [Param(key, value) for key, value in params.items() if key not in run.data.params]
    if changed or missing:
        client.log_batch(run.info.run_id, params=missing, tags=changed)
