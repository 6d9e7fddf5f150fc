"""Check of a table against MLflow: every cell is recomputed from the artifacts in the store."""

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.layout import Layout
from transfer.params import Params
from transfer.tracking import store
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_KEY = ("dataset", "recipe", "protocol")
_ARTIFACTS = ("env.json", "metrics.json", "predictions.parquet")


def check(params: Params, layout: Layout, name: str = "table1") -> tuple[int, list[str]]:
    """Compare results/<experiment>/<name>.csv with MLflow; return the number of cells, and a line per difference.

    Raises UserError if the table or the store is missing.
    """
    from transfer.tables.build import build_table
    from transfer.tables.text import to_csv

    path = layout.table(name, "csv")
    if not path.is_file():
        raise UserError(f"{path}: missing; make it with: snakemake --cores all {path}")
    with store.connected() as client, tempfile.TemporaryDirectory() as folder:
        copy = Layout(params.experiment, Path(folder))
        problems = _download(client, params, copy, name)
        if not problems:
            (copy.root / "data").symlink_to(layout.root.absolute() / "data")  # for the texts around the table
            made = build_table(params, copy, name)
            found = _rows(to_csv(made.frame, made.formats))
    table = _rows(path.read_text(encoding="utf-8"))
    cells = sum(map(len, table.values()))
    if problems:
        return cells, problems
    for key in sorted(table.keys() | found.keys()):
        ours, theirs = table.get(key, {}), found.get(key, {})
        problems += [
            f"{' '.join(key)}: {column} is {ours.get(column) or 'empty'} in {path}, "
            f"{theirs.get(column) or 'empty'} in MLflow"
            for column in dict.fromkeys([*ours, *theirs])
            if ours.get(column) != theirs.get(column)
        ]
    return cells, problems


def _rows(text: str) -> dict[tuple[str, ...], dict[str, str]]:
    return {tuple(row.get(name, "") for name in _KEY): row for row in csv.DictReader(io.StringIO(text))}


def _download(client: "MlflowClient", params: Params, copy: Layout, name: str) -> list[str]:
    """Download the artifacts of the table's runs to ``copy``; return a line per missing run or contradicting metric."""
    problems = []
    for dataset, recipe, seed in params.table_runs(name):
        who = f"{dataset} {recipe} seed{seed}"
        found = client.get_experiment_by_name(f"{params.experiment}/{dataset}")
        query = f"tags.recipe = '{recipe}' and tags.seed = '{seed}' and tags.`{store.IN_TABLE}` = 'true'"
        run = next(iter(client.search_runs([found.experiment_id], query, max_results=1)), None) if found else None
        if run is None:
            problems.append(f"{who}: missing or incomplete in MLflow; run: transfer track sync")
            continue
        directory = copy.run(dataset, recipe, seed)
        directory.mkdir(parents=True)
        for artifact in _ARTIFACTS:
            client.download_artifacts(run.info.run_id, artifact, str(directory))
        metrics = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
        problems += [
            f"{who}: metric {key} is {run.data.metrics.get(key, 'missing')} in MLflow, {value} in its metrics.json"
            for key, value, *_ in store.result_points(metrics, 0)
            if run.data.metrics.get(key) != value
        ]
    return problems
