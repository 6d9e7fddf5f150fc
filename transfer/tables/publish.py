"""Results for others: results/published/<experiment>/ for git, and the summary for `dvc metrics` and `dvc plots`."""

import shutil
from pathlib import Path

import pandas as pd

from transfer.layout import Layout
from transfer.params import Params
from transfer.params import read as config
from transfer.utils.errors import UserError, remake
from transfer.utils.files import whole_folder, write_json, write_text


def publish(params: Params, layout: Layout) -> Path:
    """Copy the experiment's tables, charts, parameters and small run files, and its leak audit; returns the folder.

    Whichever of tables and audit exists is replaced; no faces, weights or predictions are copied. Raises UserError if
    both are missing, or a file of the tables is.
    """
    folder = layout.results / "published" / params.experiment
    audit = [layout.audit / name for name in ("audit.csv", "audit.md", "duplicates.csv")]
    files = audit if all(file.exists() for file in audit) else []
    with_tables = not files or layout.table("table1", "csv").exists()
    if with_tables:
        files = [*files, *_table_files(params, layout)]
    for file in files:
        if not file.exists():
            raise UserError(f"{file}: missing; {remake('tables')}")
    layout.chain.check(*files)
    with whole_folder(folder) as part:
        kept = Path("audit" if with_tables else ".")
        if (folder / kept).exists():
            shutil.copytree(folder / kept, part / kept, dirs_exist_ok=True)
        if with_tables:
            default = Params.model_fields["raw_dir"].default
            config.snapshot(params.model_copy(update={"raw_dir": default}), part / "params.yaml")
        for file in files:
            copy = part / file.relative_to(layout.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return folder


def _table_files(params: Params, layout: Layout) -> list[Path]:
    tables = ["table1", *(name for name in params.table_definitions if layout.table(name, "csv").exists())]
    runs = dict.fromkeys([*params.runs(), *(run for name in tables for run in params.table_runs(name))])
    datasets = dict.fromkeys(dataset for dataset, _, _ in runs)
    # The charts of the tables only: pictures of the attention show faces.
    charts = [layout.figures / f"{name}_{dataset}.png" for name in tables for dataset in params.table_datasets(name)]
    return [
        *(layout.table(name, suffix) for name in dict.fromkeys(tables) for suffix in ("csv", "md", "tex")),
        *(chart for chart in charts if chart.exists()),
        *(layout.data(dataset) / "faces.json" for dataset in datasets),
        *(layout.run(*run) / name for run in runs for name in ("metrics.json", "history.csv", "env.json")),
    ]


def write_overview(params: Params, layout: Layout) -> None:
    """Write R/metrics/DATASET/RECIPE.json (percent by protocol) and R/history.csv. Raises UserError."""
    layout.chain.check(*(layout.run(*run) / "history.csv" for run in params.runs()), layout.table("table1", "csv"))
    table = _read(layout.table("table1", "csv"))
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
    run = _read(layout.run(dataset, recipe, seed) / "history.csv")[["epoch", "train_loss", "val_accuracy"]]
    return run.assign(train_loss=run["train_loss"].round(4), val_accuracy=(100 * run["val_accuracy"]).round(2))


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise UserError(f"{path}: missing; {remake(path)}")
    return pd.read_csv(path)
