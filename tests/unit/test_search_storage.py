"""Storages of studies: what each says when it cannot be used, and PostgreSQL for real."""

import contextlib
import re
import shutil
import sqlite3
from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState
from postgres import PASSWORD, Postgres
from tiny_search import kill, search_params, start_worker, wait_for
from tiny_training import tiny_dataset

from transfer.layout import Layout
from transfer.search import storage as storage_module
from transfer.search import study as shared
from transfer.search.storage import FileLock, Store, store_of
from transfer.search.study import SharedStudy
from transfer.search.worker import work
from transfer.training import run
from transfer.utils.errors import UserError


def message(function, *arguments) -> str:
    """The one line of the UserError that ``function`` raises."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- which one ---


def test_the_journal_is_a_file_of_the_experiment(tmp_path):
    store = store_of(search_params(), Layout("tiny", tmp_path))
    assert store.file == store.journal == tmp_path / "tiny" / "search" / "journal.log"
    store.open()
    assert store.journal.exists()


def test_variables_of_the_environment(tmp_path, monkeypatch):
    layout = Layout("tiny", tmp_path)
    monkeypatch.setenv("PW", "a@b/c:d")
    store = store_of(search_params(storage="postgresql://me:${PW}@host:5432/db"), layout)
    assert store.url == "postgresql://me:a%40b%2Fc%3Ad@host:5432/db"
    assert store.shown == "postgresql://me:***@host:5432/db"
    monkeypatch.setenv("STUDIES", f"sqlite:///{tmp_path}/a b.db")
    assert store_of(search_params(storage="${STUDIES}"), layout).url == f"sqlite:///{tmp_path}/a b.db"
    monkeypatch.setenv("STUDIES", "mysql://me:secret@host/db")
    assert "secret" not in message(store_of, search_params(storage="${STUDIES}"), layout)
    monkeypatch.delenv("STUDIES")
    assert "environment variable STUDIES is not set" in message(store_of, search_params(storage="${STUDIES}"), layout)


# --- what cannot be used ---


def test_a_damaged_journal_is_said_and_kept(tmp_path):
    store = store_of(search_params(), Layout("tiny", tmp_path))
    optuna.create_study(storage=store.open(), study_name="x")
    with open(store.journal, "a") as file:
        file.write('{"op_code": 4, "worker_\n{"op_code": 5}\n')
    before = store.journal.read_bytes()
    assert "not a journal of Optuna, or damaged" in message(Store(str(store.journal)).open)
    assert store.journal.read_bytes() == before


def test_a_sqlite_file_that_is_something_else(tmp_path):
    (tmp_path / "studies.db").write_text("my notes\n" * 100)
    assert "file is not a database" in message(Store(f"sqlite:///{tmp_path}/studies.db").open)


@pytest.mark.parametrize(
    ("revision", "said"),
    [
        (
            "v2.6.0.a",
            r"made by an older Optuna than the installed 5\.\S+; make a copy .* run: optuna storage upgrade",
        ),
        ("from_the_future", r"made by a newer Optuna than the installed 5\.\S+; use the Optuna that made it"),
    ],
)
def test_a_schema_of_another_version(tmp_path, revision, said):
    store = Store(f"sqlite:///{tmp_path}/studies.db")
    store.open()
    with sqlite3.connect(tmp_path / "studies.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    before = store.file.read_bytes()
    assert re.search(said, message(store.open))
    assert store.file.read_bytes() == before


def test_a_database_that_another_process_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_module, "_SQLITE_SECONDS", 0.1)
    store = Store(f"sqlite:///{tmp_path}/studies.db")
    study = optuna.create_study(storage=store.open(), study_name="x")

    def ask():
        with store.errors():
            study.ask()

    with contextlib.closing(sqlite3.connect(tmp_path / "studies.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        for attempt in (store.open, ask):
            assert "database is locked; another process holds it; wait until it ends, or end it" in message(attempt)
    ask()
    assert len(study.trials) == 1


def test_a_driver_that_is_not_installed():
    found = message(Store("postgresql+nodriver://me@host/db").open)
    assert "psycopg2-binary" in found or "nodriver" in found


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "results").write_text("a file\n")
    layout, params = Layout("tiny", tmp_path / "results"), search_params()
    assert "Not a directory" in message(store_of(params, layout).open)
    assert "Not a directory" in message(SharedStudy, params, "searched", "faces", layout, {})


# --- locks ---


def test_a_lock_is_held_once_and_freed(tmp_path):
    one, two = FileLock(tmp_path / "a" / "lock"), FileLock(tmp_path / "a" / "lock")
    assert one.acquire(0)
    assert not two.acquire(0.1)
    one.release()
    assert two.acquire(0)


def test_the_journals_own_lock_of_a_killed_worker_is_given_up(tmp_path, monkeypatch):
    """Optuna's lock is a link that stays after a kill; it must be recognised as stale, not waited for for ever."""
    lock = storage_module.JournalFileSymlinkLock
    monkeypatch.setattr(storage_module, "JournalFileSymlinkLock", lambda path: lock(path, grace_period=3))
    monkeypatch.chdir(tmp_path)
    store = store_of(search_params(), Layout("tiny"))  # below a relative results/
    storage = store.open()
    store.journal.with_name("journal.log.lock").symlink_to(store.journal)
    optuna.create_study(storage=storage, study_name="x")


