"""Storages of studies: what each says when it cannot be used, and PostgreSQL for real."""

import re
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier
from urllib.parse import quote

import optuna
import psycopg2
import pytest
from postgres import PASSWORD, Postgres
from tiny_search import kill, load, scripted, search_params, start_worker, states, wait_for
from tiny_training import tiny_dataset

from transfer.layout import Layout
from transfer.search import study as storage_module
from transfer.search.study import open_storage, storage_url
from transfer.search.worker import work
from transfer.utils.errors import UserError
from transfer.utils.text import public


def message(function, *arguments, **named) -> str:
    """The one line of the UserError that ``function`` raises."""
    with pytest.raises(UserError) as error:
        function(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- which one ---


def test_the_journal_is_a_file_of_the_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = storage_url(search_params(), Layout("tiny"))  # below a relative results/
    assert url == str(tmp_path / "results/tiny/search/journal.log"), "Optuna's lock is a link to it: absolute"
    open_storage(url)
    assert (tmp_path / "results/tiny/search/journal.log").exists()


def test_variables_of_the_environment(tmp_path, monkeypatch):
    layout = Layout("tiny", tmp_path)
    monkeypatch.setenv("PW", "a@b/c:d")
    url = storage_url(search_params(storage="postgresql://me:${PW}@host:5432/db"), layout)
    assert url == "postgresql://me:a%40b%2Fc%3Ad@host:5432/db"
    assert public(url) == "postgresql://me:***@host:5432/db"
    monkeypatch.setenv("STUDIES", f"sqlite:///{tmp_path}/a b.db")
    assert storage_url(search_params(storage="${STUDIES}"), layout) == f"sqlite:///{tmp_path}/a b.db"
    monkeypatch.setenv("STUDIES", "mysql://me:secret@host/db")
    assert "secret" not in message(storage_url, search_params(storage="${STUDIES}"), layout)
    monkeypatch.delenv("STUDIES")
    found = message(storage_url, search_params(storage="${STUDIES}"), layout)
    assert "needs the environment variable STUDIES; set it" in found


# --- what cannot be used ---


def test_a_damaged_journal_is_said_and_kept(tmp_path):
    journal = tmp_path / "journal.log"
    optuna.create_study(storage=open_storage(str(journal)), study_name="x")
    with open(journal, "a") as file:
        file.write('{"op_code": 4, "worker_\n{"op_code": 5}\n')
    before = journal.read_bytes()
    assert f"search_storage {journal}: cannot be used" in message(open_storage, str(journal))
    assert journal.read_bytes() == before


def test_a_sqlite_file_that_is_something_else(tmp_path):
    (tmp_path / "studies.db").write_text("my notes\n" * 100)
    assert "file is not a database" in message(open_storage, f"sqlite:///{tmp_path}/studies.db")


@pytest.mark.parametrize(
    ("revision", "said"),
    [("v2.6.0.a", "optuna storage upgrade"), ("from_the_future", "[Pp]lease try updating optuna|newer|latest")],
)
def test_a_schema_of_another_version(tmp_path, revision, said):
    url = f"sqlite:///{tmp_path}/studies.db"
    open_storage(url)
    with sqlite3.connect(tmp_path / "studies.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    before = (tmp_path / "studies.db").read_bytes()
    assert re.search(said, message(open_storage, url))
    assert (tmp_path / "studies.db").read_bytes() == before


def test_a_driver_that_is_not_installed():
    found = message(open_storage, "postgresql+nodriver://me@host/db")
    assert "nodriver" in found


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "results").write_text("a file\n")
    url = storage_url(search_params(), Layout("tiny", tmp_path / "results"))
    assert "Not a directory" in message(open_storage, url)


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


def of_experiment(params, name):
    """The same search in an experiment of its own: the server is shared by the tests."""
    return params.model_copy(update={"experiment": name})


def test_two_workers_on_postgresql_and_a_killed_one(server, layout):
    params = of_experiment(search_params(storage=server.url(), trials=4), "two")
    killed = start_worker(params, layout, number=1)
    wait_for((layout.search_state("searched", "faces") / "trial1" / "seed0" / "last.pt").exists)
    kill(killed)
    workers = [start_worker(params, layout, number) for number in range(2)]
    for process in workers:
        process.join(timeout=100)
    assert [process.exitcode for process in workers] == [0, 0]
    found = states(params, layout)
    assert found["COMPLETE"] in (4, 5) and found["FAIL"] == 1 and set(found) == {"COMPLETE", "FAIL"}
    written = [path for path in layout.root.rglob("*") if path.suffix in (".json", ".log", ".yaml")]
    assert len(written) == 2
    for path in written:
        assert PASSWORD not in path.read_text() and "s3cr" not in path.read_text()


def test_workers_that_start_at_once_share_the_creation_of_the_tables(server, tmp_path):
    urls, there = [f"sqlite:///{tmp_path}/new.db"], server.url(quote(PASSWORD, safe=""))
    for name in ("one", "two", "three"):
        with closing(psycopg2.connect(there)) as database:
            database.autocommit = True
            database.cursor().execute(f"CREATE DATABASE {name}")
        urls.append(there.replace("/postgres", f"/{name}"))
    for url in urls:
        together = Barrier(4)
        with ThreadPoolExecutor(4) as workers:
            found = list(workers.map(lambda _, url=url, start=together: (start.wait(), open_storage(url))[1], range(4)))
        assert [storage.get_all_studies() for storage in found] == [[]] * 4


def test_a_server_that_dies_and_comes_back(server, layout):
    params, runs = of_experiment(search_params(storage=server.url(), trials=3), "dies"), []

    def with_an_accident(run):
        runs.append(run)
        if len(runs) == 2:
            server.stop()
        return [0.5]

    found = message(work, params, "searched", "faces", 0, layout, train=scripted(with_an_accident))
    assert found.startswith("search_storage postgresql://tester:***@127.0.0.1:")
    found = message(work, params, "searched", "faces", 0, layout, train=scripted())
    assert "Connection refused" in found and "run the same command again" in found and "s3cr" not in found
    server.start()
    work(params, "searched", "faces", 0, layout, train=scripted())
    assert states(params, layout) == {"COMPLETE": 3, "FAIL": 1}


def test_a_wrong_password_is_said_and_not_shown(server, layout, monkeypatch):
    monkeypatch.setenv("STUDIES_PASSWORD", "wr0ng")
    params = search_params(storage=server.url())
    found = message(work, params, "searched", "faces", 0, layout)
    assert "password authentication failed" in found and "wr0ng" not in found


# --- heartbeats ---


def test_a_trial_without_a_sign_of_life_is_retried_by_another_worker(layout, tmp_path, monkeypatch):
    """A worker on a machine that is lost: nobody starts it again."""
    monkeypatch.setattr(storage_module, "HEARTBEAT", 1)
    params = search_params(storage=f"sqlite:///{tmp_path}/studies.db", trials=1)

    def killed(run):
        raise SystemExit  # Optuna does not see it: the trial stays running

    with pytest.raises(SystemExit):
        work(params, "searched", "faces", 1, layout, train=scripted(killed))
    study = load(params, layout)
    with sqlite3.connect(tmp_path / "studies.db") as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = '2020-01-01'")
    study.optimize(lambda trial: 0.5, n_trials=1)
    assert states(params, layout) == {"FAIL": 1, "COMPLETE": 1}
