"""Stores that cannot be used: one clear line each, soon, and nothing changed."""

import contextlib
import os
import socket
import sqlite3
import threading
from pathlib import Path

import pytest

from transfer.tracking import store
from transfer.utils.errors import UserError


@pytest.fixture(autouse=True)
def _alone(mlflow_folder):
    pass


def fails(match: str) -> str:
    with pytest.raises(UserError, match=match) as caught:
        store.open_store(seconds=1)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_experiment_is_made_once_and_its_artifacts_lie_beside_the_database(mlflow_store):
    client = store.open_store()
    experiment = store.experiment_id(client, "a/b")
    assert store.experiment_id(client, "a/b") == experiment
    assert client.get_experiment(experiment).artifact_location.endswith(f"/mlruns/{experiment}")


def test_an_experiment_that_was_deleted_in_mlflow(mlflow_store):
    client = store.open_store()
    experiment = store.experiment_id(client, "a/b")
    client.delete_experiment(experiment)
    with pytest.raises(UserError, match=f"a/b was deleted there; run: mlflow experiments restore .* {experiment}$"):
        store.experiment_id(client, "a/b")


def test_a_recipe_has_one_run_whoever_makes_it(mlflow_store):
    client = store.open_store()
    experiment = store.experiment_id(client, "a/b")
    first = store.parent_run(client, experiment, "a/b", "full")
    assert store.parent_run(client, experiment, "a/b", "full") == first
    assert store.parent_run(client, experiment, "a/b", "baseline") != first
    # Another process looked before the first one was made, and is slower.
    search = client.search_runs
    answers = iter([[]])
    client.search_runs = lambda *arguments, **keywords: next(answers, None) or search(*arguments, **keywords)
    assert store.parent_run(client, experiment, "a/b", "full") == first
    client.search_runs = search
    assert len(client.search_runs([experiment], "tags.`transfer.recipe` = 'a/b/full'")) == 1


def set_version(path: Path, version: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [version])


def test_a_store_of_another_mlflow_is_left_alone(mlflow_store, monkeypatch):
    monkeypatch.setattr(store, "_STALLED_SECONDS", 0.3)
    set_version(mlflow_store, "ffffffffffff")
    before = mlflow_store.read_bytes()
    fails(r"mlflow\.db: made by a newer MLflow \(tables ffffffffffff\) than the installed 3\.")
    set_version(mlflow_store, "451aebb31d03")
    with sqlite3.connect(mlflow_store) as connection:
        connection.execute("DROP TABLE logged_models")  # which makes MLflow itself upgrade it, without a question
    old = mlflow_store.read_bytes()
    assert "then run: mlflow db upgrade sqlite:///" in fails(
        r"mlflow\.db: made by an older MLflow \(tables 451aebb31d03\)"
    )
    assert mlflow_store.read_bytes() == old != before


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


def test_a_database_that_another_process_holds(mlflow_store, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(store, "_LOCK_SECONDS", 0.1)
    with FileLock("mlflow.db.lock"):
        fails(r"mlflow\.db\.lock: held by another process for 0\.1 s")


def test_a_database_that_another_process_writes_to(mlflow_store, monkeypatch):
    monkeypatch.setattr(store, "_SQLITE_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(mlflow_store)) as other:
        other.execute("BEGIN EXCLUSIVE")
        fails(r"mlflow\.db: database is locked: another process holds it; wait until it ends, or end it$")
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
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        fails(r"cannot be reached \(ReadTimeout\)")


def test_a_postgresql_that_is_not_there(monkeypatch):
    pytest.importorskip("psycopg2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:secret@127.0.0.1:{closed_port()}/mlflow")
    line = fails(r"^MLflow's store postgresql://me:\*\*\*@.* cannot be used: .*refused")
    assert "secret" not in line


def test_a_folder_which_mlflow_no_longer_takes(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    fails("^MLflow's store ./mlruns: ")
    assert not os.path.exists("mlruns")


def test_a_database_that_another_process_still_makes_is_left_alone(mlflow_store, monkeypatch):
    with sqlite3.connect(mlflow_store) as connection:
        (head,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    set_version(mlflow_store, "451aebb31d03")
    waiting = threading.Thread(target=store._wait_for_migrations, args=[mlflow_store])
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    set_version(mlflow_store, head)
    waiting.join(10)
    assert not waiting.is_alive()

    monkeypatch.setattr(store, "_STALLED_SECONDS", 0.3)
    set_version(mlflow_store, "451aebb31d03")
    assert store._wait_for_migrations(mlflow_store) == "451aebb31d03"  # nobody makes it: comes back
    mlflow_store.unlink()
    assert store._wait_for_migrations(mlflow_store) is None
