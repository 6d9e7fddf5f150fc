"""Summary of an experiment for `dvc metrics` and `dvc plots`: accuracies by recipe, and all learning curves."""

import shutil
from pathlib import Path

import pandas as pd

from transfer.layout import Layout
from transfer.params import Params
from transfer.utils.errors import UserError
from transfer.utils.files import write_json, write_text


def write_overview(params: Params, layout: Layout) -> None:
    """Write R/metrics/DATASET/RECIPE.json (percent by protocol) and R/history.csv. Raises UserError."""
    table = _read(layout.table("table1", "csv"), "table")
    histories = [
        read_history(layout, dataset, recipe, seed).assign(dataset=dataset, recipe=recipe, seed=seed)
        for dataset, recipe, seed in params.runs()
    ]
    shutil.rmtree(layout.metrics, ignore_errors=True)
    for (dataset, recipe), rows in table.groupby(["dataset", "recipe"], sort=False):
        accuracies = dict(zip(rows["protocol"], rows["accuracy"], strict=True))
        write_json(layout.metrics / str(dataset) / f"{recipe}.json", accuracies)
    columns = ["dataset", "recipe", "seed", "epoch", "train_loss", "val_accuracy"]
    write_text(layout.root / "history.csv", pd.concat(histories)[columns].to_csv(index=False))


def read_history(layout: Layout, dataset: str, recipe: str, seed: int) -> pd.DataFrame:
    """Return the epochs of a run: epoch, train_loss, val_accuracy in percent. Raises UserError if there is no file."""
    run = _read(layout.run(dataset, recipe, seed) / "history.csv", "train")[["epoch", "train_loss", "val_accuracy"]]
    return run.assign(train_loss=run["train_loss"].round(4), val_accuracy=(100 * run["val_accuracy"]).round(2))


def _read(path: Path, verb: str) -> pd.DataFrame:
    if not path.exists():
        raise UserError(f"{path}: missing; make it with transfer {verb}, or let snakemake do it")
    return pd.read_csv(path)
