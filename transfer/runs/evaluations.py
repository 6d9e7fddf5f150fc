"""What finished trainings were asked besides their own test faces, as files; and the accuracies in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transfer.runs.metrics import metrics
from transfer.runs.predictions import class_names, probabilities_of
from transfer.runs.read import read_environment
from transfer.utils.errors import UserError
from transfer.utils.files import atomic

UNTOUCHED = "none"
"""The corruption of the faces as they are, at severity 0."""


def write_evaluation(path: Path, frame: pd.DataFrame, identity: Mapping[str, Any], weights_sha256: str) -> None:
    """Write what a training predicts, with a note of whose predictions they are; atomically."""
    noted = frame.copy(deep=False)
    noted.attrs = {**frame.attrs, **identity, "weights_sha256": weights_sha256}
    with atomic(path) as part:
        noted.to_parquet(part, index=False)


def read_evaluation(path: Path, run_dir: Path) -> pd.DataFrame:
    """Read what a training predicts, and check that its weights are those which ``run_dir``/env.json describes.

    ``attrs`` has what was noted. Raises UserError, naming the file and the command: missing, damaged, of other weights.
    """
    again = f"run: snakemake --cores all {path}"
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {again}") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable parquet file ({reason}); delete it and {again}") from None
    if frame.attrs.get("weights_sha256") != read_environment(run_dir).get("weights_sha256"):
        raise UserError(f"{path}: of other weights than those of {run_dir}; delete it and {again}")
    return frame


def accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per corruption and severity of robustness.parquet, in its order; fractions in [0, 1].

    Columns: corruption, severity, n, accuracy, mean_class_accuracy, untouched_accuracy (of the same n faces).
    """
    classes, rows = class_names(frame), []
    untouched = frame[frame["corruption"] == UNTOUCHED]
    right = pd.Series(
        probabilities_of(untouched).argmax(axis=1) == untouched["label"].to_numpy(), index=untouched["sample"]
    )
    for (corruption, severity), part in frame.groupby(["corruption", "severity"], sort=False):
        found = metrics(probabilities_of(part), part["label"].to_numpy(), classes)
        rows.append(
            {
                "corruption": corruption,
                "severity": severity,
                **{key: found[key] for key in ("n", "accuracy", "mean_class_accuracy")},
                "untouched_accuracy": float(right[part["sample"]].mean()),
            }
        )
    return pd.DataFrame(rows)


def cross_accuracy(frame: pd.DataFrame) -> dict[str, Any]:
    """The numbers of one frame of `evaluate_cross`; fractions in [0, 1].

    n; common_classes, how many both datasets have; accuracy and mean_class_accuracy where the most probable of the
    common classes counts; all_classes_accuracy and all_classes_mean_class_accuracy where the most probable of all
    classes of the training does, so that one which the test set does not have is an error.
    """
    classes, labels = class_names(frame), frame["label"].to_numpy()
    probabilities = probabilities_of(frame)
    common = np.unique(labels)
    among = metrics(probabilities[:, common], np.searchsorted(common, labels), [classes[i] for i in common])
    among_all = metrics(probabilities, labels, classes)
    return {
        "n": among["n"],
        "common_classes": len(common),
        **{key: among[key] for key in ("accuracy", "mean_class_accuracy")},
        **{f"all_classes_{key}": among_all[key] for key in ("accuracy", "mean_class_accuracy")},
    }
