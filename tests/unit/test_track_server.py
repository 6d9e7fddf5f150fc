"""A real MLflow server: eight runs at once, the server killed and started again meanwhile."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests
from test_track_sync import PARAMS, trained  # noqa: F401  a fixture of that file
from tracking_store import open_client, points, runs, wait_for

from transfer.layout import Layout
from transfer.tracking.check import check
from transfer.tracking.sync import sync

ROOT = Path(__file__).parents[2]
RUNS, EPOCHS = 8, 12

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """``mlflow server`` without any option about addresses."""

    def __init__(self, store: str, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        artifacts = ["--artifacts-destination", str(folder / "served")]
        command = ["server", "--backend-store-uri", store, *artifacts, "--port", str(self.port), "--workers", "1"]
        self.command = [sys.executable, "-m", "mlflow", *command]
        self.folder, self.process = folder, None

    def start(self) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # ten processes for pages that nobody opens
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                self.command, env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self.answers, 180)

    def answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.uri}/health", timeout=2).ok
        return False

    def addresses(self) -> set[str]:
        """The addresses on which its processes listen."""
        addresses = set()
        for process in [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # a child that ended meanwhile
                listening = [s for s in process.net_connections() if s.status == psutil.CONN_LISTEN]
                addresses |= {s.laddr.ip for s in listening}
        return addresses

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(mlflow_store, monkeypatch):
    folder = mlflow_store.parent
    server = Server(f"sqlite:///{mlflow_store.rename(folder / 'served.db')}", folder)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.kill()


RUN = """
import sys, time
from transfer.tracking.live import Tracking
seed, epochs, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
start = dict(experiment="demo", dataset="demo_rafdb", recipe="full", seed=seed, digest="d")
tracker = Tracking(**start, params={"lr": 0.1}, tags={"commit": "abc"})
for epoch in range(1, epochs + 1):
    tracker.log_epoch({"epoch": epoch, "loss": 1 / epoch, "val_accuracy": epoch / 100})
    time.sleep(pause)
tracker.finish()
"""


def start_runs(pause: float, folder: Path, spools: int = 1) -> list[subprocess.Popen]:
    """Eight processes that only say what a run says; ``spools``: as on so many machines."""
    processes = []
    for seed in range(RUNS):
        spool = folder / f"spool{seed % spools}"
        spool.mkdir(exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(spool)}
        command = [sys.executable, "-c", RUN, str(seed), str(EPOCHS), str(pause)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    return processes


def nothing_is_missing() -> None:
    found = {run.data.tags["seed"]: run for run in runs()}
    assert sorted(found) == [str(seed) for seed in range(RUNS)] and len(runs()) == RUNS
    assert len(runs(parents=True)) == 1
    for run in found.values():
        assert run.info.status == "FINISHED" and run.data.params == {"lr": "0.1"} and run.data.tags["commit"] == "abc"
        assert points(run.info.run_id) == [(epoch, pytest.approx(1 / epoch)) for epoch in range(1, EPOCHS + 1)]
        assert len(points(run.info.run_id, "epoch/val_accuracy")) == EPOCHS


def test_a_server_that_is_killed_in_the_middle(server, mlflow_folder, trained):  # noqa: F811
    assert server.addresses() == {"127.0.0.1"}
    spools = Path(os.environ["TMPDIR"])
    processes = start_runs(1.0, spools)
    wait_for(lambda: open_client().get_experiment_by_name("demo/demo_rafdb") and len(runs()) == RUNS)
    server.kill()
    time.sleep(2)
    server.start()
    for process in processes:
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0 and error.count("\n") <= 1, error
    wait_for(lambda: not list(spools.rglob("*.jsonl")), 120)
    nothing_is_missing()

    # What was trained while no server was there at all comes in from the files, through the same server.
    shutil.copytree(trained, mlflow_folder, dirs_exist_ok=True)
    layout = Layout("tiny")
    assert sync(PARAMS, layout).created == 4
    second = sync(PARAMS, layout)
    assert (second.created, second.completed, second.unchanged, second.registered) == (0, 0, 4, 0)
    assert check(PARAMS, layout)[1] == []

    import mlflow
    import numpy as np
    import pandas as pd

    model = mlflow.pyfunc.load_model("models:/tiny.faces.full@val_selected")
    faces = np.load(layout.data("faces") / "aligned.npy")[:2]
    table = model.predict(pd.DataFrame({"image": list(faces)}))
    assert np.allclose(table.filter(like="p_").sum(axis=1), 1, atol=1e-5)


def test_eight_runs_as_on_two_machines_into_one_sqlite_file(mlflow_store):
    spools = Path(os.environ["TMPDIR"])
    for process in start_runs(0.1, spools, spools=2):
        error = process.communicate(timeout=300)[1]
        assert (process.returncode, error) == (0, "")
    wait_for(lambda: not list(spools.rglob("*.jsonl")), 120)
    nothing_is_missing()
