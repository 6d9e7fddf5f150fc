"""The run's side of the live view: messages appended to a spool file, without access to the store.

One writer process per machine (:mod:`transfer.tracking.writer`) reads the spool files and talks to MLflow, so that the
seconds of importing MLflow are spent once for all runs, trouble with the store never reaches a run, and a killed run's
messages are still shown. Locks are the kernel's (flock): they end with their process, however it ends.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.tracking.names import identity_tags, param_texts, tag_texts
from transfer.utils.text import printable

MESSAGES, PROBLEM, LOCK = ".jsonl", "problem.txt", "writer.lock"
_ROOT = Path(__file__).resolve().parents[2]


class Tracking:
    """The run <recipe>/seed<seed> of the MLflow experiment <experiment>/<dataset>, a child of the run <recipe>.

    An unfinished run of the same names and ``digest`` (of data, parameters and code) is continued; ``history`` holds
    the epochs so far, each with its 1-based ``epoch``, and fills gaps. Nothing here raises or waits, whatever happens
    to the store; if it cannot be used, one line on stderr says so.
    """

    def __init__(
        self,
        *,
        experiment: str,
        dataset: str,
        recipe: str,
        seed: int,
        digest: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        history: Sequence[Mapping[str, float]] = (),
        enabled: bool = True,
    ) -> None:
        self._file: Path | None = None
        self._handle = -1
        self._complained = False
        if not enabled:
            return
        message = {
            "experiment": f"{experiment}/{dataset}",
            "name": f"{recipe}/seed{seed}",
            "tags": identity_tags(experiment, dataset, recipe, seed, digest) | tag_texts(tags),
            "params": param_texts(params),
            "history": [{name: float(value) for name, value in row.items()} for row in history],
            "time": _now(),
        }
        try:
            self._open(message)
        except OSError as error:
            self._give_up(error)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of an epoch (1-based), once its state is saved; what a resumed run repeats is shown once."""
        self._send({"epoch": epoch, "metrics": {name: float(value) for name, value in metrics.items()}, "time": _now()})

    def finish(self, status: str = "FINISHED", run_dir: Path | None = None) -> None:
        """End the run as "FINISHED", "FAILED" or "KILLED"; show the accuracies in ``run_dir``/predictions.parquet."""
        directory = None if run_dir is None else os.path.abspath(run_dir)
        self._send({"finish": status, "run_dir": directory, "time": _now()})
        self.leave()

    def leave(self) -> None:
        """Leave a run that will be continued: MLflow shows it as KILLED until then."""
        if self._file is not None:
            os.close(self._handle)
            self._file = None

    def _open(self, first: dict[str, Any]) -> None:
        file = spool_folder() / f"{uuid.uuid4().hex}{MESSAGES}"
        # Under another name until it is locked and has its first line: an unlocked file is that of a killed run.
        hidden = file.with_suffix(".new")
        self._handle = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._file = file
        locked(self._handle)
        self._write(first)
        hidden.rename(file)
        ensure_writer(file.parent)

    def _send(self, message: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._write(message)
            ensure_writer(self._file.parent)
            self._complain(read_problem(self._file.parent))
        except OSError as error:  # a full disk; the run's own files report it better
            self._give_up(error)

    def _write(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        while line:
            line = line[os.write(self._handle, line) :]

    def _give_up(self, error: OSError) -> None:
        self._complain(str(error))
        self.leave()

    def _complain(self, reason: str) -> None:
        if reason and not self._complained:
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


def locked(handle: int) -> bool:
    """Take the lock of an open file; False if another process holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
    while time.monotonic() < end and any(_has_ended(file) for file in folder.glob(f"*{MESSAGES}")):
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
