"""`snakemake track`: every run in MLflow from the files alone, and every cell of the table as there."""

import shutil
import sqlite3
from contextlib import closing

import pandas as pd
import pytest
from repository import ROOT, SMALLEST, Repository

pytestmark = pytest.mark.workflow


def test_track(copy):
    copy.environment["MLFLOW_TRACKING_URI"] = "sqlite:///other.db"
    first = copy.snakemake("track")
    assert first.returncode == 0, first.stdout
    assert "smallest: 12 runs created, 0 completed, 0 unchanged; 6 models registered" in first.stdout
    assert "results/smallest/table1.csv: 522 cells, all as in MLflow" in first.stdout

    again = copy.snakemake("track")
    assert again.returncode == 0, again.stdout
    assert "smallest: 0 runs created, 0 completed, 12 unchanged; 0 models registered" in again.stdout

    table = copy.root / "results/smallest/table1.csv"
    text = table.read_text()
    cell = text.splitlines()[1].split(",")[8]
    table.write_text(text.replace(f",{cell},", ",99.99,", 1))
    differs = copy.snakemake("track")
    assert differs.returncode != 0
    assert (
        f"demo_rafdb baseline last: accuracy is 99.99 in results/smallest/table1.csv, {cell} in MLflow"
        in differs.stdout
    )


def test_the_whole_workflow_in_a_folder_of_any_name(sources, tmp_path):
    """Characters that mean something to a shell, to Snakemake, in a URL or in YAML."""
    folder = tmp_path / "fäces #1 50% a: b%20c [y] $HOME ~ & 'z' ?"
    repository = Repository(shutil.copytree(sources, folder / "project"), *SMALLEST)
    repository.environment["PYTHONPATH"] = str(ROOT)  # the writer does not look for the package in its folder
    one = ["datasets=[demo_rafdb]", "recipes=[baseline]", "seeds=[0]", "search_definitions={searched: {trials: 1}}"]
    done = repository.snakemake("results/table1.csv", "track", "--config", *one)
    assert done.returncode == 0, done.stdout
    assert len(pd.read_csv(folder / "project/results/table1.csv")) == 3
    assert [path.name for path in folder.iterdir()] == ["project"]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "no second store beside it"
    with closing(sqlite3.connect(f"{folder}/project/mlflow.db")) as database:
        assert database.execute("select count(*) from runs where status = 'FINISHED'").fetchone() == (3,)
    assert list((folder / "project/mlruns").rglob("metrics.json"))
    assert repository.scheduled("results/table1.csv", "--config", *one) == {}
    verified = repository.process("python", "-m", "transfer", "verify", "--params", "results/smallest/params.yaml")
    assert verified.returncode == 0 and "not checked" not in verified.stdout, verified.stdout
