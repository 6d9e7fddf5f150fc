"""What the tests of MLflow share: a store of their own for each, and writers that end with the test."""

import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path


def writers(spool: Path | None = None) -> list[int]:
    """The process ids of the writers that were started."""
    locks = (spool or Path(tempfile.gettempdir())).glob("transfer-mlflow-*/*/writer.lock")
    return [int(text) for lock in locks if (text := lock.read_text())]


def end_writers(spool: Path) -> None:
    for pid in writers(spool):
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)  # raises where another process started it


def open_client():
    """MLflow's own client on the store that it finds by itself."""
    from mlflow import MlflowClient

    return MlflowClient()


def runs(experiment: str = "demo/demo_rafdb", parents: bool = False) -> list:
    """The runs of the seeds in an experiment, or those of its recipes."""
    client = open_client()
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return [run for run in found if ("transfer.recipe" in run.data.tags) == parents]


def points(run_id: str, metric: str = "epoch/loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in open_client().get_metric_history(run_id, metric)]


def wait_for(condition, seconds: float = 90):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.05)
    return value
