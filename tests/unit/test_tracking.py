"""The live view: what a run says, and the writer that shows it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from tracking_store import open_client, points, runs, wait_for, writers

from transfer.runs.predictions import predictions_frame, write_predictions
from transfer.tracking import live, store, writer
from transfer.tracking.live import Tracking

ROOT = Path(__file__).parents[2]
RUN = {"experiment": "demo", "dataset": "demo_rafdb", "recipe": "full", "seed": 1, "digest": "d1"}
BARE = RUN | {"params": {}, "tags": {}}


@pytest.fixture(autouse=True)
def _alone(mlflow_store):
    pass


def spooled() -> list[Path]:
    return list(Path(os.environ["TMPDIR"]).rglob("*.jsonl"))


def shown() -> None:
    """Wait until the writer has shown all that was said."""
    wait_for(lambda: not spooled())


def status_of(name: str) -> str | None:
    found = open_client().get_experiment_by_name("demo/demo_rafdb") and runs()
    return next((run.info.status for run in found or () if run.info.run_name == name), None)


def test_a_run_appears_live_in_the_default_store(mlflow_folder, capfd):
    params = {"train": {"lr": 0.1, "crop": {"size": 112}}, "note": "x" * 7000}
    tracker = Tracking(**RUN, params=params, tags={"commit": "abc", "data_digest": "f00", "long": "y" * 9000})
    tracker.log_epoch({"epoch": 1, "loss": 2.0, "val/accuracy": 0.25})
    wait_for(lambda: status_of("full/seed1") == "RUNNING" and points(runs()[0].info.run_id))

    tracker.log_epoch({"epoch": 2, "loss": float("nan"), "val/accuracy": 0.5})
    frame = [
        predictions_frame(
            ["a", "b"], [0, 1], [[0.9, 0.1], [0.8, 0.2]], ["x", "y"], split=split, protocol="last", epoch=2
        )
        for split in ("val", "test")
    ]
    frame[1]["sample"] += "t"
    write_predictions(mlflow_folder / "run/predictions.parquet", pd.concat(frame, ignore_index=True))
    tracker.finish("FINISHED", Path("run"))
    shown()

    (run,) = runs()
    assert (run.info.status, run.info.run_name) == ("FINISHED", "full/seed1")
    assert run.info.start_time <= run.info.end_time <= time.time() * 1000
    assert run.data.params == {"train.lr": "0.1", "train.crop.size": "112", "note": "x" * 6000}
    (parent,) = runs(parents=True)
    assert parent.info.run_name == "full"
    tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.runName"}
    identity = {"transfer.run": "demo/demo_rafdb/full/seed1@d1", "mlflow.parentRunId": parent.info.run_id}
    identity |= {"dataset": "demo_rafdb", "recipe": "full", "seed": "1"}
    identity |= {"mlflow.source.name": "transfer", "mlflow.source.type": "LOCAL"}
    assert tags == identity | {"commit": "abc", "data_digest": "f00", "long": "y" * 8000}
    assert points(run.info.run_id, "val/accuracy") == [(1, 0.25), (2, 0.5)]
    assert points(run.info.run_id) == [(1, 2.0)], "not a number is no point"
    assert points(run.info.run_id, "last/test_accuracy") == [(0, 0.5)]
    assert {path.name for path in mlflow_folder.iterdir()} <= {"mlflow.db", "mlflow.db.lock", "mlruns", "run"}
    assert capfd.readouterr() == ("", "")


def test_runs_at_once_lose_nothing_and_share_a_writer_which_creates_the_database(mlflow_folder, capfd):
    (mlflow_folder / "mlflow.db").unlink()
    starts = [RUN | {"dataset": f"demo_{seed % 2}", "seed": seed} for seed in range(6)]
    trackers = [Tracking(**start, params={"lr": 0.1}, tags={}) for start in starts]
    for epoch in range(1, 11):
        for tracker in trackers:
            tracker.log_epoch({"epoch": epoch, "loss": 1 / epoch})
    for tracker in trackers:
        tracker.finish()
    assert len(writers()) == 1
    shown()
    assert capfd.readouterr().err == ""
    for name in ("demo/demo_0", "demo/demo_1"):
        assert len(runs(name)) == 3
        assert len(runs(name, parents=True)) == 1
        for run in runs(name):
            assert run.info.status == "FINISHED" and run.data.params == {"lr": "0.1"}
            assert points(run.info.run_id) == [(epoch, 1 / epoch) for epoch in range(1, 11)]


def test_a_killed_run_is_continued_as_the_same_run():
    killed = f"""
