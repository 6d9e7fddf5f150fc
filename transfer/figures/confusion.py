"""Confusion matrices of the recipes on a dataset."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transfer.utils.plots import About, recipe_name, styled

_ACROSS = 3


@styled
def confusion_figure(matrices: Mapping[str, Sequence[np.ndarray]], classes: Sequence[str], about: About) -> Figure:
    """Draw a panel per recipe: percent of the faces of a true class, and below the number of faces, summed over seeds.

    ``matrices``: recipe -> one ``confusion`` (C, C) of metrics.json per seed, rows are the truth. A row without faces
    stays empty.
    """
    across = min(len(matrices), _ACROSS)
    down = math.ceil(len(matrices) / across)
    side = 0.7 + 0.36 * len(classes)
    # "compressed" is the constrained layout for square panels
    figure = Figure(figsize=(max(side * across + 1, 4), (side + 0.2) * down + 1.2), layout="compressed")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axes, (recipe, seeds) in zip(panels.flat, matrices.items(), strict=False):
        counts = np.sum(seeds, axis=0)
        _matrix(axes, counts)
        right = 100 * np.trace(counts) / counts.sum()
        axes.set_title(f"{recipe_name(recipe)}: {right:.2f} % of {counts.sum():,}")
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
    for axes in panels.flat[: len(matrices)][-across:]:
        axes.tick_params(labelbottom=True)  # also where the row below is not full
    for axes in panels.flat[len(matrices) :]:
        axes.remove()
    figure.supxlabel("predicted", fontsize=8)
    figure.supylabel("true", fontsize=8)
    seeds = len(next(iter(matrices.values())))
    about.put_on(figure, "Confusion: % of a true class, and number of faces, summed over the seeds", seeds)
    return figure


def _matrix(axes: Axes, counts: np.ndarray) -> None:
    """Counts (C, C) as shades of each row's percentages, with both in numbers."""
    faces = counts.sum(axis=1, keepdims=True)
    percent = 100 * np.divide(counts, faces, out=np.zeros(counts.shape), where=faces > 0)
    axes.imshow(percent, cmap="Greys", vmin=0, vmax=100)
    for row, column in np.argwhere(counts > 0):
        cell = {"ha": "center", "color": "white" if percent[row, column] > 60 else "black"}
        axes.text(column, row + 0.05, f"{percent[row, column]:.0f}", va="bottom", fontsize=7, **cell)
        axes.text(column, row + 0.1, f"{counts[row, column]:,}", va="top", fontsize=5, **cell)
    axes.tick_params(length=0)
    axes.spines[:].set(visible=True, color="0.7")
    axes.grid(False)
