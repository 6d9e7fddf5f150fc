"""The run's side of the live view: what MLflow shall show of it, appended to a spool file, without access to the store.

One writer process per machine (:mod:`transfer.tracking.writer`) reads the spool files and talks to MLflow, so that the
seconds of importing MLflow are spent once for all runs, trouble with the store never reaches a run, and a killed run's
last words are still shown. Locks are the kernel's (flock): they end with their process, however it ends.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.tracking.store import environment_tags, epoch_metrics, epoch_points, new_view, result_points
from transfer.training.listeners import Listener, Status
from transfer.utils.errors import UserError
from transfer.utils.locks import locked
from transfer.utils.text import printable

if TYPE_CHECKING:
    from transfer.training.state import Run

VIEWS, PROBLEM, LOCK = ".jsonl", "problem.txt", "writer.lock"
_ROOT = Path(__file__).resolve().parents[2]


class MlflowListener(Listener):
    """Shows a run under ``dataset`` and ``recipe`` (default: its own) while it trains."""

    def __init__(self, dataset: str | None = None, recipe: str | None = None) -> None:
        self.dataset, self.recipe = dataset, recipe

    def on_start(self, run: "Run") -> None:
        """Begin or continue the run in MLflow."""
        from transfer.training.outputs import run_environment

        self.run = run
        self.tracking = Tracking(
            experiment=run.params.experiment,
            dataset=self.dataset or run.dataset,
            recipe=self.recipe or run.recipe,
            seed=run.seed,
            digest=run.digest,
            params=run.settings.model_dump(mode="json"),
            tags=environment_tags(run_environment(run)),
            history=run.history,
        )

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Show the metrics of an epoch."""
        from transfer.training.outputs import epoch_times

        self.tracking.log_epoch(row, epoch_metrics(epoch_times(self.run))[-1])

    def on_end(self, status: Status) -> None:
        """End the run in MLflow, with the accuracies of its outputs if it has any; leave a stopped run open."""
        written = status == "FINISHED" and (self.run.directory / "env.json").exists()
        if status == "STOPPED":
            self.tracking.leave()
        else:
            self.tracking.finish(status, self.run.directory if written else None)


class Tracking:
    """The run <recipe>/seed<seed> of the MLflow experiment <experiment>/<dataset>, a child of the run <recipe>.

    An unfinished run of the same names and ``digest`` (of data, parameters and code) is continued; ``history`` holds
    the epochs so far, lines of history.csv. Nothing here raises or waits, whatever happens to the store; if it cannot
    be used, one line on stderr says so.
    """

    def __init__(self, *, history: Sequence[Mapping[str, float]] = (), **run: Any) -> None:
        self._view = new_view(**run, started=_now())
        for row in history:
            self._view.points += epoch_points(row, {}, self._view.started)
        self._file: Path | None = None
        self._complained = False
        try:
            self._open()
        except OSError as error:
            self._give_up(error)

    def log_epoch(self, row: Mapping[str, float], more: Mapping[str, float] = {}) -> None:
        """Show a line of history.csv, and ``more`` of the epoch, once its state is saved."""
        self._view.points += epoch_points(row, more, _now())
        self._send()

    def finish(self, status: str = "FINISHED", run_dir: Path | None = None) -> None:
        """End the run as "FINISHED", "FAILED" or "KILLED"; show the accuracies in ``run_dir``/predictions.parquet."""
        from transfer.runs.metrics import run_metrics
        from transfer.runs.predictions import read_columns

        self._view.status, self._view.ended = status, _now()
        try:
            if run_dir is not None:
                predictions = read_columns(run_dir / "predictions.parquet")
                self._view.points += result_points(run_metrics(predictions), self._view.ended)
            self._send()
        except UserError as error:  # deleted meanwhile
            self._give_up(error)
        self.leave()

    def leave(self) -> None:
        """Leave a run that will be continued: MLflow shows it as KILLED until then."""
        if self._file is not None:
            os.close(self._handle)
            self._file = None

    def _open(self) -> None:
        file = spool_folder() / f"{uuid.uuid4().hex}{VIEWS}"
        # Under another name until it is locked and has its first line: an unlocked file is that of a killed run.
        hidden = file.with_suffix(".new")
        self._handle = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._file = file
        locked(self._handle)
        self._write()
        hidden.rename(file)
        ensure_writer(file.parent)

    def _send(self) -> None:
        if self._file is None:
            return
        try:
            self._write()
            ensure_writer(self._file.parent)
            if problem := read_problem(self._file.parent):
                self._complain(problem)
        except OSError as error:  # a full disk; the run's own files report it better
            self._give_up(error)

    def _write(self) -> None:
        line = json.dumps(asdict(self._view)).encode() + b"\n"
        while line:
            line = line[os.write(self._handle, line) :]

    def _give_up(self, error: Exception) -> None:
        self._complain(str(error))
        self.leave()

    def _complain(self, reason: str) -> None:
        if not self._complained:
            self._complained = True
            advice = "the run's files are complete without it; show it later: transfer track sync"
            print(
                f"MLflow does not show this run: {printable(' '.join(reason.split())[:300])} ({advice})",
                file=sys.stderr,
            )


def spool_folder() -> Path:
    """Folder for this user, working directory and store; not in results/, which the machines of a cluster share.

    Raises OSError.
    """
    key = json.dumps([os.getcwd(), os.environ.get("MLFLOW_TRACKING_URI")])
    own = Path(tempfile.gettempdir()) / f"transfer-mlflow-{os.getuid()}"
    folder = own / hashlib.sha256(key.encode()).hexdigest()[:16]
    for path in (own, folder):
        path.mkdir(mode=0o700, exist_ok=True)
    if own.stat().st_uid != os.getuid():
        raise PermissionError(f"{own} belongs to another user")
    return folder


def read_problem(folder: Path) -> str:
    """Why the writer cannot use the store at present; empty if it can."""
    try:
        return (folder / PROBLEM).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def ensure_writer(folder: Path) -> None:
    """Start a writer unless one is alive. Call it after writing a message: a writer about to end then still sees it."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if locked(handle):  # the writer inherits the lock, so that no second one starts meanwhile
            # -P: no module of the working directory may shadow one that MLflow imports. A new session: a signal to the
            # run's process group must not reach a writer that other runs use too.
            path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", "transfer.tracking.writer", str(folder), str(handle)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[handle],
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            )
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(process.pid).encode(), 0)  # for information only
    finally:
        os.close(handle)


def settle(seconds: float = 60) -> None:
    """Wait until the writer has shown all runs that have ended, so that a sync does not race with it."""
    end = time.monotonic() + seconds
    folder = spool_folder()
    while time.monotonic() < end and any(_has_ended(file) for file in folder.glob(f"*{VIEWS}")):
        ensure_writer(folder)
        time.sleep(0.1)


def _has_ended(file: Path) -> bool:
    try:
        with open(file) as handle:
            return locked(handle.fileno())
    except FileNotFoundError:  # done meanwhile
        return False


def _now() -> int:
    return int(time.time() * 1000)