import os, signal
from transfer.tracking.live import Tracking
tracker = Tracking(**{BARE | {"params": {"epochs": 4, "lr": 1}}})
tracker.log_epoch({{"epoch": 1, "loss": 1.0}})
tracker.log_epoch({{"epoch": 2, "loss": 0.5}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", killed], env=environment).returncode == -signal.SIGKILL
    wait_for(lambda: status_of("full/seed1") == "KILLED")
    (run,) = runs()
    assert points(run.info.run_id) == [(1, 1.0), (2, 0.5)]

    # Epoch 3 was in the files, not in the store; epoch 2 is trained and shown once more.
    history = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 4)]
    resumed = Tracking(**RUN, params={"epochs": 8, "lr": 1, "wd": 2}, tags={"commit": "b"}, history=history)
    resumed.log_epoch({"epoch": 2, "loss": 0.5})
    resumed.log_epoch({"epoch": 5, "loss": 0.2})
    resumed.finish()
    shown()
    (again,) = runs()
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert points(run.info.run_id) == [(1, 1.0), (2, 0.5), (4, 0.25), (5, 0.2)]
    assert again.data.params == {"epochs": "4", "lr": "1", "wd": "2"}
    assert again.data.tags["commit"] == "b"


def test_a_run_that_is_left_is_continued():
    tracker = Tracking(**BARE)
    tracker.leave()
    tracker.finish("FAILED")  # says nothing any more
    wait_for(lambda: status_of("full/seed1") == "KILLED")
    Tracking(**BARE).finish()
    shown()
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_only_an_unfinished_run_of_the_same_digest_is_continued():
    client = open_client()
    here, elsewhere = client.create_experiment("a/b"), client.create_experiment("a/c")
    made = {}
    for number, (name, experiment, status) in enumerate(
        [("d1", here, "KILLED"), ("d1", here, "FAILED"), ("d2", here, "FINISHED"), ("d3", elsewhere, "KILLED")]
    ):
        run = client.create_run(experiment, start_time=number + 1, tags={"transfer.run": name})
        client.set_terminated(run.info.run_id, status)
        made[name] = run.info.run_id
    unfinished = "attributes.status != 'FINISHED'"
    assert store.find_run(client, here, "d1", unfinished).info.run_id == made["d1"], "the latest"
    assert store.find_run(client, here, "d2", unfinished) is None
    assert store.find_run(client, here, "d2").info.run_id == made["d2"]
    assert store.find_run(client, here, "d3") is None


def test_without_a_store_the_run_goes_on_and_prints_one_line(monkeypatch, capfd):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
    tracker = Tracking(**BARE, history=[{"epoch": 1, "loss": 1.0}])
    tracker.log_epoch({"epoch": 2, "loss": 0.5})
    wait_for(lambda: live.read_problem(live.spool_folder()))
    tracker.log_epoch({"epoch": 3, "loss": 0.5})
    tracker.finish()
    tracker.log_epoch({"epoch": 4, "loss": 0.5})
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("MLflow does not show this run: ") and err.count("\n") == 1
    assert "cannot be reached (ConnectionError)" in err and "transfer track sync" in err


def test_a_writer_that_hangs_delays_nothing():
    tracker = Tracking(**BARE)
    (pid,) = writers()
    os.kill(pid, signal.SIGSTOP)
    metrics = {f"metric_{i:0200d}": 0.5 for i in range(20)}
    started = time.monotonic()
    for epoch in range(1, 22):
        tracker.log_epoch({"epoch": epoch} | metrics)
    tracker.finish()
    assert time.monotonic() - started < 5
    os.kill(pid, signal.SIGCONT)
    shown()
    assert points(runs()[0].info.run_id, f"epoch/metric_{19:0200d}") == [(epoch, 0.5) for epoch in range(1, 22)]


def test_a_spool_folder_that_cannot_be_used_is_one_line(monkeypatch, capfd):
    monkeypatch.setattr(live, "spool_folder", lambda: Path("/proc/nowhere"))
    tracker = Tracking(**BARE)
    tracker.log_epoch({"epoch": 1, "loss": 1.0})
    tracker.finish()
    assert capfd.readouterr().err.count("MLflow does not show this run") == 1


def test_a_writer_that_is_killed_is_replaced_and_nothing_is_shown_twice(capfd):
    tracker = Tracking(**RUN, params={"lr": 1}, tags={})
    tracker.log_epoch({"epoch": 1, "loss": 1.0})
    wait_for(lambda: status_of("full/seed1") and points(runs()[0].info.run_id))
    (first,) = writers()
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    tracker.log_epoch({"epoch": 2, "loss": 0.5})
    tracker.finish()
    shown()
    assert writers() != [first]
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert points(run.info.run_id) == [(1, 1.0), (2, 0.5)]
    assert len(runs(parents=True)) == 1
    assert capfd.readouterr() == ("", "")


def test_a_writer_ends_when_there_is_nothing_to_do(tmp_path):
    lock = os.open(tmp_path / live.LOCK, os.O_RDWR | os.O_CREAT)
    started = time.monotonic()
    writer.serve(tmp_path, lock, idle_seconds=0.2)
    assert time.monotonic() - started < 30
