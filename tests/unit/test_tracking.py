"""The live view: what a training says, and the writer that shows it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tracking_store import open_client, points, runs, wait_for, writers

from transfer.tracking import Tracking, live, writer

ROOT = Path(__file__).parents[2]
TRAINING = {"experiment": "demo", "dataset": "demo_rafdb", "recipe": "full", "seed": 1, "digest": "d1"}
WITHOUT_SETTINGS = TRAINING | {"params": {}, "tags": {}}


@pytest.fixture(autouse=True)
def _alone(mlflow_folder):
    pass


def test_a_training_appears_live_in_the_default_store(mlflow_folder, mlflow_store, capfd):
    params = {"train": {"lr": 0.1, "crop": {"size": 112}}, "note": "x" * 7000}
    tracker = Tracking.start(
        **TRAINING, params=params, tags={"commit": "abc", "data_digest": "f00", "long": "y" * 9000}
    )
    tracker.log_epoch(1, {"loss": 2.0, "val/accuracy": 0.25})
    run_id = wait_for(lambda: tracker.run_id)
    wait_for(lambda: points(run_id))
    assert open_client().get_run(run_id).info.status == "RUNNING"

    tracker.log_epoch(2, {"loss": float("nan"), "val/accuracy": 0.5})
    (mlflow_folder / "metrics.json").write_text('{"accuracy": 0.5}')
    tracker.log_artifact("metrics.json")
    tracker.finish()

    (run,) = runs()
    assert tracker.run_id == run.info.run_id == run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", "full/seed1")
    assert run.info.start_time <= run.info.end_time <= time.time() * 1000
    assert run.data.params == {"train.lr": "0.1", "train.crop.size": "112", "note": "x" * 6000}
    (parent,) = runs(parents=True)
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "full")
    tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.runName"}
    identity = {"transfer.run": "demo/demo_rafdb/full/seed1@d1", "mlflow.parentRunId": parent.info.run_id}
    identity |= {"dataset": "demo_rafdb", "recipe": "full", "seed": "1"}
    identity |= {"mlflow.source.name": "transfer", "mlflow.source.type": "LOCAL"}
    assert tags == identity | {"commit": "abc", "data_digest": "f00", "long": "y" * 8000}
    assert points(run_id, "val/accuracy") == [(1, 0.25), (2, 0.5)]
    assert [step for step, _ in points(run_id)] == [1, 2]
    assert [file.path for file in open_client().list_artifacts(run_id)] == ["metrics.json"]
    copy = mlflow_folder / "mlruns" / run.info.experiment_id / run_id / "artifacts" / "metrics.json"
    assert copy.read_text() == '{"accuracy": 0.5}'
    assert "system/cpu_utilization_percentage" in run.data.metrics
    assert {path.name for path in mlflow_folder.iterdir()} <= {"mlflow.db", "mlflow.db.lock", "mlruns", "metrics.json"}
    assert not list(Path(os.environ["TMPDIR"]).rglob("*.jsonl")), "nothing left in the spool folder"
    assert not list(Path(os.environ["TMPDIR"]).rglob("*.answer"))
    assert capfd.readouterr() == ("", "")


def test_trainings_at_once_on_a_fresh_store_lose_nothing_and_share_a_writer(capfd):
    trainings = [TRAINING | {"dataset": f"demo_{seed % 2}", "seed": seed} for seed in range(6)]
    trackers = [Tracking.start(**training, params={"lr": 0.1}, tags={}) for training in trainings]
    for epoch in range(1, 11):
        for tracker in trackers:
            tracker.log_epoch(epoch, {"loss": 1 / epoch})
    for tracker in trackers:
        tracker.finish()

    assert capfd.readouterr().err == ""
    assert len(writers()) == 1
    for name in ("demo/demo_0", "demo/demo_1"):
        assert len(runs(name)) == 3
        assert len(runs(name, parents=True)) == 1
    for training, tracker in zip(trainings, trackers, strict=True):
        run = open_client().get_run(tracker.run_id)
        assert (run.info.status, run.info.run_name) == ("FINISHED", f"full/seed{training['seed']}")
        assert run.data.params == {"lr": "0.1"}
        assert points(tracker.run_id) == [(epoch, 1 / epoch) for epoch in range(1, 11)]


def test_a_killed_training_is_continued_in_the_same_run(mlflow_store):
    killed = f"""
import os, signal
from transfer.tracking import Tracking
tracker = Tracking.start(**{WITHOUT_SETTINGS | {"params": {"epochs": 4, "lr": 1}}})
tracker.log_epoch(1, {{"loss": 1.0}})
tracker.log_epoch(2, {{"loss": 0.5}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", killed], env=environment).returncode == -signal.SIGKILL
    (run,) = wait_for(lambda: open_client().get_experiment_by_name("demo/demo_rafdb") and runs())
    wait_for(lambda: open_client().get_run(run.info.run_id).info.status == "KILLED")
    assert points(run.info.run_id) == [(1, 1.0), (2, 0.5)]

    # Epoch 3 was in the files, not in the store; epoch 2 is trained and shown once more.
    history = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 4)]
    resumed = Tracking.start(**TRAINING, params={"epochs": 8, "lr": 1, "wd": 2}, tags={"commit": "b"}, history=history)
    resumed.log_epoch(2, {"loss": 0.5})
    resumed.log_epoch(5, {"loss": 0.2})
    resumed.finish()

    assert resumed.run_id == run.info.run_id
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert points(run.info.run_id) == [(1, 1.0), (2, 0.5), (4, 0.25), (5, 0.2)]
    assert run.data.params == {"epochs": "4", "lr": "1", "wd": "2"}
    assert run.data.tags["commit"] == "b"


