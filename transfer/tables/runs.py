"""The trainings that a table reads, each checked before a number of it is used."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from transfer.errors import UserError
from transfer.evaluation.metrics import metrics, read_metrics
from transfer.evaluation.predictions import class_names, correct_faces, probabilities_of, read_predictions
from transfer.evaluation.records import read_environment, refuse_other_parameters
from transfer.evaluation.statistics import same_faces
from transfer.params import RunParams


@dataclass(frozen=True)
class Result:
    """One training under one protocol: its predictions of the test faces, and their metrics (fractions in [0, 1])."""

    epoch: int
    test: pd.DataFrame
    metrics: dict[str, Any]
    subsets: dict[str, dict[str, Any]]
    correct: pd.Series
    """Whether each test face was right, by (sample, label) in their order."""


@dataclass(frozen=True)
class Run:
    """One training, by protocol."""

    directory: Path
    classes: list[str]
    results: dict[str, Result]


Runs = Mapping[tuple[str, str], Mapping[int, Run]]
"""Trainings by (dataset, recipe) and seed."""


def read_runs(
    folder: Path,
    wanted: Iterable[tuple[str, str, int]],
    protocols: Sequence[str],
    *,
    experiment: str,
    parameters: Mapping[tuple[str, str], RunParams] | None = None,
    partial: bool = False,
) -> tuple[Runs, list[str]]:
    """Read the ``wanted`` (dataset, recipe, seed) below ``folder`` = results/<experiment>/runs; and what is missing.

    Raises UserError, naming the file and the command: a run that is missing (with ``partial`` it is listed instead),
    whose metrics do not follow from its predictions, that was trained with other ``parameters``, or that was tested on
    other faces than the others of its dataset.
    """
    runs: dict[tuple[str, str], dict[int, Run]] = {}
    missing: list[str] = []
    first: dict[str, tuple[Path, pd.Series]] = {}
    for dataset, recipe, seed in wanted:
        directory = folder / dataset / recipe / f"seed{seed}"
        seeds = runs.setdefault((dataset, recipe), {})
        if partial and not (directory / "metrics.json").exists():
            missing.append(f"{dataset} {recipe} seed{seed}")
            continue
        run = read_run(directory, protocols, experiment=experiment, dataset=dataset, recipe=recipe, seed=seed)
        if parameters is not None:
            refuse_other_parameters(directory, read_environment(directory), parameters[dataset, recipe])
        for protocol, result in run.results.items():
            origin, faces = first.setdefault(dataset, (directory, result.correct))
            if not same_faces(faces, result.correct):
                raise UserError(
                    f"{directory / 'predictions.parquet'}: test faces or labels of protocol {protocol} differ from "
                    f"those of {origin}; train the older of the two runs again"
                )
        seeds[seed] = run
    if partial and not any(runs.values()):
        raise UserError(f"{folder}: none of the runs of this table is there; train some of them first")
    return {key: seeds for key, seeds in runs.items() if seeds}, missing


def read_run(directory: Path, protocols: Collection[str], **identity: str | int) -> Run:
    """One training. Raises UserError as ``read_runs``."""
    path = directory / "metrics.json"
    content = read_metrics(directory, **identity)
    predictions = read_predictions(directory / "predictions.parquet")
    classes = class_names(predictions)
    results = {}
    for protocol in protocols:
        rows = predictions[(predictions["protocol"] == protocol) & (predictions["split"] == "test")]
        if rows.empty:
            raise UserError(
                f"{directory / 'predictions.parquet'}: no test faces under protocol {protocol}; "
                "train this run again with the protocol listed in the parameters"
            )
        expected = metrics(probabilities_of(rows), rows["label"].to_numpy(), classes)
        try:
            given = content["protocols"][protocol]
            found = {key: float(given["splits"]["test"][key]) for key in ("accuracy", "mean_class_accuracy", "n")}
        except (KeyError, TypeError, ValueError):
            found = {}
        if not found or not all(abs(value - expected[key]) < 1e-9 for key, value in found.items()):
            raise UserError(
                f"{path}: the test metrics of protocol {protocol} do not follow from predictions.parquet; "
                f"delete it and run: snakemake --cores all {path}"
            )
        results[protocol] = Result(
            epoch=int(rows["epoch"].iloc[0]),
            test=rows,
            metrics=expected,
            subsets=given.get("subsets", {}),
            correct=correct_faces(predictions, protocol),
        )
    return Run(directory, classes, results)
