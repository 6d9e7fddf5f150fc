"""An experiment at a glance: an accuracy per recipe and protocol, and all learning curves in one file."""

import shutil
from collections.abc import Mapping

import pandas as pd

from transfer.layout import Layout
from transfer.params import Params
from transfer.utils.errors import UserError
from transfer.utils.files import write_json, write_text

_CURVES = ["epoch", "train_loss", "val_accuracy"]


def write_overview(params: Params, layout: Layout) -> None:
    """Write R/metrics/<dataset>/<recipe>.json and R/history.csv from the table and the histories of the runs.

    Metrics of datasets and recipes that the experiment has no more are removed. Raises UserError for a missing file.
    """
    path = layout.root / "table1.csv"
    if not path.exists():
        raise UserError(f"{path}: not there; make it with transfer table, or let snakemake do it")
    metrics = accuracies(pd.read_csv(path))
    history = histories(params, layout)
    shutil.rmtree(layout.metrics, ignore_errors=True)
    for (dataset, recipe), values in metrics.items():
        write_json(layout.metrics / dataset / f"{recipe}.json", values)
    write_text(layout.root / "history.csv", history.to_csv(index=False))


def accuracies(table: pd.DataFrame) -> Mapping[tuple[str, str], dict[str, float]]:
    """Accuracy in percent by protocol, for each dataset and recipe of Table 1."""
    cells = table.groupby(["dataset", "recipe"], sort=False)
    return {key: dict(zip(rows["protocol"], rows["accuracy"], strict=True)) for key, rows in cells}


def histories(params: Params, layout: Layout) -> pd.DataFrame:
    """The epochs of all runs: dataset, recipe, seed, epoch, train_loss, val_accuracy in percent.

    Raises UserError for the first run that has no history.
    """
    frames = []
    for dataset, recipe, seed in params.runs():
        run = read_history(layout, dataset, recipe, seed)
        frames.append(run.assign(dataset=dataset, recipe=recipe, seed=seed))
    return pd.concat(frames)[["dataset", "recipe", "seed", *_CURVES]]


def read_history(layout: Layout, dataset: str, recipe: str, seed: int) -> pd.DataFrame:
    """The epochs of one run: epoch, train_loss, val_accuracy in percent. Raises UserError where there are none."""
    path = layout.run(dataset, recipe, seed) / "history.csv"
    if not path.exists():
        raise UserError(f"{path}: not there; make it with transfer train, or let snakemake do it")
    run = pd.read_csv(path)[_CURVES]
    run["train_loss"] = run["train_loss"].round(4)
    run["val_accuracy"] = (100 * run["val_accuracy"]).round(2)
    return run
