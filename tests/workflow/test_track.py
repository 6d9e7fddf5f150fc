"""`snakemake track`: every run in MLflow from the files alone, and every cell of the table as there."""

import pytest

pytestmark = pytest.mark.workflow


def test_track(copy):
    copy.environment["MLFLOW_TRACKING_URI"] = "sqlite:///other.db"
    first = copy.snakemake("track")
    assert first.returncode == 0, first.stdout
    assert "smallest: 12 runs created, 0 completed, 0 unchanged; 6 models registered" in first.stdout
    assert "results/smallest/table1.csv: 414 cells, all as in MLflow" in first.stdout

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
