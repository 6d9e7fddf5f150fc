"""Live view of a training in MLflow; the files of the run directory are the truth, this is a view of them.

A training only appends JSON lines to a file of its own in a spool folder (:mod:`transfer.tracking.spool`); one writer
process (:mod:`transfer.tracking.writer`) for all trainings of the machine reads them and speaks to MLflow:

- importing MLflow costs seconds of processor time: one writer pays them once, not every training;
- a training that is killed leaves what it said in its file: the writer shows it and marks the run KILLED;
- nothing that happens to the store can reach the training, and a store that comes back gets what it missed.

The store is the one that MLflow itself finds: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working directory with
the artifacts in ``mlruns/`` beside it, which is also what a plain ``mlflow ui`` typed there shows.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.tracking.shown import identity_tags, shown_metrics, shown_params, shown_results, shown_tags
from transfer.tracking.spool import Channel, spool_folder

# finish() waits this long for a slow store. A training has seconds to minutes for what a healthy store does in one.
_FLUSH_SECONDS = 60


class Tracking:
    """One training in MLflow; made by :meth:`start`. No method waits for the store, except :meth:`finish`.

    If the store cannot be used, one line is printed on stderr and the training goes on; ``transfer track sync`` brings
    the run in from its files later.
    """

    def __init__(self, channel: Channel | None) -> None:
        self._channel = channel
        self._run_id: str | None = None
        self._complained = False

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

        It is a child of the run ``<recipe>``. ``digest`` stands for all that decides whether a checkpoint may be
        continued (data, parameters, code). A training that resumes passes ``history``, the epochs so far (each with
        ``epoch``, 1-based, and its metrics, all numbers): the run with ``resume_run_id``, or else the latest unfinished
        one of the same training and digest, is continued, and gets those epochs that it lacks. Nested ``params``
        become dotted names.
        """
        tracking = cls(None)
        if not enabled:
            return tracking
        message = {
            "experiment": f"{experiment}/{dataset}",
            "name": f"{recipe}/seed{seed}",
            "tags": identity_tags(experiment, dataset, recipe, seed, digest) | shown_tags(tags),
            "params": shown_params(params),
            "run_id": resume_run_id,
            "history": [_row(**row) for row in history],
            "time": _now(),
        }
        try:
            tracking._channel = Channel(spool_folder(), message)
        except OSError as error:
            tracking._complain(error)
        return tracking

    @property
    def run_id(self) -> str | None:
        """The MLflow run id; None until the store has given one, some two seconds after the first :meth:`start`."""
        if self._channel and not self._run_id:
            self._run_id = self._channel.answer().get("run_id")
        return self._run_id

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of one epoch (1-based; it is MLflow's step), below ``epoch/`` if they have no group.

        Call it after the checkpoint of this epoch is written: an epoch that the store has is not logged a second time.
        """
        self._send({"epoch": epoch, "metrics": shown_metrics(metrics), "time": _now()})

    def log_artifact(self, path: str | os.PathLike) -> None:
        """Copy a file to the run's artifacts; it has to stay where it is until :meth:`finish` returns."""
        self._send({"artifact": os.path.abspath(path)})

    def log_results(self, run_dir: Path, folder: Path, **identity: Any) -> None:
        """Show what ``transfer evaluate`` says of a finished training: its metrics.json, and accuracies by protocol.

        ``identity`` is that of :func:`transfer.runs.metrics.evaluate`; the copy lies in ``folder``, which has to
        stay until :meth:`finish` returns.
        """
        if self._channel is None:
            return
        from transfer.runs.metrics import evaluate

        self.log_epoch(0, shown_results(evaluate(run_dir, folder=folder, **identity)))
        self.log_artifact(folder / "metrics.json")

    def finish(self, status: str = "FINISHED") -> None:
        """End the run as "FINISHED", "FAILED" or "KILLED"; wait (at most a minute) for the store."""
        self._send({"finish": status, "time": _now()})
        channel = self._channel
        if channel is None:
            return
        end = time.monotonic() + _FLUSH_SECONDS
        while not (answer := channel.answer()).get("finished"):
            if answer.get("error"):
                self._complain(answer["error"])
                break  # the writer goes on trying for a while
            if time.monotonic() > end:
                self._complain(f"the store did not answer within {_FLUSH_SECONDS} s")
                break
            channel.ensure_writer()
            time.sleep(0.05)
        if answer.get("lost"):
            self._complain(answer["lost"])
        self._run_id = self.run_id
        self._channel = None
        channel.close()

    def leave(self) -> None:
        """Let go of a training that will be continued, without waiting: the run is shown as KILLED until then."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _send(self, message: dict[str, Any]) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(message)
        except OSError as error:  # a full disk; the training's own files say so better
            self._complain(error)
            self._channel.close()
            self._channel = None
            return
        if error := self._channel.answer().get("error"):
            self._complain(error)

    def _complain(self, reason: object) -> None:
        if self._complained:
            return
        self._complained = True
        text = " ".join(str(reason).split()) or type(reason).__name__
        print(
            f"MLflow does not show this training: {text[:300]} (its files are complete without; once the store is "
            "there: transfer track sync)",
            file=sys.stderr,
        )


def _row(epoch: float, **metrics: float) -> dict[str, float]:
    return {"epoch": float(epoch), **shown_metrics(metrics)}


def _now() -> int:
    return int(time.time() * 1000)
