"""The diversity of maps and heads, read back for the seeds of some recipes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from transfer.errors import UserError
from transfer.evaluation.statistics import summary
from transfer.layout import Layout

MEASURES = {
    "lanets_overlap": (0.0, 1.0),
    "lanets_cosine": (0.0, 1.0),
    "lanets_correlation": (-1.0, 1.0),
    "heads_class_cosine": (0.0, 1.0),
    "heads_class_correlation": (-1.0, 1.0),
    "heads_all_cosine": (0.0, 1.0),
    "heads_all_correlation": (-1.0, 1.0),
}
"""The measures of diversity.json and between which values they lie; those of heads are means over the blocks."""


def read_diversity(layout: Layout, dataset: str, recipes: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """One row per recipe, seed and measure: recipe, seed, measure, value (NaN: no two LANets), faces.

    Raises UserError, naming the file: one is missing, or was measured on other weights than the run's.
    """
    rows = []
    for recipe in recipes:
        for seed in seeds:
            path = layout.evaluation("attention", dataset, recipe, seed) / "diversity.json"
            content = _read(path, layout.run(dataset, recipe, seed) / "env.json")
            for measure in MEASURES:
                part, _, name = measure.partition("_")
                found = (content[part] or {}).get(name)
                value = np.nan if found is None else float(np.mean(found))
                rows.append((recipe, seed, measure, value, content["n"]))
    return pd.DataFrame(rows, columns=["recipe", "seed", "measure", "value", "faces"])


def over_seeds(values: np.ndarray, low: float, high: float) -> dict[str, float]:
    """mean, std, ci95_low and ci95_high of one value per seed, each from ``low`` to ``high``; NaN where undefined."""
    if np.isnan(values).any():
        return dict.fromkeys(("mean", "std", "ci95_low", "ci95_high"), np.nan)
    width = high - low
    found = summary(list((values - low) / width))  # which takes fractions in [0, 1]
    places = {name: getattr(found, name) for name in ("mean", "ci95_low", "ci95_high")}
    scaled = {name: np.nan if value is None else low + width * value for name, value in places.items()}
    return scaled | {"std": np.nan if found.std is None else width * found.std}


def _read(path: Path, env: Path) -> dict[str, Any]:
    for file in (path, env):
        if not file.exists():
            raise UserError(f"{file}: not there; make it with: snakemake --cores all {file}")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["weights_sha256"] != json.loads(env.read_text(encoding="utf-8"))["weights_sha256"]:
        raise UserError(
            f"{path}: measured on other weights than the run's; delete it and run: snakemake --cores all {path}"
        )
    return content
