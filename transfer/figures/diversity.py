"""The paper's claim as a figure: how diverse maps and heads are, by recipe."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from transfer.evaluation.statistics import over_seeds
from transfer.runs.evaluations import MEASURES
from transfer.utils.plots import recipe_name

SHOWN = {
    "lanets_overlap": "LANets' maps:\noverlap (soft IoU)",
    "lanets_correlation": "LANets' maps:\ncorrelation",
    "heads_class_cosine": "heads, class token's row:\ncosine",
    "heads_class_correlation": "heads, class token's row:\ncorrelation",
}


def diversity_figure(found: pd.DataFrame, what: str) -> Figure:
    """A panel per measure in ``SHOWN``, a line per recipe; ``found`` is that of `read_diversity`, ``what`` names it."""
    recipes = list(found["recipe"].unique())
    figure = Figure(figsize=(9, 1.3 + 0.32 * len(recipes)), layout="constrained")
    panels = figure.subplots(1, len(SHOWN), sharey=True)
    for axes, (measure, name) in zip(panels, SHOWN.items(), strict=True):
        for place, recipe in enumerate(recipes):
            values = found[(found["recipe"] == recipe) & (found["measure"] == measure)]["value"].to_numpy()
            over = over_seeds(values, *MEASURES[measure])
            axes.plot(values, np.full(len(values), place), "o", color="black", mfc="none", ms=5)
            axes.plot([over["mean"]] * 2, [place - 0.3, place + 0.3], color="black", lw=1.5)
            axes.plot([over["ci95_low"], over["ci95_high"]], [place] * 2, color="0.65", lw=5, zorder=0)
        axes.set_xlabel(name, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", color="0.9")
    panels[0].set_yticks(range(len(recipes)), [recipe_name(recipe) for recipe in recipes])
    panels[0].set_ylim(len(recipes) - 0.5, -0.5)
    figure.suptitle(f"How alike maps and heads are: {what}", fontsize=9)
    return figure
