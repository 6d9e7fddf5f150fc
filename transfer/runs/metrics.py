"""metrics.json: the numbers of one run, computed from its predictions.parquet alone."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transfer.runs.predictions import PROTOCOLS, SPLITS, class_names, probabilities_of, read_predictions
from transfer.utils.errors import UserError
from transfer.utils.files import sha256, write_json


def metrics(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of N faces from ``probabilities`` (N, C) and ``labels`` (N,); fractions in [0, 1].

    accuracy; mean_class_accuracy (mean recall of the classes present in ``labels``; the "mean class" of the RAF-DB
    paper); macro_f1 (mean over the classes present in labels or predictions, as in scikit-learn); per_class_recall by
    name, None for a class without faces; confusion, C x C counts, rows are the truth; n. On a tie the first class wins.
    """
    count = len(classes)
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(np.asarray(labels) * count + predicted, minlength=count**2).reshape(count, count)
    hits, true, called = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    recall = np.divide(hits, true, out=np.full(count, np.nan), where=true > 0)
    # F1 = 2 TP / (2 TP + FP + FN), and the denominator is (number of true faces) + (number of faces called so)
    seen = true + called > 0
    f1 = 2 * hits[seen] / (true + called)[seen]
    return {
        "n": int(confusion.sum()),
        "accuracy": float(hits.sum() / confusion.sum()),
        "mean_class_accuracy": float(np.nanmean(recall)),
        "macro_f1": float(f1.mean()),
        "per_class_recall": {
            name: None if np.isnan(value) else float(value) for name, value in zip(classes, recall, strict=True)
        },
        "confusion": confusion.tolist(),
    }


def run_metrics(
    predictions: pd.DataFrame, classes: Sequence[str], subsets: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Return ``{"protocols": {protocol: {"epoch": int, "splits": {split: metrics}}}}`` of one run's predictions.

    ``subsets`` (columns sample and subset) names parts of the test split; with it each protocol has ``"subsets":
    {subset: metrics}`` as well, without those of which no face was tested.
    """
    protocols = {}
    for protocol in PROTOCOLS:
        rows = predictions[predictions["protocol"] == protocol]
        if rows.empty:
            continue
        parts = {split: rows[rows["split"] == split] for split in SPLITS}
        protocols[protocol] = {
            "epoch": int(rows["epoch"].iloc[0]),
            "splits": {
                split: metrics(probabilities_of(part), part["label"].to_numpy(), classes)
                for split, part in parts.items()
                if len(part)
            },
        }
        if subsets is not None:
            protocols[protocol]["subsets"] = _subset_metrics(parts["test"], subsets, classes)
    return {"protocols": protocols}


def _subset_metrics(test: pd.DataFrame, subsets: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    parts = {name: test[test["sample"].isin(rows["sample"])] for name, rows in subsets.groupby("subset", sort=False)}
    return {
        name: metrics(probabilities_of(part), part["label"].to_numpy(), classes)
        for name, part in parts.items()
        if len(part)
    }


def evaluate(
    run_dir: str | os.PathLike,
    *,
    experiment: str,
    dataset: str,
    recipe: str,
    seed: int,
    classes: Sequence[str],
    folder: str | os.PathLike | None = None,
    subsets: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Read ``run_dir``/predictions.parquet, write metrics.json there or in ``folder``, and return its content.

    ``classes`` are the names in label order, ``subsets`` is the dataset's subsets.parquet. Raises UserError if the
    predictions are broken or of other classes.
    """
    path = Path(run_dir) / "predictions.parquet"
    predictions = read_predictions(path)
    found = class_names(predictions)
    if found != list(classes):
        raise UserError(
            f"{path}: classes are {', '.join(found)}, expected {', '.join(classes)} in this order; "
            "run the training again"
        )
    content = {
        "experiment": experiment,
        "dataset": dataset,
        "recipe": recipe,
        "seed": seed,
        "classes": list(classes),
        **run_metrics(predictions, classes, None if subsets is None else pd.read_parquet(subsets)),
        "predictions_sha256": sha256(path),
    }
    if subsets is not None:
        content["subsets_sha256"] = sha256(subsets)
    write_json(Path(folder or run_dir) / "metrics.json", content)
    return content


def read_metrics(run_dir: str | os.PathLike, **identity: str | int) -> dict[str, Any]:
    """Read ``run_dir``/metrics.json and check that it belongs to this run and to its predictions.parquet.

    ``identity`` is any of experiment, dataset, recipe and seed, as they must stand in the file. Raises UserError,
    naming the file and the command that makes it: missing, not JSON, of another run, or older than the predictions.
    """
    path = Path(run_dir) / "metrics.json"
    command = f"snakemake --cores all {path}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; expected the metrics of a finished run; run: {command}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run: {command}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object; delete it and run: {command}")
    for key, value in identity.items():
        if content.get(key) != value:
            raise UserError(f"{path}: {key} is {content.get(key)!r}, expected {value!r}; delete it and run: {command}")
    predictions = path.with_name("predictions.parquet")
    if not predictions.exists():
        raise UserError(f"{predictions}: missing; expected the predictions of a finished run; run: {command}")
    if content.get("predictions_sha256") != sha256(predictions):
        raise UserError(f"{path}: not computed from the present {predictions.name}; delete it and run: {command}")
    return content
