"""The cells of a mean over seeds: how many, of how many faces, the mean, its spread and its interval, in percent."""

from collections.abc import Mapping, Sequence

import numpy as np

from transfer.evaluation.statistics import summary
from transfer.runs.read import Result
from transfer.tables.text import Format

ACCURACY: dict[str, Format] = {
    "n_seeds": "count",
    "n_faces": "count",
    "accuracy": "percent",
    "accuracy_std": "percent",
    "ci95_low": "percent",
    "ci95_high": "percent",
}
"""The columns of ``mean_cells``."""


def mean_cells(fractions: Sequence[float], faces: int, name: str = "accuracy") -> dict[str, float | int | None]:
    """The cells of a fraction in [0, 1] per seed, each of the same ``faces``; None where ``summary`` has none."""
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
    """Mean accuracy over seeds in percent, with its spread and interval, and the mean of the mean-class accuracy."""
    accuracy, by_class = (
        [result.metrics[name] for result in seeds.values()] for name in ("accuracy", "mean_class_accuracy")
    )
    faces = len(next(iter(seeds.values())).correct)
    return mean_cells(accuracy, faces) | {"mean_class_accuracy": 100 * float(np.mean(by_class))}


def percent(fraction: float | None) -> float | None:
    """A fraction in percent; None stays."""
    return None if fraction is None else 100 * fraction
