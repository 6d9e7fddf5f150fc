"""Fixtures of several test files: an MLflow store of each test's own, and writers that end with the test."""

import shutil
import tempfile
from pathlib import Path

import pytest
from tracking_store import end_writers


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
