"""metrics.json: the numbers of one run, computed from its predictions.parquet alone."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer.runs.predictions import PROTOCOLS, SPLITS, class_names, parquet_columns, probabilities_of, read_columns
from transfer.utils.errors import UserError
from transfer.utils.files import sha256, write_json

if TYPE_CHECKING:
    from transfer.runs.predictions import Predictions


def metrics(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """The metrics of N faces from ``probabilities`` (N, C) and ``labels`` (N,); fractions in [0, 1].

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
    predictions: "Predictions", classes: Sequence[str], subsets: "Predictions | None" = None
) -> dict[str, Any]:
    """``{"protocols": {protocol: {"epoch": int, "splits": {split: metrics}}}}`` of one run's predictions.

    ``subsets`` (columns sample and subset) names parts of the test split; with it each protocol has ``"subsets":
    {subset: metrics}`` as well, without those of which no face was tested.
    """
    columns = {name: np.asarray(predictions[name]) for name in ("sample", "label", "split", "protocol", "epoch")}
    probabilities = probabilities_of(predictions)

    def of(chosen: np.ndarray) -> dict[str, Any]:
        return metrics(probabilities[chosen], columns["label"][chosen], classes)

    samples_of: dict[str, set[str]] = {}
    if subsets is not None:
        for subset, sample in zip(subsets["subset"], subsets["sample"], strict=True):
            samples_of.setdefault(subset, set()).add(sample)
    protocols: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        rows = columns["protocol"] == protocol
        if not rows.any():
            continue
        parts = {split: rows & (columns["split"] == split) for split in SPLITS}
        protocols[protocol] = {
            "epoch": int(columns["epoch"][rows][0]),
            "splits": {split: of(part) for split, part in parts.items() if part.any()},
        }
        if subsets is not None:
            chosen = {
                subset: parts["test"] & np.array([sample in samples for sample in columns["sample"]])
                for subset, samples in samples_of.items()
            }
            protocols[protocol]["subsets"] = {subset: of(part) for subset, part in chosen.items() if part.any()}
    return {"protocols": protocols}


def evaluate(
    run_dir: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    subsets: str | os.PathLike[str] | None = None,
    **identity: str | int,
) -> dict[str, Any]:
    """Read ``run_dir``/predictions.parquet, write metrics.json there or in ``folder``, and return its content.

    ``subsets`` is the dataset's subsets.parquet, ``identity`` the experiment, dataset, recipe and seed. Raises
    UserError for broken predictions, or of other ``classes``.
    """
    path = Path(run_dir) / "predictions.parquet"
    predictions = read_columns(path)
    found = class_names(predictions)
    if classes is not None and found != list(classes):
        expected = f"expected {', '.join(classes)} in this order"
        raise UserError(f"{path}: classes are {', '.join(found)}, {expected}; run the training again")
    content: dict[str, Any] = {
        **{key: identity[key] for key in ("experiment", "dataset", "recipe", "seed")},
        "classes": found,
        **run_metrics(predictions, found, read_subsets(subsets)),
        "predictions_sha256": sha256(path),
    }
    if subsets is not None:
        content["subsets_sha256"] = sha256(subsets)
    write_json(Path(folder or run_dir) / "metrics.json", content)
    return content


def read_subsets(path: str | os.PathLike[str] | None) -> dict[str, np.ndarray] | None:
    """The columns of subsets.parquet; None for no file."""
    return None if path is None else parquet_columns(path)


def read_metrics(run_dir: str | os.PathLike[str], **identity: str | int) -> dict[str, Any]:
    """Read ``run_dir``/metrics.json and check that it belongs to this run and to its predictions.parquet.

    ``identity`` is any of experiment, dataset, recipe and seed, as they must stand in the file. Raises UserError,
    naming the file and the command that makes it: missing, not JSON, of another run, or older than the predictions.
    """
    path = Path(run_dir) / "metrics.json"
    predictions = path.with_name("predictions.parquet")
    content = read_json(path, f"snakemake --cores all {path}")
    for key, value in identity.items():
        if content.get(key) != value:
            wrong = f"{key} is {content.get(key)!r}, expected {value!r}"
            raise UserError(f"{path}: {wrong}; delete it and run: snakemake --cores all {path}")
    if not predictions.exists():
        raise UserError(f"{predictions}: missing; expected those of a finished run; run: snakemake --cores all {path}")
    if content.get("predictions_sha256") != sha256(predictions):
        wrong = "not computed from the present predictions.parquet"
        raise UserError(f"{path}: {wrong}; delete it and run: snakemake --cores all {path}")
    return content


def read_json(path: Path, command: str) -> dict[str, Any]:
    """A JSON object of a finished run; UserError with the ``command`` that makes it where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; expected that of a finished run; run: {command}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run: {command}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; delete it and run: {command}")
    return content
