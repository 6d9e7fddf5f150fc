"""Fixtures of several test files: the command line, one torch thread, an MLflow store of each test's own."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from finished_runs import finished, layout
from tracking_store import end_writers

from transfer import cli

__all__ = ["finished", "layout"]  # fixtures of several files


@pytest.fixture
def transfer(monkeypatch, capsys):
    """Run the command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["transfer", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return (end.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def one_thread():
    """One torch thread for the tests of a file."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A database with MLflow's tables, made once, since that takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def mlflow_folder(tmp_path, monkeypatch) -> Path:
    """Work where MLflow's default store is not the repository's, with a spool folder of one's own."""
    spool, work = tmp_path / "tmp", tmp_path / "work"
    spool.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("TMPDIR", str(spool))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield work
    end_writers(spool)


@pytest.fixture
def mlflow_store(mlflow_folder, empty_store) -> Path:
    return Path(shutil.copy(empty_store, mlflow_folder / "mlflow.db"))
