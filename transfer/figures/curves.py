"""Learning curves: training loss and validation accuracy, epoch by epoch."""

import pandas as pd
from matplotlib.figure import Figure

from transfer.utils.plots import About, recipe_name, styled

_ROWS = {"train_loss": "training loss", "val_accuracy": "validation accuracy (%)"}


@styled
def curves_figure(history: pd.DataFrame, about: About) -> Figure:
    """Draw a column per recipe: its mean over seeds, a band from lowest to highest seed, and the other recipes' means.

    ``history``: recipe, seed, epoch, train_loss, val_accuracy in percent, of one dataset; recipes in order of first
    appearance.
    """
    means = history.groupby(["recipe", "epoch"])[list(_ROWS)].mean()
    recipes = list(history["recipe"].unique())
    figure = Figure(figsize=(max(1.7 * len(recipes), 3.4) + 0.6, 4), layout="constrained")
    panels = figure.subplots(len(_ROWS), len(recipes), sharex=True, sharey="row", squeeze=False)
    for row, (column, label) in enumerate(_ROWS.items()):
        for axes, recipe in zip(panels[row], recipes, strict=True):
            for other in recipes:
                if other != recipe:
                    axes.plot(means.loc[other, column], color="0.6", linewidth=0.6)
            seeds = history[history["recipe"] == recipe].groupby("epoch")[column]
            axes.fill_between(seeds.min().index, seeds.min(), seeds.max(), color="0.85", linewidth=0, zorder=0)
            axes.plot(means.loc[recipe, column], color="black")
        panels[row, 0].set_ylabel(label)
    for axes, recipe in zip(panels[0], recipes, strict=True):
        axes.set_title(recipe_name(recipe))
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    seeds = history["seed"].nunique()
    explained = ["mean, band from lowest to highest seed"] if seeds > 1 else []
    explained += ["thin lines are the other recipes"] if len(recipes) > 1 else []
    what = "Learning curves" + (": " + "; ".join(explained) if explained else "")
    about.put_on(figure, what, seeds)
    return figure
