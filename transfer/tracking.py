"""Live view of a training in MLflow; the files of the run directory are the truth, this is a view of them.

MLflow is spoken to by a small process of its own (this file run as a script), fed with JSON lines through a pipe:

- importing MLflow costs a second of Python, which in a thread would compete with the training for the interpreter lock;
- a training that is killed leaves nothing behind in the pipe: the writer drains it and marks the run KILLED;
- nothing that happens to the store can reach the training.

The store is the one that MLflow itself finds: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory with
the artifacts in ``mlruns/`` beside it, which is also what a plain ``mlflow ui`` typed there shows.
"""

import contextlib
import itertools
import json
import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Limits of mlflow.utils.validation; longer values are refused or cut with a warning, depending on MLflow's settings.
_PARAM_LENGTH, _TAG_LENGTH = 6000, 8000
_PARAMS_PER_BATCH, _METRICS_PER_BATCH = 100, 1000

# finish() waits this long for a slow store. A training has seconds to minutes for what a healthy store does in one.
_FLUSH_SECONDS = 120
_STALLED_SECONDS = 10  # between two of MLflow's migrations, on a busy machine
_FAILED = 3  # exit status of a writer that has already said why


class Tracking:
    """One training in MLflow; made by :meth:`start`. No method waits for the store, except :meth:`finish`.

    If the store cannot be used, one line is printed on stderr and all methods do nothing from then on.
    """

    def __init__(self, writer: "subprocess.Popen[bytes] | None") -> None:
        self._writer = writer
        self._unsent = bytearray()
        self._answer = b""

    @classmethod
    def start(
        cls,
        *,
        experiment: str,
        dataset: str,
        recipe: str,
        seed: int,
        digest: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        resume_run_id: str | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        enabled: bool = True,
    ) -> "Tracking":
        """Begin, or continue, the run ``<recipe>/seed<seed>`` of the MLflow experiment ``<experiment>/<dataset>``.

        ``digest`` stands for all that decides whether a checkpoint may be continued (data, parameters, code). A
        training that resumes passes ``history``, the epochs so far (each with ``epoch``, 1-based, and its metrics,
        all numbers): the run with ``resume_run_id``, or else the latest unfinished one of the same training and
        digest, is continued, and gets those epochs that it lacks. Nested ``params`` become dotted names.
        """
        if not enabled:
            return cls(None)
        message = {
            "experiment": f"{experiment}/{dataset}",
            "name": f"{recipe}/seed{seed}",
            "tags": {"transfer.run": f"{experiment}/{dataset}/{recipe}/seed{seed}@{digest}"}
            | {key: str(value)[:_TAG_LENGTH] for key, value in tags.items()},
            "params": {key: str(value)[:_PARAM_LENGTH] for key, value in _flatten(params)},
            "run_id": resume_run_id,
            "history": [{key: float(value) for key, value in row.items()} for row in history],
            "time": _now(),
        }
        try:
            # -P: the folder of this file holds modules named like packages that MLflow looks for (datasets, models).
            # A session of its own: a signal to the training's process group must not keep the writer from draining.
            writer = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            # Blocking, since a long history is larger than a pipe: the writer reads this line before it imports MLflow.
            with contextlib.suppress(BrokenPipeError):
                writer.stdin.write(_line(message))
                writer.stdin.flush()
        except OSError as error:
            _complain(error)
            return cls(None)
        os.set_blocking(writer.stdin.fileno(), False)
        os.set_blocking(writer.stdout.fileno(), False)
        return cls(writer)

    @property
    def run_id(self) -> str | None:
        """The MLflow run id; None until the store has given one, some two seconds after :meth:`start`."""
        if self._writer and b"\n" not in self._answer:
            with contextlib.suppress(BlockingIOError):
                self._answer += os.read(self._writer.stdout.fileno(), 4096)
        return self._answer.decode().strip() if b"\n" in self._answer else None

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of one epoch (1-based; it is MLflow's step).

        Call it after the checkpoint of this epoch is written: an epoch that the store has is not logged a second time.
        """
        self._send({"epoch": epoch, "metrics": {k: float(v) for k, v in metrics.items()}, "time": _now()})

    def log_artifact(self, path: str | os.PathLike) -> None:
        """Copy a file to the run's artifacts; it has to stay where it is until :meth:`finish` returns."""
        self._send({"artifact": os.path.abspath(path)})

    def log_results(self, run_dir: Path, folder: Path, **identity: Any) -> None:
        """Show what ``transfer evaluate`` says of a finished training: its metrics.json, and accuracies by protocol.

        ``identity`` is that of :func:`transfer.evaluation.metrics.evaluate`; the copy lies in ``folder``, which has to
        stay until :meth:`finish` returns.
        """
        if self._writer is None:
            return
        from transfer.evaluation.metrics import evaluate

        for protocol, result in evaluate(run_dir, folder=folder, **identity)["protocols"].items():
            shown = {
                f"{protocol}/{split}_{name}": values[name]
                for split, values in result["splits"].items()
                for name in ("accuracy", "mean_class_accuracy", "macro_f1")
            }
            self.log_epoch(result["epoch"], shown)
        self.log_artifact(folder / "metrics.json")

    def finish(self, status: str = "FINISHED") -> None:
        """End the run as "FINISHED", "FAILED" or "KILLED"; wait (at most two minutes) for the store."""
        self._send({"finish": status, "time": _now()})
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            self._answer += writer.communicate(bytes(self._unsent), timeout=_FLUSH_SECONDS)[0] or b""
        except subprocess.TimeoutExpired:
            writer.kill()
            writer.communicate()
            _complain(f"the store did not answer within {_FLUSH_SECONDS} s")
        else:
            if writer.returncode not in (0, _FAILED):
                _complain(f"its writer ended with status {writer.returncode}")

    def _send(self, message: dict[str, Any]) -> None:
        """Put a message in the pipe; what a full pipe does not take waits for the next message, never the training."""
        if self._writer is None:
            return
        self._unsent += _line(message)
        # A writer that has gone has told why, or finish() tells.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            del self._unsent[: os.write(self._writer.stdin.fileno(), self._unsent)]


def _now() -> int:
    return int(time.time() * 1000)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _complain(reason: object) -> None:
    text = " ".join(str(reason).split()) or type(reason).__name__
    print(f"MLflow does not show this training: {text[:300]} (its files are complete without)", file=sys.stderr)


def _flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# --- The writer process ---


def _write(messages: Iterable[bytes]) -> None:
    """Do in MLflow what the training says, message by message."""
    messages = (json.loads(line) for line in messages if line.endswith(b"\n"))
    start = next(messages, None)
    if start is None:
        return

    # A local store has no reason to report its use; a store that is not there has to be noticed within a training.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    from mlflow.entities import Metric, Param, RunTag

    client = _client()
    experiment_id = _experiment(client, start["experiment"])
    run = _unfinished(client, experiment_id, start) if start["run_id"] or start["history"] else None
    if run is None:
        run = client.create_run(experiment_id, start["time"], run_name=start["name"])
    else:
        client.update_run(run.info.run_id, status="RUNNING")
    run_id = run.info.run_id
    with contextlib.suppress(BrokenPipeError):  # the training may have been killed meanwhile
        os.write(1, f"{run_id}\n".encode())

    # Tags first and alone: they are few, and params may need several batches.
    client.log_batch(run_id, tags=[RunTag(*tag) for tag in start["tags"].items()])
    params = [Param(*param) for param in start["params"].items() if param[0] not in run.data.params]
    for batch in _batches(params, _PARAMS_PER_BATCH):
        client.log_batch(run_id, params=batch)

    # The store's key of a metric contains the time and the value: an epoch logged twice would show as two points.
    known = {(key, m.step) for key in run.data.metrics for m in client.get_metric_history(run_id, key)}

    def log(epochs: Iterable[tuple[int, dict[str, float], int]]) -> None:
        points = ((key, value, when, epoch) for epoch, metrics, when in epochs for key, value in metrics.items())
        new = [Metric(*point) for point in points if (point[0], point[3]) not in known]
        for batch in _batches(new, _METRICS_PER_BATCH):
            client.log_batch(run_id, metrics=batch)

    log((int(row.pop("epoch")), row, start["time"]) for row in start["history"])
    for message in messages:
        if "epoch" in message:
            log([(message["epoch"], message["metrics"], message["time"])])
        elif "artifact" in message:
            client.log_artifact(run_id, message["artifact"])
        else:
            client.set_terminated(run_id, message["finish"], message["time"])
            return
    client.set_terminated(run_id, "KILLED")


def _client() -> "MlflowClient":  # noqa: F821
    """MLflow's client on the store; makes the database if there is none.

    MLflow makes a database by running all its migrations, in place and unlocked: two processes at that break it, and so
    does a kill. Here one training at a time opens the store, and a new database gets its name when it is whole.
    """
    import mlflow
    from filelock import FileLock
    from sqlalchemy.engine import make_url

    uri = mlflow.get_tracking_uri()
    if not uri.startswith("sqlite:"):
        return mlflow.MlflowClient(uri)
    path, part = Path(make_url(uri).database), Path(make_url(uri).database + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=_FLUSH_SECONDS):
        if not path.exists():
            part.unlink(missing_ok=True)
            mlflow.MlflowClient(f"sqlite:///{part}")
            if not path.exists():
                part.rename(path)
            part.unlink(missing_ok=True)
        _wait_for_migrations(path)
        return mlflow.MlflowClient(uri)


def _wait_for_migrations(path: Path) -> None:
    """Wait while an ``mlflow ui`` that has just been started makes the database, as long as that gets on.

    MLflow itself would start to make it a second time. Raises sqlite3.DatabaseError at once if the file is no database,
    which MLflow would try to open for minutes.
    """
    from mlflow.store.db.utils import _get_latest_schema_revision

    head, before, since = _get_latest_schema_revision(), None, time.monotonic()
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection:
        while time.monotonic() - since < _STALLED_SECONDS:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            at = ("alembic_version",) in tables and connection.execute("SELECT * FROM alembic_version").fetchone()
            if at == (head,):
                return
            if (tables, at) != before:
                before, since = (tables, at), time.monotonic()
            time.sleep(0.1)


def _experiment(client: "MlflowClient", name: str) -> str:  # noqa: F821
    from mlflow.exceptions import MlflowException

    if not client.get_experiment_by_name(name):
        try:
            return client.create_experiment(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another training was faster
                raise
    return client.get_experiment_by_name(name).experiment_id


def _unfinished(client: "MlflowClient", experiment_id: str, start: dict[str, Any]) -> "Run | None":  # noqa: F821
    from mlflow.exceptions import MlflowException

    if start["run_id"]:
        try:
            run = client.get_run(start["run_id"])
            if run.info.lifecycle_stage == "active":
                return run
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    found = client.search_runs(
        [experiment_id],
        f"tags.`transfer.run` = '{start['tags']['transfer.run']}' and attributes.status != 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return found[0] if found else None


def _batches(items: list, size: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def _main() -> int:
    logging.disable()  # MLflow logs tracebacks and progress on stderr, which belongs to the training
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the training reads the run id there, and MLflow prints addresses
    try:
        _write(sys.stdin.buffer)
    except Exception as error:  # whatever it is, the training has to be told in one line
        _complain(error)
        return _FAILED
    return 0


if __name__ == "__main__":
    sys.exit(_main())
