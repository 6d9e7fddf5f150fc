"""What dvc metrics and dvc plots show of an experiment, on small runs written by hand."""

import json
from pathlib import Path

import pandas as pd
import pytest

from transfer.layout import Layout
from transfer.params import read as config
from transfer.tables.publish import write_overview
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    params = config.load([], ["datasets=[demo_rafdb]", "recipes=[baseline,full]", "seeds=[0,1]"])
    layout = Layout(params.experiment, tmp_path)
    cells = [("baseline", "last", 60.5), ("baseline", "val_selected", 61.0), ("full", "last", 70.25)]
    table = pd.DataFrame(cells, columns=["recipe", "protocol", "accuracy"]).assign(dataset="demo_rafdb")
    layout.root.mkdir()
    table.to_csv(layout.root / "table1.csv", index=False)
    for recipe in params.recipes:
        for seed in params.seeds:
            run = layout.run("demo_rafdb", recipe, seed)
            run.mkdir(parents=True)
            loss = [2.0, 1.23456 + seed]
            history = {"epoch": [1, 2], "lr": [1, 1], "train_loss": loss, "val_accuracy": [0.5, 2 / 3]}
            pd.DataFrame(history).to_csv(run / "history.csv", index=False)
    return params, layout


def test_files_by_hand(experiment):
    params, layout = experiment
    stale = layout.metrics / "demo_rafdb" / "msad.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    write_overview(params, layout)
    files = {
        str(path.relative_to(layout.metrics)): json.loads(path.read_text()) for path in layout.metrics.rglob("*.json")
    }
    assert files == {
        "demo_rafdb/baseline.json": {"last": 60.5, "val_selected": 61.0},
        "demo_rafdb/full.json": {"last": 70.25},
    }
    history = pd.read_csv(layout.root / "history.csv")
    assert list(history) == ["dataset", "recipe", "seed", "epoch", "train_loss", "val_accuracy"]
    assert len(history) == 2 * 2 * 2
    assert history.iloc[-1].tolist() == ["demo_rafdb", "full", 1, 2, 2.2346, 66.67]


@pytest.mark.parametrize("name", ["table1.csv", "runs/demo_rafdb/full/seed1/history.csv"])
def test_a_missing_file_is_named_and_nothing_is_lost(experiment, name):
    params, layout = experiment
    write_overview(params, layout)
    (layout.root / name).unlink()
    with pytest.raises(UserError, match=name):
        write_overview(params, layout)
    assert (layout.metrics / "demo_rafdb" / "full.json").exists()
