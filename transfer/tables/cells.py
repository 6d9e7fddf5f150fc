"""Cells of a mean over seeds: numbers of seeds and faces, mean, spread and interval, in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from transfer.tables.text import Format

if TYPE_CHECKING:
    from transfer.runs.read import Result

ROW: dict[str, Format] = dict.fromkeys(["experiment", "dataset", "recipe", "protocol"], "text")
"""The columns that say which runs a row is of."""
COUNTS: dict[str, Format] = dict.fromkeys(["n_seeds", "n_faces"], "count")
INTERVAL: dict[str, Format] = dict.fromkeys(["ci95_low", "ci95_high"], "percent")
ACCURACY: dict[str, Format] = COUNTS | dict.fromkeys(["accuracy", "accuracy_std"], "percent") | INTERVAL
"""The columns of ``mean_cells``."""


def mean_cells(fractions: Sequence[float], faces: int, name: str = "accuracy") -> dict[str, float | int | None]:
    """Return the cells of a fraction in [0, 1] per seed, each of the same ``faces``; None where undefined."""
    from transfer.evaluation.statistics import summary

    found = summary(fractions, faces=(round(faces * fractions[0]), faces))
    return {
        "n_seeds": found.n,
        "n_faces": faces,
        name: 100 * found.mean,
        f"{name}_std": percent(found.std),
        "ci95_low": percent(found.ci95_low),
        "ci95_high": percent(found.ci95_high),
    }


def accuracy_cells(seeds: Mapping[int, Result]) -> dict[str, float | int | None]:
    """Return the cells of the accuracy over seeds, and the mean of the mean-class accuracy."""
    import numpy as np

    accuracy, by_class = (
        [result.metrics[name] for result in seeds.values()] for name in ("accuracy", "mean_class_accuracy")
    )
    faces = len(next(iter(seeds.values())).correct)
    return mean_cells(accuracy, faces) | {"mean_class_accuracy": 100 * float(np.mean(by_class))}


def percent(fraction: float | None) -> float | None:
    """Return a fraction in percent; None stays."""
    return None if fraction is None else 100 * fraction
