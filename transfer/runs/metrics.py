"""metrics.json: the numbers of one run, computed from its predictions.parquet alone."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer.runs.predictions import PROTOCOLS, SPLITS, class_names, parquet_columns, probabilities_of, read_columns
from transfer.utils.errors import UserError, remake
from transfer.utils.files import sha256, write_json

if TYPE_CHECKING:
    from transfer.runs.predictions import Predictions


def metrics(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """The metrics of N faces from ``probabilities`` (N, C) and ``labels`` (N,); fractions in [0, 1].

    mean_class_accuracy is the mean recall of the classes in ``labels`` (the "mean class" of the RAF-DB paper); macro_f1
    the mean over the classes in labels or predictions, as in scikit-learn; per_class_recall None for a class without
    faces; confusion (C, C) counts, rows are the truth. On a tie the first class wins.
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


def frame_metrics(rows: "Predictions") -> dict[str, Any]:
    """The `metrics` of rows of predictions.parquet."""
    return metrics(probabilities_of(rows), np.asarray(rows["label"]), class_names(rows))


def run_metrics(predictions: "Predictions", subsets: "Predictions | None" = None) -> dict[str, Any]:
    """``{"protocols": {protocol: {"epoch": int, "splits": {split: metrics}}}}`` of one run's predictions.

    ``subsets`` (columns sample and subset) are of the test split: each protocol then has ``"subsets": {subset:
    metrics}`` too, without those of which no face was tested.
    """
    names = ("sample", "label", "split", "protocol", "epoch")
    sample, label, split, protocol, epoch = (np.asarray(predictions[name]) for name in names)
    probabilities, classes = probabilities_of(predictions), class_names(predictions)

    def of_each(parts: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: metrics(probabilities[at], label[at], classes) for name, at in parts.items() if at.any()}

    members: dict[str, np.ndarray] = {}
    if subsets is not None:
        for name in dict.fromkeys(subsets["subset"]):
            members[name] = np.isin(sample, subsets["sample"][subsets["subset"] == name])
    protocols: dict[str, Any] = {}
    for name in PROTOCOLS:
        rows = protocol == name
        if rows.any():
            splits = {part: rows & (split == part) for part in SPLITS}
            protocols[name] = {"epoch": int(epoch[rows][0]), "splits": of_each(splits)}
            if subsets is not None:
                tested = {subset: splits["test"] & inside for subset, inside in members.items()}
                protocols[name]["subsets"] = of_each(tested)
    return {"protocols": protocols}


def evaluate(
    run_dir: str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    subsets: str | os.PathLike[str] | None = None,
    **identity: str | int,
) -> dict[str, Any]:
    """Read ``run_dir``/predictions.parquet, write metrics.json there or in ``folder``, and return its content.

    ``subsets`` is the dataset's subsets.parquet, ``identity`` the experiment, dataset, recipe and seed. Raises
    UserError for broken predictions.
    """
    path = Path(run_dir) / "predictions.parquet"
    predictions = read_columns(path)
    content: dict[str, Any] = {
        **{key: identity[key] for key in ("experiment", "dataset", "recipe", "seed")},
        "classes": class_names(predictions),
        **run_metrics(predictions, parquet_columns(subsets) if subsets else None),
        "predictions_sha256": sha256(path),
    }
    if subsets is not None:
        content["subsets_sha256"] = sha256(subsets)
    write_json(Path(folder or run_dir) / "metrics.json", content)
    return content


def read_metrics(run_dir: str | os.PathLike[str], **identity: str | int) -> dict[str, Any]:
    """Read ``run_dir``/metrics.json and check that it belongs to this run and to its predictions.parquet.

    ``identity`` is any of experiment, dataset, recipe and seed. Raises UserError: missing, not JSON, of another run, or
    older than the predictions.
    """
    path = Path(run_dir) / "metrics.json"
    predictions, again = path.with_name("predictions.parquet"), remake(path)
    content = read_json(path)
    for key, value in identity.items():
        if content.get(key) != value:
            raise UserError(f"{path}: {key} is {content.get(key)!r}, expected {value!r}; delete it and {again}")
    if not predictions.exists():
        raise UserError(f"{predictions}: missing; expected those of a finished run; {again}")
    if content.get("predictions_sha256") != sha256(predictions):
        wrong = "not computed from the present predictions.parquet"
        raise UserError(f"{path}: {wrong}; delete it and {again}")
    return content


def read_json(path: Path, target: Path | None = None) -> dict[str, Any]:
    """A JSON object of a finished run. UserError with the command that makes it, or ``target``: missing, damaged."""
    again = remake(target or path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; expected that of a finished run; {again}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and {again}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; delete it and {again}")
    return content