def test_a_training_that_is_left_does_not_wait_and_is_continued(mlflow_store):
    tracker = Tracking.start(**WITHOUT_SETTINGS)
    run_id = wait_for(lambda: tracker.run_id)
    tracker.leave()
    tracker.finish("FAILED")  # says nothing any more
    wait_for(lambda: runs()[0].info.status == "KILLED")
    Tracking.start(**WITHOUT_SETTINGS, resume_run_id=run_id).finish()
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_only_an_unfinished_run_of_the_same_training_is_continued(mlflow_store):
    client = open_client()

    def new(name: str, experiment: str, status: str) -> str:
        run = client.create_run(experiment, start_time=next(clock), tags={"transfer.run": name})
        client.set_terminated(run.info.run_id, status)
        return run.info.run_id

    def found(name: str, run_id: str | None = None) -> str | None:
        run = writer.unfinished(client, here, {"run_id": run_id, "tags": {"transfer.run": name}})
        return run and run.info.run_id

    clock = iter(range(1, 100))
    here, elsewhere = client.create_experiment("a/b"), client.create_experiment("a/c")
    new("a@d1", here, "KILLED")
    latest, other, finished = new("a@d1", here, "FAILED"), new("a@d2", here, "KILLED"), new("a@d3", here, "FINISHED")
    new("a@d4", elsewhere, "KILLED")

    assert [found(f"a@d{i}") for i in (1, 2, 3, 4)] == [latest, other, None, None]
    assert found("a@d1", finished) == finished  # the id says more than the name
    assert found("a@d1", "0" * 32) == latest  # not in this store
    client.delete_run(other)
    assert found("a@d1", other) == latest
    assert found("a@d2") is None


def test_without_a_store_the_training_goes_on_and_one_line_is_printed(monkeypatch, capfd):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
    tracker = Tracking.start(**WITHOUT_SETTINGS, history=[{"epoch": 1, "loss": 1.0}])
    tracker.log_epoch(2, {"loss": 0.5})
    wait_for(lambda: tracker._channel.answer().get("error"))
    tracker.log_epoch(3, {"loss": 0.5})
    tracker.log_artifact("metrics.json")
    tracker.finish()
    tracker.log_epoch(4, {"loss": 0.5})
    assert tracker.run_id is None
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("MLflow does not show this training: ") and err.count("\n") == 1
    assert "cannot be reached (ConnectionError)" in err and "transfer track sync" in err


def test_a_slow_writer_delays_no_epoch_and_a_missing_artifact_is_one_line(mlflow_store, capfd):
    tracker = Tracking.start(**WITHOUT_SETTINGS)
    (pid,) = writers()
    os.kill(pid, signal.SIGSTOP)
    metrics = {f"metric_{i:0200d}": 0.5 for i in range(20)}
    for epoch in range(1, 21):
        tracker.log_epoch(epoch, metrics)
    tracker.log_artifact("absent.json")
    tracker.log_epoch(21, metrics)
    os.kill(pid, signal.SIGCONT)
    tracker.finish()
    assert points(tracker.run_id, f"epoch/metric_{19:0200d}") == [(epoch, 0.5) for epoch in range(1, 22)]
    err = capfd.readouterr().err
    assert "absent.json" in err and err.count("\n") == 1


def test_a_store_that_hangs_is_given_up(monkeypatch, capfd):
    monkeypatch.setattr(live, "_FLUSH_SECONDS", 0.2)
    tracker = Tracking.start(**WITHOUT_SETTINGS)
    os.kill(writers()[0], signal.SIGSTOP)
    tracker.finish()
    assert capfd.readouterr().err.count("did not answer within 0.2 s") == 1


def test_a_writer_that_is_killed_is_replaced_and_nothing_is_shown_twice(mlflow_store, capfd):
    tracker = Tracking.start(**TRAINING, params={"lr": 1}, tags={})
    tracker.log_epoch(1, {"loss": 1.0})
    run_id = wait_for(lambda: tracker.run_id)
    wait_for(lambda: points(run_id))
    (first,) = writers()
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    tracker.log_epoch(2, {"loss": 0.5})
    tracker.finish()
    assert writers() != [first]
    (run,) = runs()
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    assert points(run_id) == [(1, 1.0), (2, 0.5)]
    assert len(runs(parents=True)) == 1
    assert capfd.readouterr() == ("", "")


def test_a_writer_ends_when_there_is_nothing_to_do(mlflow_store, monkeypatch, mlflow_folder):
    monkeypatch.setattr(writer, "_IDLE_SECONDS", 0.2)
    spool = mlflow_folder / "spool"
    spool.mkdir()
    lock = os.open(spool / "writer.lock", os.O_RDWR | os.O_CREAT)
    started = time.monotonic()
    writer.serve(spool, lock)
    assert time.monotonic() - started < 30


def test_the_recipe_is_running_while_one_of_its_seeds_is(mlflow_store):
    first, second = (Tracking.start(**WITHOUT_SETTINGS | {"seed": seed}) for seed in (1, 2))
    wait_for(lambda: second.run_id and first.run_id)
    (parent,) = runs(parents=True)
    first.finish()
    assert open_client().get_run(parent.info.run_id).info.status == "RUNNING"
    second.finish()
    assert open_client().get_run(parent.info.run_id).info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs()} == {parent.info.run_id}


def test_disabled_tracking_does_nothing(mlflow_folder):
    tracker = Tracking.start(**WITHOUT_SETTINGS, enabled=False)
    tracker.log_epoch(1, {"loss": 1.0})
    tracker.log_artifact("absent.json")
    tracker.finish()
    assert tracker.run_id is None and not list(mlflow_folder.iterdir())
