"""The writer process: shows the runs of the spool folder in MLflow; ends after half a minute without any run."""

import contextlib
import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.tracking import store
from transfer.tracking.live import LOCK, PROBLEM, VIEWS
from transfer.utils.errors import UserError
from transfer.utils.locks import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_POLL_SECONDS = 0.1
_IDLE_SECONDS = 30  # a workflow's next run takes some seconds to begin
_RETRY_SECONDS = 5  # between two attempts on a store that does not work
_PATIENCE_SECONDS = 60  # for a store that does not come back after the end of a run


class SpooledRun:
    """A spool file, whose last line is what shall be shown, and its run in MLflow."""

    def __init__(self, file: Path) -> None:
        self.handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        self._rest = b""
        self._view: store.View | None = None
        self._run: Run | None = None
        self._known: store.Known = frozenset()
        self._ended_at: float | None = None
        self.retry_at = 0.0
        self.done = False

    def read(self) -> None:
        """Read new lines, and note whether the run's process is gone."""
        if self._ended_at is None and locked(self.handle):
            self._ended_at = time.monotonic()  # before the read: all that the process wrote is there
            fcntl.flock(self.handle, fcntl.LOCK_UN)  # so that others see it too
        while chunk := os.read(self.handle, 1 << 20):
            self._rest += chunk
        *lines, self._rest = self._rest.split(b"\n")
        if lines:
            self._view = store.View(**json.loads(lines[-1]))

    def show(self, client: "MlflowClient") -> None:
        """Show what is new; if the store fails, it stays for the next attempt."""
        view = self._view
        if view is not None:
            if self._run is None:
                self._begin(client, view)
            assert self._run is not None
            self._known = store.log_points(client, self._run.info.run_id, view.points, self._known)
            if view.ended is not None:
                client.set_terminated(self._run.info.run_id, view.status, view.ended)
                self.done = True
            self._view = None
        if self._ended_at is not None and not self.done:
            if self._run is not None:
                client.set_terminated(self._run.info.run_id, "KILLED")
            self.done = True

    def retry_later(self) -> None:
        """Try again in a while, or give up if the run ended long ago."""
        self.retry_at = time.monotonic() + _RETRY_SECONDS
        self.done = self._ended_at is not None and time.monotonic() - self._ended_at > _PATIENCE_SECONDS

    def _begin(self, client: "MlflowClient", view: store.View) -> None:
        experiment = store.experiment_id(client, view.experiment)
        parent = store.parent_run(client, experiment, view.experiment, view.tags["recipe"])
        run = store.find_run(client, experiment, view.tags[store.RUN], "attributes.status != 'FINISHED'")
        if run is None:
            run = client.create_run(experiment, view.started, {store.RUN: view.tags[store.RUN]}, view.name)
        client.update_run(run.info.run_id, status="RUNNING")
        store.log_settings(client, run, view.params, view.tags | {"mlflow.parentRunId": parent})
        self._run, self._known = run, store.logged_points(client, run)


def serve(folder: Path, lock: int, idle_seconds: float = _IDLE_SECONDS) -> None:
    """Show the runs of ``folder`` until there have been none for a while; ``lock`` is the handle of its lock file."""
    client: MlflowClient | None = None
    runs: dict[Path, SpooledRun] = {}
    idle_since = time.monotonic()
    (folder / PROBLEM).unlink(missing_ok=True)  # left by a writer that was killed
    while True:
        for file in folder.glob(f"*{VIEWS}"):
            if file not in runs:
                runs[file] = SpooledRun(file)
        for file, run in list(runs.items()):
            run.read()
            if time.monotonic() < run.retry_at:
                continue
            try:
                client = client or store.open_store()
                run.show(client)
                (folder / PROBLEM).unlink(missing_ok=True)
            except Exception as error:  # the run must learn of any error, and the others go on
                client = None
                (folder / PROBLEM).write_text(str(error) if isinstance(error, UserError) else store.one_line(error))
                run.retry_later()
            if run.done:
                os.close(run.handle)
                file.unlink(missing_ok=True)
                del runs[file]
        if runs:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since > idle_seconds:
            os.close(lock)
            # A run that begins now is either seen here or finds the lock free.
            if not any(folder.glob(f"*{VIEWS}")):
                return
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not locked(lock):
                return
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve(Path(sys.argv[1]), int(sys.argv[2]))
