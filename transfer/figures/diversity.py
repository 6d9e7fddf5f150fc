"""The paper's claim as a figure: how diverse maps and heads are, by recipe."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from transfer.digest import step_digest
from transfer.explain.seeds import MEASURES, over_seeds, read_diversity
from transfer.figures.names import recipe_name
from transfer.figures.save import save
from transfer.files import write_json
from transfer.layout import Layout
from transfer.params import Params

SHOWN = {
    "lanets_overlap": "LANets' maps:\noverlap (soft IoU)",
    "lanets_correlation": "LANets' maps:\ncorrelation",
    "heads_class_cosine": "heads, class token's row:\ncosine",
    "heads_class_correlation": "heads, class token's row:\ncorrelation",
}


def write_diversity_figure(params: Params, layout: Layout, dataset: str) -> list[Path]:
    """Write diversity_DATASET.png, .svg and .json (the caption) into the figures' folder; returns their paths.

    Raises UserError where a run was not measured, or was trained again since.
    """
    found = read_diversity(params, layout, dataset)
    seeds, faces = found["seed"].nunique(), int(found["faces"].iloc[0])
    synthetic = params.dataset_definitions[dataset].synthetic is not None
    drawn = " (drawn faces)" if synthetic else ""
    figure = diversity_figure(found, f"{dataset}{drawn}, {faces:,} test faces, seeds: {seeds}")
    caption = (
        f"How alike the LANets' maps and the heads of a block are, mean over all pairs and the {faces:,} test faces of "
        f"{dataset}{drawn}: low is diverse. A circle is a seed ({seeds} in all), the line their mean, the bar its 95 % "
        "interval (Student's t, two seeds or more). A recipe without two LANets has no overlap. docs/attention.md has "
        "the formulas."
    )
    paths = [layout.figures / f"diversity_{dataset}{ending}" for ending in (".png", ".svg", ".json")]
    for path in paths[:2]:
        save(figure, path)
    write_json(
        paths[2],
        {
            "caption": caption,
            "experiment": params.experiment,
            "dataset": dataset,
            "synthetic": synthetic,
            "recipes": list(params.recipes),
            "n_seeds": seeds,
            "n_faces": faces,
            "code_digest": step_digest("diversity_figure"),
        },
    )
    return paths


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
