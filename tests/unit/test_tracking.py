import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from transfer import tracking
from transfer.tracking import Tracking

TRAINING = {"experiment": "demo", "dataset": "demo_rafdb", "recipe": "full", "seed": 1, "digest": "d1"}
WITHOUT_SETTINGS = TRAINING | {"params": {}, "tags": {}}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A database with MLflow's tables, made once, since that takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Work where MLflow's default store is not the repository's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def store(folder, empty_store) -> Path:
    return Path(shutil.copy(empty_store, folder / "mlflow.db"))


def open_client():
    """MLflow's own client on the store that it finds by itself."""
    from mlflow import MlflowClient

    return MlflowClient()


def runs(experiment: str = "demo/demo_rafdb") -> list:
    client = open_client()
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def points(run_id: str, metric: str = "loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in open_client().get_metric_history(run_id, metric)]


def wait_for(condition, seconds: float = 60):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.05)
    return value


def test_a_training_appears_live_in_the_default_store(folder, capfd):
    params = {"train": {"lr": 0.1, "crop": {"size": 112}}, "note": "x" * 7000}
    tracker = Tracking.start(
        **TRAINING, params=params, tags={"commit": "abc", "data_digest": "f00", "long": "y" * 9000}
    )
    tracker.log_epoch(1, {"loss": 2.0, "val/accuracy": 0.25})
    run_id = wait_for(lambda: tracker.run_id)
    wait_for(lambda: points(run_id))
    assert open_client().get_run(run_id).info.status == "RUNNING"

    tracker.log_epoch(2, {"loss": float("nan"), "val/accuracy": 0.5})
    (folder / "metrics.json").write_text('{"accuracy": 0.5}')
    tracker.log_artifact("metrics.json")
    tracker.finish()

    (run,) = runs()
    assert tracker.run_id == run.info.run_id == run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", "full/seed1")
    assert run.info.start_time <= run.info.end_time <= time.time() * 1000
    assert run.data.params == {"train.lr": "0.1", "train.crop.size": "112", "note": "x" * 6000}
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    digest = {"commit": "abc", "data_digest": "f00", "long": "y" * 8000}
    assert tags == digest | {"transfer.run": "demo/demo_rafdb/full/seed1@d1"}
    assert points(run_id, "val/accuracy") == [(1, 0.25), (2, 0.5)]
    assert [step for step, _ in points(run_id)] == [1, 2]
    assert [file.path for file in open_client().list_artifacts(run_id)] == ["metrics.json"]
    copy = folder / "mlruns" / run.info.experiment_id / run_id / "artifacts" / "metrics.json"
    assert copy.read_text() == '{"accuracy": 0.5}'
    assert {path.name for path in folder.iterdir()} <= {"mlflow.db", "mlflow.db.lock", "mlruns", "metrics.json"}
    assert capfd.readouterr() == ("", "")


def test_six_trainings_at_once_on_a_fresh_store_lose_nothing(capfd):
    trainings = [TRAINING | {"dataset": f"demo_{seed % 2}", "seed": seed} for seed in range(6)]
    trackers = [Tracking.start(**training, params={"lr": 0.1}, tags={}) for training in trainings]
    for epoch in range(1, 11):
        for tracker in trackers:
            tracker.log_epoch(epoch, {"loss": 1 / epoch})
    for tracker in trackers:
        tracker.finish()

    assert capfd.readouterr().err == ""
    for name in ("demo/demo_0", "demo/demo_1"):
        assert len(runs(name)) == 3
    for training, tracker in zip(trainings, trackers, strict=True):
        run = open_client().get_run(tracker.run_id)
        assert (run.info.status, run.info.run_name) == ("FINISHED", f"full/seed{training['seed']}")
        assert run.data.params == {"lr": "0.1"}
        assert points(tracker.run_id) == [(epoch, 1 / epoch) for epoch in range(1, 11)]


