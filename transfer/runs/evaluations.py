"""Read and write additional evaluations of a run, and summarise their accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transfer.layout import Layout
from transfer.runs.metrics import metrics, read_json
from transfer.runs.predictions import class_names, probabilities_of
from transfer.runs.read import read_environment
from transfer.utils.errors import UserError
from transfer.utils.files import atomic

CLEAN = "none"
"""The corruption of the faces as they are, at severity 0."""


def write_evaluation(path: Path, frame: pd.DataFrame, identity: Mapping[str, Any], weights_sha256: str) -> None:
    """Write predictions of a run, with a note of whose they are; atomically."""
    noted = frame.copy(deep=False)
    noted.attrs = {**frame.attrs, **dict(identity), "weights_sha256": weights_sha256}
    with atomic(path) as part:
        noted.to_parquet(part, index=False)


def read_evaluation(path: Path, run_dir: Path) -> pd.DataFrame:
    """Read predictions of the weights that ``run_dir``/env.json describes; ``attrs`` has what was noted.

    Raises UserError, naming the file and the command: missing, damaged, of other weights.
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

    Columns: corruption, severity, n, accuracy, mean_class_accuracy, clean_accuracy (of the same n faces).
    """
    classes, rows = class_names(frame), []
    clean = frame[frame["corruption"] == CLEAN]
    right = pd.Series(probabilities_of(clean).argmax(axis=1) == clean["label"].to_numpy(), index=clean["sample"])
    for (corruption, severity), part in frame.groupby(["corruption", "severity"], sort=False):
        found = metrics(probabilities_of(part), part["label"].to_numpy(), classes)
        condition = {"corruption": corruption, "severity": severity}
        numbers = {key: found[key] for key in ("n", "accuracy", "mean_class_accuracy")}
        rows.append(condition | numbers | {"clean_accuracy": float(right[part["sample"]].mean())})
    return pd.DataFrame(rows)


def cross_accuracy(frame: pd.DataFrame) -> dict[str, Any]:
    """The numbers of one frame of `evaluate_cross`; fractions in [0, 1].

    n; common_classes, how many both datasets have; accuracy and mean_class_accuracy of the most probable of the common
    classes; all_classes_accuracy and all_classes_mean_class_accuracy of the most probable of all classes of the run,
    where a class that the test set lacks is an error.
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


MEASURES = {
    "lanets_overlap": (0.0, 1.0),
    "lanets_cosine": (0.0, 1.0),
    "lanets_correlation": (-1.0, 1.0),
    "heads_class_cosine": (0.0, 1.0),
    "heads_class_correlation": (-1.0, 1.0),
    "heads_all_cosine": (0.0, 1.0),
    "heads_all_correlation": (-1.0, 1.0),
}
"""The measures of diversity.json and their ranges; those of heads are means over the blocks."""


def read_diversity(layout: Layout, dataset: str, recipes: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """One row per recipe, seed and measure: recipe, seed, measure, value (NaN: no two LANets), faces.

    Raises UserError, naming the file: one is missing, or was measured on other weights than the run's.
    """
    rows = []
    for recipe in recipes:
        for seed in seeds:
            path, run = layout.evaluation("attention", dataset, recipe, seed), layout.run(dataset, recipe, seed)
            path, again = path / "diversity.json", f"snakemake --cores all {path / 'diversity.json'}"
            content = read_json(path, again)
            if content["weights_sha256"] != read_environment(run).get("weights_sha256"):
                raise UserError(f"{path}: of other weights than those of {run}; delete it and run: {again}")
            for measure in MEASURES:
                part, _, name = measure.partition("_")
                found = (content[part] or {}).get(name)
                value = np.nan if found is None else float(np.mean(found))
                rows.append((recipe, seed, measure, value, content["n"]))
    return pd.DataFrame(rows, columns=["recipe", "seed", "measure", "value", "faces"])
