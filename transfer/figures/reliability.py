"""Reliability diagrams: accuracy by confidence."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from transfer.utils.plots import About, recipe_name, styled

_ACROSS = 3
_MARK = {"color": "black", "markersize": 7, "markeredgewidth": 2}


@styled
def reliability_figure(curves: pd.DataFrame, about: About) -> Figure:
    """Draw per recipe the accuracy of each bin of confidence, its gap to the mean confidence, and how full the bin is.

    ``curves``: recipe, seed and the columns of ``reliability_curve``. Bins are summed over the seeds; the ECE is each
    seed's, as mean and standard deviation.
    """
    recipes = list(curves["recipe"].unique())
    across = min(len(recipes), _ACROSS)
    down = math.ceil(len(recipes) / across)
    figure = Figure(figsize=(max(2.7 * across, 4.5), 3.1 * down + 0.8), layout="constrained")
    panels = figure.subplots(2 * down, across, squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1] * down)
    for number, recipe in enumerate(recipes):
        rows = curves[curves["recipe"] == recipe]
        axes, below = panels[::2].flat[number], panels[1::2].flat[number]
        bins = _pooled(rows)
        width = bins["high"] - bins["low"]
        gaps = bins["confidence"] - bins["accuracy"]
        edges = {"align": "edge", "edgecolor": "black", "linewidth": 0.5}
        axes.bar(bins["low"], bins["accuracy"], width, label="accuracy", color="0.75", **edges)
        axes.bar(bins["low"], gaps, width, bins["accuracy"], label="gap", fill=False, hatch="////", **edges)
        axes.plot(bins["confidence"], bins["confidence"], "_", label="mean confidence", **_MARK)
        axes.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=0.8)
        axes.set_title(f"{recipe_name(recipe)}: ECE {_ece(rows)}")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        below.bar(bins["low"], bins["n"], width, align="edge", color="0.4")
        below.set_xlabel("confidence")
    for axes, below in zip(panels[::2, 0], panels[1::2, 0], strict=True):
        axes.set_ylabel("accuracy")
        below.set_ylabel("faces")
    for axes in panels[1::2].flat[: len(recipes)][-across:]:
        axes.tick_params(labelbottom=True)  # also where the row below is not full
    for axes in (*panels[::2].flat[len(recipes) :], *panels[1::2].flat[len(recipes) :]):
        axes.remove()
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    about.put_on(figure, "Reliability, bins summed over the seeds", curves["seed"].nunique())
    return figure


def _pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """One recipe's bins over all of its seeds; those with no face are left out."""
    rows = rows[rows["n"] > 0]
    sums = rows.assign(accuracy=rows["n"] * rows["accuracy"], confidence=rows["n"] * rows["confidence"])
    bins = sums.groupby(["low", "high"], as_index=False)[["n", "confidence", "accuracy"]].sum()
    return bins.assign(confidence=bins["confidence"] / bins["n"], accuracy=bins["accuracy"] / bins["n"])


def _ece(rows: pd.DataFrame) -> str:
    gaps = (rows["n"] * (rows["accuracy"] - rows["confidence"]).abs()).groupby(rows["seed"]).sum()
    values = gaps / rows["n"].groupby(rows["seed"]).sum()
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}"
