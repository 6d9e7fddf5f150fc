"""Accuracy against the severity of corruptions."""

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from transfer.utils.plots import About, line_styles, recipe_name, styled

_ACROSS = 3


@styled
def robustness_figure(
    frame: pd.DataFrame, about: About, clean: Mapping[str, float], units: Mapping[str, str]
) -> Figure:
    """Draw a panel per corruption and in it a line per recipe: the mean over seeds, its bars from lowest to highest.

    ``frame``: corruption, severity, recipe, seed, accuracy and clean_accuracy (that of the same faces without
    corruption) in [0, 1]. Each line begins with the clean faces, at the severity ``clean[corruption]``;
    ``units[corruption]`` is what the severity measures. Corruptions and recipes in order of first appearance.
    """
    corruptions, recipes = list(frame["corruption"].unique()), list(frame["recipe"].unique())
    across = min(len(corruptions), _ACROSS)
    down = math.ceil(len(corruptions) / across)
    figure = Figure(figsize=(max(2.9 * across, 4.5), 2.4 * down + 1), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    styles = line_styles(recipes)
    for axes, corruption in zip(panels.flat, corruptions, strict=False):
        rows = frame[frame["corruption"] == corruption]
        start = rows.drop_duplicates(["recipe", "seed"]).assign(severity=clean[corruption])
        start["accuracy"] = start["clean_accuracy"]
        for recipe, part in pd.concat([start, rows]).groupby("recipe", sort=False):
            over = 100 * part.groupby("severity")["accuracy"].agg(["mean", "min", "max"])
            bars = [over["mean"] - over["min"], over["max"] - over["mean"]]
            axes.errorbar(
                over.index, over["mean"], bars, label=recipe_name(recipe), elinewidth=0.7, capsize=2, **styles[recipe]
            )
        axes.set_title(corruption.replace("_", " "))
        axes.set_xlabel(units[corruption])
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy (%)")
    for axes in panels.flat[len(corruptions) :]:
        axes.remove()
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(len(recipes), 6),
        handlelength=4,
    )
    seeds = frame["seed"].nunique()
    bars = ": mean, bars from lowest to highest seed" if seeds > 1 else ""
    about.put_on(figure, f"Accuracy on corrupted test faces{bars}", seeds)
    return figure