# --- PostgreSQL ---


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg2")
    if not (shutil.which("initdb") and shutil.which("postgres")):
        pytest.skip("no PostgreSQL on PATH")
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def layout(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIES_PASSWORD", PASSWORD)
    return tiny_dataset(tmp_path)


def states(params, layout) -> Counter:
    study = optuna.load_study(study_name=f"{params.experiment}/searched/faces", storage=store_of(params, layout).open())
    return Counter(trial.state.name for trial in study.get_trials())


def of_experiment(params, name):
    """The same search in an experiment of its own: the server is shared by the tests."""
    return params.model_copy(update={"experiment": name})


def test_two_workers_on_postgresql(server, layout):
    params = of_experiment(search_params(storage=server.url(), trials=5, epochs=1), "two")
    workers = [start_worker(params, layout, number) for number in range(2)]
    for process in workers:
        process.join(timeout=100)
    assert [process.exitcode for process in workers] == [0, 0]
    assert states(params, layout) == {"COMPLETE": 5}
    written = [path for path in layout.root.rglob("*") if path.suffix in (".json", ".log", ".yaml")]
    assert len(written) == 2
    for path in written:
        assert PASSWORD not in path.read_text() and "s3cr" not in path.read_text()


def test_a_killed_worker_on_postgresql(server, layout):
    params = of_experiment(search_params(storage=server.url(), trials=3), "killed")
    process = start_worker(params, layout, number=1)
    wait_for((layout.search_state("searched", "faces") / "trial1" / "seed0" / "last.pt").exists)
    kill(process)
    work(params, "searched", "faces", 0, layout)  # another worker than the one that died
    assert states(params, layout) == {"COMPLETE": 3, "FAIL": 1}


def test_the_same_worker_twice_on_postgresql(server, layout, monkeypatch):
    monkeypatch.setattr(shared, "_STARTUP", 0.1)
    params = of_experiment(search_params(storage=server.url()), "twice")
    one, two = (SharedStudy(params, "searched", "faces", layout, {}) for _ in range(2))
    with one.worker(0):
        found = message(two.worker(0).__enter__)
        assert "worker 0 of study twice/searched/faces runs already" in found and PASSWORD not in found
        claimed, _ = one.claim()
        with two.worker(1):
            two.claim()
        assert states(params, layout) == {"RUNNING": 2}, "the trial of a worker that is alive is its own"
        one.tell(claimed, TrialState.COMPLETE, 0.5)


def test_a_server_that_dies_and_comes_back(server, layout, monkeypatch):
    params = of_experiment(search_params(storage=server.url(), trials=3), "dies")
    evaluate, epochs = run.Training._evaluate, []

    def with_an_accident(self, row):
        evaluate(self, row)
        epochs.append(row["epoch"])
        if len(epochs) == 3:  # in the second trial
            server.stop()

    with monkeypatch.context() as patch:
        patch.setattr(run.Training, "_evaluate", with_an_accident)
        found = message(work, params, "searched", "faces", 0, layout)
        assert found.startswith("search_storage postgresql://tester:***@127.0.0.1:")
    found = message(work, params, "searched", "faces", 0, layout)
    assert "Connection refused" in found and "finished trials stay" in found and "s3cr" not in found
    server.start()
    work(params, "searched", "faces", 0, layout)
    assert states(params, layout) == {"COMPLETE": 3, "FAIL": 1}


def test_a_wrong_password_is_said_and_not_shown(server, layout, monkeypatch):
    monkeypatch.setenv("STUDIES_PASSWORD", "wr0ng")
    params = search_params(storage=server.url())
    found = message(work, params, "searched", "faces", 0, layout)
    assert "password authentication failed" in found and "wr0ng" not in found
