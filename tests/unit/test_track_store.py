"""Stores that cannot be used: one clear line each, soon, and nothing changed."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from transfer.tracking import store
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _alone(mlflow_folder):
    pass


def fails(match: str) -> str:
    with pytest.raises(UserError, match=match) as caught:
        store.open_store()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_experiment_is_created_once_and_its_artifacts_lie_beside_the_database(mlflow_store):
    client = store.open_store()
    experiment = store.experiment_id(client, "a/b")
    assert store.experiment_id(client, "a/b") == experiment
    assert client.get_experiment(experiment).artifact_location.endswith(f"/mlruns/{experiment}")
    client.delete_experiment(experiment)
    with pytest.raises(UserError, match=f"a/b was deleted; run: mlflow experiments restore .* {experiment}$"):
        store.experiment_id(client, "a/b")


def test_a_recipe_has_one_run_whoever_creates_it(mlflow_store):
    client = store.open_store()
    experiment = store.experiment_id(client, "a/b")
    first = store.parent_run(client, experiment, "a/b", "full")
    assert store.parent_run(client, experiment, "a/b", "full") == first
    assert store.parent_run(client, experiment, "a/b", "baseline") != first
    # Another process looked before the first one was made, and is slower.
    search = client.search_runs
    answers = [[]]
    client.search_runs = lambda *given, **options: answers.pop() if answers else search(*given, **options)
    assert store.parent_run(client, experiment, "a/b", "full") == first
    client.search_runs = search
    assert len(client.search_runs([experiment], "tags.`transfer.recipe` = 'a/b/full'")) == 1


def test_two_processes_create_one_database(mlflow_folder):
    command = [sys.executable, "-W", "ignore", "-c", "from transfer.tracking.store import open_store; open_store()"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0] and errors == ["", ""]
    assert sorted(path.name for path in mlflow_folder.iterdir() if path.suffix != ".lock") == ["mlflow.db"]


def test_a_store_of_another_mlflow_is_left_alone(mlflow_store):
    with sqlite3.connect(mlflow_store) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        connection.execute("DROP TABLE logged_models")  # which makes MLflow itself upgrade it, without a question
    before = mlflow_store.read_bytes()
    line = fails(r"mlflow\.db: made by another MLflow \(tables 451aebb31d03; MLflow 3\.")
    assert "run: mlflow db upgrade sqlite:///" in line
    assert mlflow_store.read_bytes() == before


@pytest.mark.parametrize("size", [None, 50_000])
def test_a_file_that_is_no_database(mlflow_store, monkeypatch, size):
    content = mlflow_store.read_bytes()[:size] if size else b"no database" * 500
    Path("broken.db").write_bytes(content)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///broken.db")
    fails(r"^MLflow's store sqlite:///broken\.db: .*(malformed|not a database)")
    assert Path("broken.db").read_bytes() == content


def test_a_place_where_nothing_can_be_made(monkeypatch):
    Path("file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///file/mlflow.db")
    fails("^MLflow's store sqlite:///file/mlflow.db: ")


def test_a_database_that_another_process_creates(mlflow_store, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(store, "_CREATE_SECONDS", 0.1)
    with FileLock("mlflow.db.lock"):
        fails(r"mlflow\.db\.lock: held by another process for 0\.1 s")


def test_a_database_that_another_process_writes_to(mlflow_store):
    with contextlib.closing(sqlite3.connect(mlflow_store)) as other:
        other.execute("BEGIN EXCLUSIVE")
        fails(r"mlflow\.db: .*database is locked; another process holds it; wait until it ends$")
    store.open_store()


def closed_port() -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return closed.getsockname()[1]


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{closed_port()}")
    line = fails(
        r"^MLflow's store http://me:\*\*\*@127\.0\.0\.1:\d+ cannot be reached \(ConnectionError\); start its server"
    )
    assert "secret" not in line


def test_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(store, "_CONNECT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        fails(r"cannot be reached \(ReadTimeout\)")


def test_a_postgresql_that_is_not_there(monkeypatch):
    pytest.importorskip("psycopg2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:secret@127.0.0.1:{closed_port()}/mlflow")
    line = fails(r"^MLflow's store postgresql://me:\*\*\*@.*refused.*; start it, or correct")
    assert "secret" not in line


def test_a_folder_which_mlflow_no_longer_takes(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    fails("^MLflow's store ./mlruns: ")
    assert not os.path.exists("mlruns")


def test_the_store_is_in_the_folder_whatever_its_name(tmp_path):
    """A process of its own: MLflow keeps stores by their URI."""
    folder = tmp_path / "odd" / "a #1 50% ü {x}: b%20c"
    folder.mkdir(parents=True)
    code = (
        "from pathlib import Path; from transfer.tracking import store; client = store.open_store(); Path('x').touch();"
        "run = client.create_run(store.experiment_id(client, 'demo/d')).info.run_id; client.log_artifact(run, 'x');"
        "print(client.list_artifacts(run)[0].path)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("x\n", 0), done.stderr
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlflow.db.lock", "mlruns", "x"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
