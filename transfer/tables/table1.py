"""Table 1: recipes x datasets x protocols, as the mean over seeds (never their maximum) against the baseline."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transfer.errors import UserError
from transfer.evaluation.metrics import metrics, read_metrics
from transfer.evaluation.predictions import class_names, correct_faces, probabilities_of, read_predictions
from transfer.evaluation.statistics import paired_p_value, same_faces, summary
from transfer.files import write_text
from transfer.tables.markdown import to_markdown
from transfer.tables.reported import Reported

COLUMNS = [
    "experiment",
    "dataset",
    "recipe",
    "local_cnns",
    "mad",
    "msad",
    "protocol",
    "n_seeds",
    "accuracy",
    "accuracy_std",
    "ci95_low",
    "ci95_high",
    "mean_class_accuracy",
    "delta_vs_baseline",
    "p_value",
    "reported_accuracy",
    "reported_source",
]
_TWO_DECIMALS = [
    "accuracy",
    "accuracy_std",
    "ci95_low",
    "ci95_high",
    "mean_class_accuracy",
    "delta_vs_baseline",
    "reported_accuracy",
]


def table1(
    runs: str | os.PathLike,
    recipes: Mapping[tuple[str, str], Mapping[str, float]],
    datasets: Mapping[str, str | None],
    seeds: Sequence[int],
    protocols: Sequence[str],
    reported: Sequence[Reported],
    *,
    experiment: str,
    baseline: str = "baseline",
) -> pd.DataFrame:
    """Return Table 1 with the columns ``COLUMNS``; accuracies and differences in percent, NaN where undefined.

    ``runs`` is results/<experiment>/runs; ``recipes`` maps (dataset, recipe) to num_lanets, mad and msad there;
    ``datasets`` maps each dataset to the family its published numbers belong to (rafdb, ferplus, affectnet7,
    affectnet8), None for one that has no published counterpart. Rows follow the order of datasets, recipes, protocols.
    Raises UserError, naming the file and the command, for a missing run or metrics that do not follow from the
    run's predictions.
    """
    rows = []
    for dataset, family in datasets.items():
        named = [recipe for name, recipe in recipes if name == dataset]
        results = {
            recipe: {
                seed: _read_run(
                    Path(runs) / dataset / recipe / f"seed{seed}",
                    protocols,
                    experiment=experiment,
                    dataset=dataset,
                    recipe=recipe,
                    seed=seed,
                )
                for seed in seeds
            }
            for recipe in named
        }
        _refuse_different_faces(Path(runs) / dataset, results, protocols)
        for recipe in named:
            parts = recipes[dataset, recipe]
            for protocol in protocols:
                ours = {seed: run[protocol] for seed, run in results[recipe].items()}
                row = {
                    "experiment": experiment,
                    "dataset": dataset,
                    "recipe": recipe,
                    "local_cnns": parts["num_lanets"],
                    "mad": parts["mad"],
                    "msad": parts["msad"],
                    "protocol": protocol,
                    **_accuracy(ours),
                }
                if recipe != baseline and baseline in results:
                    row |= _comparison(ours, {seed: run[protocol] for seed, run in results[baseline].items()})
                if protocol == "test_selected":
                    row |= published(reported, dataset, family, recipe)
                rows.append(row)
    return rounded(rows)


def rounded(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """``rows`` as the table, with the columns ``COLUMNS`` and as many digits as are shown."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    # adding 0.0 turns -0.0 into 0.0
    frame[_TWO_DECIMALS] = frame[_TWO_DECIMALS].astype(float).round(2) + 0.0
    frame["p_value"] = [float(f"{p:.4g}") for p in frame["p_value"].astype(float)]
    return frame


def to_csv(table: pd.DataFrame) -> str:
    """Return the table as csv text: two decimals in percent columns, empty cells where undefined."""
    text = table.copy()
    for column in _TWO_DECIMALS:
        text[column] = ["" if np.isnan(value) else f"{value:.2f}" for value in table[column]]
    text["p_value"] = ["" if np.isnan(value) else f"{value:.4g}" for value in table["p_value"]]
    return text.to_csv(index=False, lineterminator="\n")


