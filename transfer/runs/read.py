"""Finished runs, read and checked in one place before anything is made of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from transfer.layout import Layout
from transfer.params import RUNTIME_KEYS, Params, RunParams
from transfer.params.read import flat
from transfer.runs.metrics import frame_metrics, read_json, read_metrics
from transfer.runs.predictions import class_names, correct_faces, read_predictions
from transfer.utils.chain import Chain
from transfer.utils.errors import UserError, remake
from transfer.utils.files import sha256


@dataclass(frozen=True)
class Result:
    """A run under one protocol: its predictions of the test faces, and their metrics (fractions in [0, 1])."""

    epoch: int
    test: pd.DataFrame
    metrics: dict[str, Any]
    subsets: dict[str, dict[str, Any]]
    correct: "pd.Series[bool]"
    """Whether each test face was classified correctly, by (sample, label) in their order."""


@dataclass(frozen=True)
class Run:
    """A finished run; ``identity`` is its experiment, dataset, recipe and seed, ``results`` are by protocol."""

    directory: Path
    identity: dict[str, Any]
    predictions: pd.DataFrame
    results: dict[str, Result]

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return class_names(self.predictions)

    @property
    def name(self) -> str:
        """experiment/dataset/recipe/seed0, as the weights name their run."""
        return "{experiment}/{dataset}/{recipe}/seed{seed}".format(**self.identity)

    @property
    def again(self) -> str:
        """How to make the run again, for the end of a message."""
        return remake(self.directory / "metrics.json")

    @property
    def chain(self) -> Chain:
        """The notes of what each file of the experiment was made from."""
        return chain_of(self.directory)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The content of env.json. Raises UserError: missing or damaged."""
        return read_environment(self.directory)

    @cached_property
    def weights(self) -> Path:
        """model.safetensors. Raises UserError: missing, or not the file that env.json describes."""
        path, described = self.directory / "model.safetensors", self.environment.get("weights_sha256")
        if not path.is_file():
            raise UserError(f"{path}: missing; expected the weights of a finished run; {self.again}")
        if sha256(path) != described:
            wrong = f"not the weights that {self.directory / 'env.json'} describes"
            raise UserError(f"{path}: {wrong}; delete it and {self.again}")
        self.chain.check(path)
        return path


Runs = Mapping[tuple[str, str], Mapping[int, Run]]
"""Runs by (dataset, recipe) and seed."""


def chain_of(directory: Path) -> Chain:
    """The chain of digests of the experiment whose run is in ``directory``: EXPERIMENT/runs/DATASET/RECIPE/seedN."""
    return Chain(directory.parents[3])


def read_environment(directory: Path) -> dict[str, Any]:
    """The content of a run's env.json. Raises UserError: missing or damaged."""
    return read_json(directory / "env.json", directory / "metrics.json")


def read_run(params: Params, layout: Layout, dataset: str, recipe: str, seed: int) -> Run:
    """A run, whose predictions need not be evaluated yet. Raises UserError: missing, damaged, of other parameters."""
    directory = layout.run(dataset, recipe, seed)
    identity = {"experiment": params.experiment, "dataset": dataset, "recipe": recipe, "seed": seed}
    _refuse_other_parameters(directory, params.run(dataset, recipe))
    layout.chain.check(directory / "env.json", directory / "predictions.parquet")
    return Run(directory, identity, read_predictions(directory / "predictions.parquet"), {})


def read_runs(
    folder: Path,
    wanted: Iterable[tuple[str, str, int]],
    protocols: Sequence[str],
    *,
    experiment: str,
    parameters: Mapping[tuple[str, str], RunParams] | None = None,
    partial: bool = False,
) -> tuple[Runs, list[str]]:
    """The evaluated runs ``wanted`` (dataset, recipe, seed) below ``folder``, and the missing ones, with ``partial``.

    Raises UserError, naming the file and the command: a run is missing, its metrics do not follow from its predictions,
    it was trained with other ``parameters``, or tested on other faces than the others of its dataset, or a file breaks
    the chain of digests.
    """
    chain = Chain(folder.parent)
    runs: dict[tuple[str, str], dict[int, Run]] = {}
    missing: list[str] = []
    first: dict[str, tuple[Path, pd.Series[bool]]] = {}
    for dataset, recipe, seed in wanted:
        directory = folder / dataset / recipe / f"seed{seed}"
        if partial and not (directory / "metrics.json").exists():
            missing.append(f"{dataset} {recipe} seed{seed}")
            continue
        identity = {"experiment": experiment, "dataset": dataset, "recipe": recipe, "seed": seed}
        run = _evaluated(directory, identity, protocols)
        data = folder.parent / "data" / dataset
        chain.check(*(directory / name for name in ("env.json", "history.csv", "predictions.parquet", "metrics.json")))
        chain.check(data / "faces.json", data / "evaluation.csv")
        if parameters is not None:
            _refuse_other_parameters(directory, parameters[dataset, recipe])
        for protocol, result in run.results.items():
            origin, faces = first.setdefault(dataset, (directory, result.correct))
            if not faces.index.equals(result.correct.index):
                raise UserError(
                    f"{directory / 'predictions.parquet'}: test faces or labels of protocol {protocol} differ from "
                    f"those of {origin}; train the older of the two runs again"
                )
        runs.setdefault((dataset, recipe), {})[seed] = run
    if partial and not runs:
        raise UserError(f"{folder}: none of the runs of this table is there; train some of them first")
    return runs, missing


def _evaluated(directory: Path, identity: dict[str, Any], protocols: Sequence[str]) -> Run:
    content = read_metrics(directory, **identity)
    predictions = read_predictions(directory / "predictions.parquet")
    results = {}
    for protocol in protocols:
        rows = predictions[(predictions["protocol"] == protocol) & (predictions["split"] == "test")]
        if rows.empty:
            raise UserError(
                f"{directory / 'predictions.parquet'}: no test faces under protocol {protocol}; "
                "train this run again with the protocol listed in the parameters"
            )
        expected = frame_metrics(rows)
        given = content.get("protocols", {}).get(protocol, {})
        found = given.get("splits", {}).get("test", {})
        checked = ("n", "accuracy", "mean_class_accuracy")
        if not all(abs(found.get(key, math.nan) - expected[key]) < 1e-9 for key in checked):
            path = directory / "metrics.json"
            wrong = f"the test metrics of protocol {protocol} do not follow from predictions.parquet"
            raise UserError(f"{path}: {wrong}; delete it and {remake(path)}")
        correct = correct_faces(predictions, protocol)
        results[protocol] = Result(int(rows["epoch"].iloc[0]), rows, expected, given.get("subsets", {}), correct)
    return Run(directory, identity, predictions, results)


def _refuse_other_parameters(directory: Path, expected: RunParams) -> None:
    again = remake(directory / "metrics.json")
    try:
        found = RunParams.model_validate(read_environment(directory)["params"])
    except (KeyError, ValueError):
        raise UserError(f"{directory / 'env.json'}: not what a run of this version writes; {again}") from None
    ours, theirs = (flat(run.model_dump(mode="json", exclude={"train": RUNTIME_KEYS})) for run in (expected, found))
    for key, value in ours.items():
        if theirs[key] != value:
            wrong = f"trained with {key} {theirs[key]}, but the parameters say {value}"
            raise UserError(f"{directory}: {wrong}; {again}")
