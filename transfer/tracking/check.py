"""Table 1 against MLflow: every cell computed anew from what the store has, nothing from results/."""

import csv
import io
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from transfer.evaluation.statistics import paired_difference, summary
from transfer.layout import Layout
from transfer.runs.predictions import correct_faces, read_predictions
from transfer.tables.kinds.recipes import COLUMNS, FORMATS
from transfer.tables.text import rounded, to_csv
from transfer.tracking import store
from transfer.tracking.sync import IN_TABLE
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_KEY = ("dataset", "recipe", "protocol")


_FORMATS = {column: FORMATS[column] for column in COLUMNS}


@dataclass(frozen=True)
class _Seed:
    """One run of a recipe under one protocol, from MLflow."""

    accuracy: float
    mean_class_accuracy: float
    correct: pd.Series


def check(layout: Layout, baseline: str) -> tuple[int, list[str]]:
    """Compare results/<experiment>/table1.csv with MLflow; return the number of cells, and a line per difference.

    Accuracies come from the runs' metrics, recipes from their parameters, published numbers from the tags of the
    recipes' runs, p-values and a single seed's interval from the predictions among their artifacts.
    Raises UserError where the table or the store is not there.
    """
    from mlflow.exceptions import MlflowException

    path = layout.root / "table1.csv"
    if not path.is_file():
        raise UserError(f"{path}: not there; make it with: snakemake --cores all {path}")
    table = _rows(path.read_text(encoding="utf-8"))
    if not table or not set(next(iter(table.values()))) >= set(COLUMNS):
        raise UserError(f"{path}: not a Table 1 (expected the columns {', '.join(COLUMNS)}); make it again")
    client = store.open_store()
    try:
        with tempfile.TemporaryDirectory() as folder:
            found, problems = _table(client, layout.experiment, table, baseline, Path(folder))
    except MlflowException as error:
        raise UserError(f"MLflow's store: {store.one_line(error)}") from error
    for key, cells in table.items():
        named = " ".join(key)
        if key not in found:
            problems.append(f"{named}: not in MLflow, or not whole there; run: transfer track sync")
            continue
        problems += [
            f"{named}: {column} is {cells[column] or 'empty'} in {path}, {found[key][column] or 'empty'} in MLflow"
            for column in COLUMNS
            if cells[column] != found[key][column]
        ]
    return len(table) * len(COLUMNS), problems


def _rows(text: str) -> dict[tuple[str, ...], dict[str, str]]:
    return {tuple(row.get(name, "") for name in _KEY): row for row in csv.DictReader(io.StringIO(text))}


def _table(
    client: "MlflowClient",
    experiment: str,
    asked: Iterable[tuple[str, ...]],
    baseline: str,
    folder: Path,
) -> tuple[dict[tuple[str, ...], dict[str, str]], list[str]]:
    """Rows of the table from MLflow, as text, and what is wrong with the runs there."""
    rows, problems = [], []
    for dataset in dict.fromkeys(key[0] for key in asked):
        named = client.get_experiment_by_name(f"{experiment}/{dataset}")
        if named is None:
            continue
        runs = _by_recipe(store.all_runs(client, named.experiment_id))
        predictions = {
            run.info.run_id: _predictions(client, run, folder) for seeds in runs.values() for run in seeds.values()
        }
        parents = {
            run.data.tags["recipe"]: run.data.tags
            for run in store.all_runs(client, named.experiment_id, "tags.`transfer.recipe` != ''")
        }
        for recipe, protocol in dict.fromkeys(key[1:] for key in asked if key[0] == dataset):
            try:
                ours, theirs = (
                    {seed: _seed(run, protocol, predictions[run.info.run_id]) for seed, run in runs[name].items()}
                    if name in runs
                    else {}
                    for name in (recipe, baseline)
                )
            except UserError as error:
                problems.append(str(error))
                continue
            if ours:
                names = {"experiment": experiment, "dataset": dataset, "recipe": recipe, "protocol": protocol}
                params = next(iter(runs[recipe].values())).data.params
                cells = names | _parts(params) | _cells(ours, theirs if recipe != baseline else {})
                if protocol == "test_selected":
                    cells |= _published(parents.get(recipe, {}))
                rows.append(cells)
    return _rows(to_csv(rounded(pd.DataFrame(rows), _FORMATS), _FORMATS)), problems


def _by_recipe(runs: "Iterable[Run]") -> "dict[str, dict[int, Run]]":
    """The runs of the tables, by recipe and seed."""
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.data.tags.get(IN_TABLE) == "true":
            found.setdefault(run.data.tags["recipe"], {})[int(run.data.tags["seed"])] = run
    return {recipe: dict(sorted(seeds.items())) for recipe, seeds in found.items()}


def _predictions(client: "MlflowClient", run: "Run", folder: Path) -> pd.DataFrame | UserError:
    from mlflow.exceptions import MlflowException

    own = folder / run.info.run_id
    own.mkdir()
    try:
        return read_predictions(client.download_artifacts(run.info.run_id, "predictions.parquet", str(own)))
    except (MlflowException, OSError, UserError) as error:
        return UserError(f"MLflow run {run.info.run_name} ({run.info.run_id}): predictions.parquet: {error}")


def _seed(run: "Run", protocol: str, predictions: pd.DataFrame | UserError) -> _Seed:
    """A run's values under a protocol. Raises UserError: one is missing, or does not follow from its predictions."""
    who = f"MLflow run {run.data.tags['dataset']}/{run.info.run_name} ({run.info.run_id})"
    if isinstance(predictions, UserError):
        raise predictions
    values = []
    for name in ("accuracy", "mean_class_accuracy"):
        metric = f"{protocol}/test_{name}"
        if metric not in run.data.metrics:
            raise UserError(f"{who}: metric {metric} is missing; run: transfer track sync")
        values.append(run.data.metrics[metric])
    correct = correct_faces(predictions, protocol)
    return _Seed(*values, correct)


def _parts(params: Mapping[str, str]) -> dict[str, Any]:
    return {
        "local_cnns": int(params["model.num_lanets"]),
        "mad": float(params["model.mad"]),
        "msad": float(params["model.msad"]),
    }


def _cells(ours: Mapping[int, _Seed], baseline: Mapping[int, _Seed]) -> dict[str, Any]:
    """The figures of a row from its seeds and those of the baseline."""
    first = next(iter(ours.values())).correct
    spread = summary([seed.accuracy for seed in ours.values()], faces=(int(first.sum()), len(first)))
    cells = {
        "n_seeds": spread.n,
        "accuracy": 100 * spread.mean,
        "accuracy_std": None if spread.std is None else 100 * spread.std,
        "ci95_low": 100 * spread.ci95_low,
        "ci95_high": 100 * spread.ci95_high,
        "mean_class_accuracy": 100 * float(np.mean([seed.mean_class_accuracy for seed in ours.values()])),
    }
    if ours.keys() == baseline.keys():
        cells["delta_vs_baseline"] = 100 * float(np.mean([ours[s].accuracy - baseline[s].accuracy for s in ours]))
        cells["p_value"] = paired_difference(
            {seed: run.correct for seed, run in ours.items()}, {seed: run.correct for seed, run in baseline.items()}
        ).p_value
    return cells


def _published(tags: Mapping[str, str]) -> dict[str, Any]:
    if "reported_accuracy" not in tags:
        return {}
    return {"reported_accuracy": float(tags["reported_accuracy"]), "reported_source": tags["reported_source"]}
