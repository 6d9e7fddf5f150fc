"""Read and write additional evaluations of a run, and summarise their accuracy."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transfer.layout import Layout
from transfer.runs.metrics import frame_metrics, metrics, read_json
from transfer.runs.predictions import class_names, probabilities_of, readable
from transfer.runs.read import Run, chain_of, read_environment
from transfer.utils.errors import UserError, remake
from transfer.utils.files import atomic

ACCURACIES = ("accuracy", "mean_class_accuracy")
CLEAN = "none"
"""The corruption of the faces as they are, at severity 0."""


def write_evaluation(path: Path, frame: pd.DataFrame, run: Run, faces: Path) -> None:
    """Write predictions of a run on the data in the folder ``faces``, with a note of whose they are; atomically."""
    noted = frame.copy(deep=False)
    noted.attrs = frame.attrs | run.identity | {"weights_sha256": run.environment["weights_sha256"]}
    with atomic(path) as part:
        noted.to_parquet(part, index=False)
    note_evaluation(path, run, faces)


def note_evaluation(path: Path, run: Run, faces: Path) -> None:
    """Note in the chain of digests that ``path`` was made from the weights of ``run`` and the data in ``faces``."""
    run.chain.note([path], [run.weights, *(faces / f"{name}.parquet" for name in ("aligned", "split"))])


def read_evaluation(path: Path, run_dir: Path) -> pd.DataFrame:
    """Read predictions of the weights in ``run_dir``. Raises UserError: missing, damaged, of other weights."""
    with readable(path, remake(path)):
        frame = pd.read_parquet(path)
    _refuse_other_weights(path, frame.attrs, run_dir)
    chain_of(run_dir).check(path)
    return frame


def _refuse_other_weights(path: Path, noted: Mapping[Any, Any], run_dir: Path) -> None:
    if noted.get("weights_sha256") != read_environment(run_dir).get("weights_sha256"):
        raise UserError(f"{path}: of other weights than those of {run_dir}; delete it and {remake(path)}")


def accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """n, accuracy, mean_class_accuracy and clean_accuracy of the same faces by corruption and severity; fractions."""
    clean, rows = frame[frame["corruption"] == CLEAN], []
    right = pd.Series(probabilities_of(clean).argmax(axis=1) == clean["label"].to_numpy(), index=clean["sample"])
    for (corruption, severity), part in frame.groupby(["corruption", "severity"], sort=False):
        found, clean_accuracy = frame_metrics(part), float(right[part["sample"]].mean())
        rows.append((corruption, severity, found["n"], *(found[name] for name in ACCURACIES), clean_accuracy))
    return pd.DataFrame(rows, columns=["corruption", "severity", "n", *ACCURACIES, "clean_accuracy"])


def cross_accuracy(frame: pd.DataFrame) -> dict[str, Any]:
    """The numbers of one frame of `evaluate_cross`; fractions in [0, 1].

    n; common_classes, how many both datasets have; accuracy and mean_class_accuracy of the most probable of the common
    classes; the same with the prefix all_classes_ of the most probable of all classes of the run, where a class that
    the test set lacks is an error.
    """
    labels = frame["label"].to_numpy()
    common = np.unique(labels)
    names = [class_names(frame)[i] for i in common]
    among = metrics(probabilities_of(frame)[:, common], np.searchsorted(common, labels), names)
    among_all = frame_metrics(frame)
    return {
        "n": among["n"],
        "common_classes": len(common),
        **{key: among[key] for key in ACCURACIES},
        **{f"all_classes_{key}": among_all[key] for key in ACCURACIES},
    }


def read_tool(layout: Layout, dataset: str, tool: str, faces: pd.Index) -> pd.DataFrame:
    """A tool's predictions of the test ``faces`` (sample, label), once per input. Raises UserError: missing, damaged,
    of other faces."""
    path = layout.tool(dataset, tool)
    with readable(path, f"run transfer evaluate --tool {tool}"):
        frame = pd.read_parquet(path)
    layout.chain.check(path)
    for shown, part in frame.groupby("input"):
        if not pd.MultiIndex.from_frame(part[["sample", "label"]]).sort_values().equals(faces):
            raise UserError(f"{path}: other test faces ({shown}) than those of the runs; delete it and {remake(path)}")
    return frame


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
    """recipe, seed, measure, value (NaN: no two LANets), faces. Raises UserError: missing, or of other weights."""
    rows = []
    for recipe, seed in itertools.product(recipes, seeds):
        path = layout.evaluation("attention", dataset, recipe, seed) / "diversity.json"
        content = read_json(path)
        _refuse_other_weights(path, content, layout.run(dataset, recipe, seed))
        layout.chain.check(path)
        for measure in MEASURES:
            part, _, name = measure.partition("_")
            found = (content[part] or {}).get(name)
            rows.append((recipe, seed, measure, np.nan if found is None else float(np.mean(found)), content["n"]))
    return pd.DataFrame(rows, columns=["recipe", "seed", "measure", "value", "faces"])
