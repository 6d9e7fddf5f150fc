"""The writer process: shows in MLflow what the trainings of this machine say in the spool folder.

One for all, started by the first; it ends when there has been nothing to do for a while.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.tracking import store
from transfer.tracking.spool import ANSWER, MESSAGES, WRITER, locked, read_answer, write_answer
from transfer.tracking.system import SystemMetrics
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_POLL_SECONDS = 0.1
_IDLE_SECONDS = 30  # a workflow's next training takes some seconds to begin
_RETRY_SECONDS = 5  # between two attempts on a store that does not work
_PATIENCE_SECONDS = 60  # for a store that does not come back, once the training has ended
_SYSTEM_SECONDS = 10


class Writer:
    """The store, opened when there is something to show, and what is the same for several trainings."""

    def __init__(self) -> None:
        self._client: MlflowClient | None = None
        self._parents: dict[tuple[str, str], str] = {}

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client. Raises UserError where the store cannot be opened."""
        if self._client is None:
            self._client = store.open_store()
        return self._client

    def parent(self, experiment: str, name: str, recipe: str) -> str:
        """The run of a recipe."""
        key = (experiment, recipe)
        if key not in self._parents:
            self._parents[key] = store.parent_run(self.client, experiment, name, recipe)
        return self._parents[key]

    def forget(self) -> None:
        """Open the store anew, and look for everything in it again."""
        self._client, self._parents = None, {}


class Shown:
    """One training: its messages, read as they come, and its run."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        self._buffer = b""
        self._messages: list[dict[str, Any]] = []
        self._start: dict[str, Any] = {}
        self._run_id: str | None = None
        self._known: set[tuple[str, int]] = set()
        self._answer = read_answer(file)  # there is one where another writer was killed
        self._retry_at = 0.0
        self._ended_at: float | None = None
        self._sampled_at = 0.0
        self.done = False

    def advance(self, writer: Writer, system: SystemMetrics) -> None:
        """Show what is new. An error of the store leaves the message for later."""
        if self._ended_at is None and locked(self._handle):
            self._ended_at = time.monotonic()  # before the read: what an ended training said is all there
        while chunk := os.read(self._handle, 1 << 20):
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        self._messages += [json.loads(line) for line in lines]
        if time.monotonic() < self._retry_at:
            return
        try:
            while self._messages and not self.done:
                self._show(self._messages[0], writer, system)
                del self._messages[0]
            if self._ended_at is not None and not self.done:
                self._end("KILLED", None, writer)
            elif not self.done and time.monotonic() - self._sampled_at > _SYSTEM_SECONDS:
                self._sample(writer, system)
        except Exception as error:  # whatever it is, the training has to be told, and the others go on
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            writer.forget()
            self._say(error=str(error) if isinstance(error, UserError) else store.one_line(error))
            if self._ended_at is not None and time.monotonic() - self._ended_at > _PATIENCE_SECONDS:
                self.done = True
        else:
            if self._answer.get("error"):
                self._say(error=None)

    def close(self) -> None:
        """Remove the files of a training that is done."""
        os.close(self._handle)
        self.file.unlink(missing_ok=True)
        if self._ended_at is not None:  # else the training reads it and removes it
            self.file.with_suffix(ANSWER).unlink(missing_ok=True)

    def _say(self, **news: Any) -> None:
        self._answer |= news
        write_answer(self.file, self._answer)

    def _show(self, message: dict[str, Any], writer: Writer, system: SystemMetrics) -> None:
        if "experiment" in message:
            self._start = message
            self._begin(writer)
        elif "epoch" in message:
            self._log(writer.client, [(message["epoch"], message["metrics"], message["time"])])
        elif "artifact" in message:
            if os.path.exists(message["artifact"]):
                writer.client.log_artifact(self._run_id, message["artifact"])
            else:
                self._say(lost=f"{message['artifact']}: no such file")
        else:
            self._sample(writer, system)
            self._end(message["finish"], message["time"], writer)

    def _begin(self, writer: Writer) -> None:
        start, client = self._start, writer.client
        experiment = store.experiment_id(client, start["experiment"])
        parent = writer.parent(experiment, start["experiment"], start["tags"]["recipe"])
        start["run_id"] = self._answer.get("run_id") or start["run_id"]
        # Also after an error of the store: the run may have been made before it.
        again = bool(start["run_id"] or start["history"] or self._retry_at)
        run = unfinished(client, experiment, start) if again else None
        if run is None:
            tags = {"transfer.run": start["tags"]["transfer.run"]}
            run = client.create_run(experiment, start["time"], tags, start["name"])
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        client.update_run(parent, status="RUNNING")
        self._run_id = run.info.run_id
        self._say(run_id=self._run_id)
        store.log_settings(client, run, start["params"], start["tags"] | {"mlflow.parentRunId": parent})
        self._known = store.logged_points(client, run)
        history = [dict(row) for row in start["history"]]
        self._log(client, [(int(row.pop("epoch")), row, start["time"]) for row in history])

    def _log(self, client: "MlflowClient", epochs: Iterable[tuple[int, dict[str, float], int]]) -> None:
        points = [(key, value, when, epoch) for epoch, metrics, when in epochs for key, value in metrics.items()]
        new = [point for point in points if (point[0], point[3]) not in self._known]
        store.log_points(client, self._run_id, new)
        self._known |= {(point[0], point[3]) for point in new}

    def _sample(self, writer: Writer, system: SystemMetrics) -> None:
        """Log the machine's state; the step is the second of the training."""
        self._sampled_at = time.monotonic()
        if self._run_id is None:
            return
        now = int(time.time() * 1000)
        second = max(0, now - self._start["time"]) // 1000
        self._log(writer.client, [(second, system.sample(), now)])

    def _end(self, status: str, when: int | None, writer: Writer) -> None:
        if self._run_id is not None:
            writer.client.set_terminated(self._run_id, status, when)
            self._end_parent(writer)
        self.done = True
        self._say(finished=True)

    def _end_parent(self, writer: Writer) -> None:
        """The recipe's run has the state of its seeds: running while one of them is."""
        client, start = writer.client, self._start
        experiment = store.experiment_id(client, start["experiment"])
        parent = writer.parent(experiment, start["experiment"], start["tags"]["recipe"])
        query = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'"
        if not client.search_runs([experiment], query, max_results=1):
            client.set_terminated(parent, "FINISHED")


def unfinished(client: "MlflowClient", experiment: str, start: dict[str, Any]) -> "Run | None":
    """The run that a training continues: the one it names, or else the latest unfinished one of the same digest."""
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
        [experiment],
        f"tags.`transfer.run` = '{start['tags']['transfer.run']}' and attributes.status != 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return found[0] if found else None


def serve(folder: Path, lock: int) -> None:
    """Show the trainings of ``folder`` until there has been none for a while; ``lock`` is the open file of its lock."""
    writer, system, trainings = Writer(), SystemMetrics(), {}
    idle_since = time.monotonic()
    while True:
        for file in folder.glob(f"*{MESSAGES}"):
            if file not in trainings:
                trainings[file] = Shown(file)
        for file, training in list(trainings.items()):
            training.advance(writer, system)
            if training.done:
                training.close()
                del trainings[file]
        if trainings:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since > _IDLE_SECONDS:
            os.close(lock)
            # A training that came now either is seen here, or saw that nobody holds the lock.
            if not any(folder.glob(f"*{MESSAGES}")):
                return
            lock = os.open(folder / WRITER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not locked(lock):
                return
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        serve(Path(sys.argv[1]), int(sys.argv[2]))