def write_table1(
    table: pd.DataFrame,
    csv: str | os.PathLike,
    md: str | os.PathLike,
    *,
    data: Mapping[str, str],
    environment: Mapping[str, Any],
) -> None:
    """Write the table as csv and as markdown, each atomically; the keywords are those of ``to_markdown``."""
    text = to_markdown(table, data=data, environment=environment)
    write_text(csv, to_csv(table))
    write_text(md, text)


def _read_run(directory: Path, protocols: Sequence[str], **identity: str | int) -> dict[str, dict[str, Any]]:
    """Return, per protocol, the test split's accuracies and which faces were right."""
    path = directory / "metrics.json"
    content = read_metrics(directory, **identity)
    predictions = read_predictions(directory / "predictions.parquet")
    run = {}
    for protocol in protocols:
        rows = predictions[(predictions["protocol"] == protocol) & (predictions["split"] == "test")]
        if rows.empty:
            raise UserError(
                f"{directory / 'predictions.parquet'}: no test faces under protocol {protocol}; "
                "train this run again with the protocol listed in the parameters"
            )
        expected = metrics(probabilities_of(rows), rows["label"].to_numpy(), class_names(predictions))
        try:
            found = content["protocols"][protocol]["splits"]["test"]
            values = {key: float(found[key]) for key in ("accuracy", "mean_class_accuracy", "n")}
        except (KeyError, TypeError, ValueError):
            values = {}
        if not values or not all(abs(values[key] - expected[key]) < 1e-9 for key in values):
            raise UserError(
                f"{path}: the test metrics of protocol {protocol} do not follow from predictions.parquet; "
                f"delete it and run: snakemake --cores all {path}"
            )
        run[protocol] = values | {"correct": correct_faces(predictions, protocol)}
    return run


def _refuse_different_faces(
    folder: Path, results: Mapping[str, Mapping[int, Mapping[str, Any]]], protocols: Sequence[str]
) -> None:
    parts = [
        (folder / recipe / f"seed{seed}", protocol, run[protocol]["correct"])
        for recipe, by_seed in results.items()
        for seed, run in by_seed.items()
        for protocol in protocols
    ]
    for directory, protocol, faces in parts[1:]:
        if not same_faces(parts[0][2], faces):
            raise UserError(
                f"{directory / 'predictions.parquet'}: test faces or labels of protocol {protocol} differ from "
                f"those of {parts[0][0]}; train the older of the two runs again"
            )


def _accuracy(runs: Mapping[int, Mapping[str, Any]]) -> dict[str, float | None]:
    correct = next(iter(runs.values()))["correct"]
    accuracy = summary([run["accuracy"] for run in runs.values()], faces=(int(correct.sum()), len(correct)))
    return {
        "n_seeds": accuracy.n,
        "accuracy": 100 * accuracy.mean,
        "accuracy_std": None if accuracy.std is None else 100 * accuracy.std,
        "ci95_low": 100 * accuracy.ci95_low,
        "ci95_high": 100 * accuracy.ci95_high,
        "mean_class_accuracy": 100 * float(np.mean([run["mean_class_accuracy"] for run in runs.values()])),
    }


def _comparison(
    ours: Mapping[int, Mapping[str, Any]], baseline: Mapping[int, Mapping[str, Any]]
) -> dict[str, float | None]:
    differences = [ours[seed]["accuracy"] - baseline[seed]["accuracy"] for seed in ours]
    p_value = paired_p_value(
        {seed: run["correct"] for seed, run in ours.items()}, {seed: run["correct"] for seed, run in baseline.items()}
    )
    return {"delta_vs_baseline": 100 * float(np.mean(differences)), "p_value": p_value}


def published(
    reported: Sequence[Reported], dataset: str, family: str | None, recipe: str
) -> dict[str, float | str | None]:
    """Return the cells of a row for the published number of a recipe; none where there is no such number."""
    if family is None:
        return {}
    for entry in reported:
        if (entry.dataset, entry.recipe, entry.protocol) == (family, recipe, "test_selected"):
            remark = f" ({entry.remark})" if entry.remark else ""
            return {"reported_accuracy": entry.accuracy, "reported_source": f"{entry.status}: {entry.source}{remark}"}
    return {}
