"""The trainings that a table reads, each checked before a number of it is used."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from transfer.evaluation.statistics import same_faces
from transfer.params import RUNTIME_KEYS, RunParams
from transfer.params.read import flat
from transfer.runs.metrics import metrics, read_metrics
from transfer.runs.predictions import class_names, correct_faces, probabilities_of, read_predictions
from transfer.utils.errors import UserError
from transfer.utils.files import sha256


def run_again(directory: Path) -> str:
    """How a training is made again."""
    return f"run: snakemake --cores all {directory / 'metrics.json'}"


def read_environment(directory: Path) -> dict[str, Any]:
    """The env.json of a training. Raises UserError, naming the file and the command: missing or damaged."""
    path = directory / "env.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; expected that of a finished run; {run_again(directory)}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and {run_again(directory)}") from None


def kept_weights(directory: Path) -> tuple[Path, dict[str, Any]]:
    """The model.safetensors of a training, and its env.json, which describes it.

    Raises UserError, naming the file and the command: one is missing or damaged, or the weights are others.
    """
    weights, again = directory / "model.safetensors", run_again(directory)
    env = read_environment(directory)
    if not weights.is_file():
        raise UserError(f"{weights}: missing; expected the weights of a finished run; {again}")
    if sha256(weights) != env.get("weights_sha256"):
        raise UserError(f"{weights}: not the weights that {directory / 'env.json'} describes; delete it and {again}")
    return weights, env


def refuse_other_parameters(directory: Path, environment: dict[str, Any], expected: RunParams) -> None:
    """Raise UserError where a training had other parameters than ``expected``; where it ran does not count."""
    try:
        found = RunParams.model_validate(environment["params"])
    except (KeyError, TypeError, ValueError):
        said = "not what a training of this version writes"
        raise UserError(f"{directory / 'env.json'}: {said}; {run_again(directory)}") from None
    ours, theirs = (flat(run.model_dump(mode="json", exclude={"train": RUNTIME_KEYS})) for run in (expected, found))
    for key in ours:
        if ours[key] != theirs[key]:
            different = f"trained with {key} {theirs[key]}, but the parameters say {ours[key]}"
            raise UserError(f"{directory}: {different}; {run_again(directory)}")


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