def test_a_killed_training_is_continued_in_the_same_run(store):
    killed = f"""
import os, signal
from transfer.tracking import Tracking
tracker = Tracking.start(**{WITHOUT_SETTINGS | {"params": {"epochs": 4, "lr": 1}}})
tracker.log_epoch(1, {{"loss": 1.0}})
tracker.log_epoch(2, {{"loss": 0.5}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(tracking.__file__).parents[1])}
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


def test_only_an_unfinished_run_of_the_same_training_is_continued(store):
    client = open_client()

    def new(name: str, experiment: str, status: str) -> str:
        run = client.create_run(experiment, start_time=next(clock), tags={"transfer.run": name})
        client.set_terminated(run.info.run_id, status)
        return run.info.run_id

    def found(name: str, run_id: str | None = None) -> str | None:
        run = tracking._unfinished(client, here, {"run_id": run_id, "tags": {"transfer.run": name}})
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


def broken_sqlite(folder: Path) -> str:
    (folder / "broken.db").write_bytes(b"no database" * 500)
    return f"sqlite:///{folder}/broken.db"


def truncated_sqlite(folder: Path) -> str:
    (folder / "short.db").write_bytes((folder / "mlflow.db").read_bytes()[:50_000])
    return f"sqlite:///{folder}/short.db"


def forbidden_place(folder: Path) -> str:
    (folder / "file").touch()
    return f"sqlite:///{folder}/file/mlflow.db"


@pytest.mark.parametrize("uri", [broken_sqlite, truncated_sqlite, forbidden_place])
def test_a_place_without_a_database_is_refused_at_once(uri, store, folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(folder))
    with pytest.raises((sqlite3.DatabaseError, OSError)):
        tracking._client()


def test_without_a_store_the_training_goes_on_and_one_line_is_printed(monkeypatch, capfd):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracking.start(**WITHOUT_SETTINGS, history=[{"epoch": 1, "loss": 1.0}])
    tracker.log_epoch(2, {"loss": 0.5})
    tracker._writer.wait()
    tracker.log_epoch(3, {"loss": 0.5})
    tracker.log_artifact("metrics.json")
    tracker.finish()
    tracker.log_epoch(4, {"loss": 0.5})
    assert tracker.run_id is None
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("MLflow does not show this training: ") and err.count("\n") == 1


def test_a_slow_store_delays_no_epoch_and_an_error_of_the_store_is_one_line(store, capfd):
    tracker = Tracking.start(**WITHOUT_SETTINGS)
    os.kill(tracker._writer.pid, signal.SIGSTOP)
    metrics = {f"metric_{i:0200d}": 0.5 for i in range(20)}
    for epoch in range(1, 21):  # 84 kB, more than a pipe holds
        tracker.log_epoch(epoch, metrics)
    tracker.log_artifact("absent.json")
    tracker.log_epoch(21, metrics)
    os.kill(tracker._writer.pid, signal.SIGCONT)
    tracker.finish()
    assert points(tracker.run_id, f"metric_{19:0200d}") == [(epoch, 0.5) for epoch in range(1, 21)]
    err = capfd.readouterr().err
    assert "absent.json" in err and err.count("\n") == 1


def test_a_store_that_hangs_is_given_up(monkeypatch, capfd):
    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 0.2)
    tracker = Tracking.start(**WITHOUT_SETTINGS)
    writer = tracker._writer
    os.kill(writer.pid, signal.SIGSTOP)
    tracker.finish()
    assert writer.returncode == -signal.SIGKILL
    assert capfd.readouterr().err.count("did not answer within 0.2 s") == 1


def test_a_database_that_another_process_still_makes_is_left_alone(store, monkeypatch):
    with sqlite3.connect(store) as connection:
        (head,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("UPDATE alembic_version SET version_num = 'earlier'")
    waiting = threading.Thread(target=tracking._wait_for_migrations, args=[store])
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [head])
    waiting.join(10)
    assert not waiting.is_alive()

    monkeypatch.setattr(tracking, "_STALLED_SECONDS", 0.3)
    store.unlink()
    tracking._wait_for_migrations(store)  # nobody makes it: comes back


def test_disabled_tracking_does_nothing(folder):
    tracker = Tracking.start(**WITHOUT_SETTINGS, enabled=False)
    tracker.log_epoch(1, {"loss": 1.0})
    tracker.log_artifact("absent.json")
    tracker.finish()
    assert tracker.run_id is None and not list(folder.iterdir())
