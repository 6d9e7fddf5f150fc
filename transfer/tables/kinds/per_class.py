"""Recall and precision by expression; confusion matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transfer.tables.kinds import COUNTS, INTERVAL, ROW, Cells, Context, Formats, Kind, mean_cells, percent
from transfer.tables.text import by_dataset, code, count, interval, mean
from transfer.utils.plots import panels, recipe_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

FORMATS: Formats = {
    **ROW,
    "expression": "text",
    **COUNTS,
    **dict.fromkeys(["recall", "recall_std"], "percent"),
    **INTERVAL,
    **dict.fromkeys(["precision", "precision_std"], "percent"),
}


def rows(context: Context) -> Iterator[Cells]:
    """Recall (with its interval) and precision of each expression, as means over seeds."""
    import numpy as np

    from transfer.evaluation.statistics import summary

    for names, seeds in context.results():
        confusion = np.array([result.metrics["confusion"] for result in seeds.values()])  # (seeds, C, C)
        called = confusion.sum(axis=1)
        for index, expression in enumerate(_classes(context, names["dataset"])):
            hits, faces = confusion[:, index, index], int(confusion[0, index].sum())
            cells: Cells = {"n_seeds": len(seeds), "n_faces": faces}
            if faces:
                cells |= mean_cells((hits / faces).tolist(), faces, "recall")
            if called[:, index].all():
                precision = summary(hits / called[:, index])
                cells |= {"precision": 100 * precision.mean, "precision_std": percent(precision.std)}
            yield names | {"expression": expression} | cells


def _classes(context: Context, dataset: str) -> list[str]:
    return next(run.classes for (name, _), seeds in context.runs.items() if name == dataset for run in seeds.values())


def figure(context: Context) -> tuple[Figure, str]:
    """Confusion matrices."""
    matrices = {
        recipe: [run.results[context.protocol].metrics["confusion"] for run in seeds.values()]
        for (_, recipe), seeds in context.runs.items()
    }
    what = "Confusion matrices: percent of a true class, and number of faces summed over seeds"
    return confusion_figure(matrices, _classes(context, context.dataset)), what


def confusion_figure(matrices: Mapping[str, ArrayLike], classes: Sequence[str]) -> Figure:
    """Draw a panel per recipe: percent of a true class, and faces, from counts (seeds, C, C), rows the truth."""
    import numpy as np

    side = 0.7 + 0.36 * len(classes)
    # "compressed" is the constrained layout for square panels
    figure, every = panels(len(matrices), (side, side + 0.2), (1, 1.2), 4, "compressed", sharex=True, sharey=True)
    for axes, (recipe, seeds) in zip(every, matrices.items(), strict=True):
        counts = np.asarray(seeds).sum(axis=0)
        _matrix(axes, counts)
        right = 100 * np.trace(counts) / counts.sum()
        axes.set_title(f"{recipe_name(recipe)}: {right:.2f} % of {counts.sum():,}")
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
    figure.supxlabel("predicted", fontsize=8)
    figure.supylabel("true", fontsize=8)
    return figure


def _matrix(axes: Axes, counts: NDArray[Any]) -> None:
    """Draw counts (C, C) as shades of each row's percentages, with both in numbers."""
    import numpy as np

    faces = counts.sum(axis=1, keepdims=True)
    shares = 100 * np.divide(counts, faces, out=np.zeros(counts.shape), where=faces > 0)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=100)
    for row, column in np.argwhere(counts > 0):
        cell: dict[str, Any] = {"ha": "center", "color": "white" if shares[row, column] > 60 else "black"}
        axes.text(column, row + 0.05, f"{shares[row, column]:.0f}", va="bottom", fontsize=7, **cell)
        axes.text(column, row + 0.1, f"{counts[row, column]:,}", va="top", fontsize=5, **cell)
    axes.tick_params(length=0)
    axes.spines[:].set(visible=True, color="0.7")
    axes.grid(False)


KIND = Kind(
    FORMATS,
    rows,
    "Recall (share of an expression's test faces that are recognised) and precision (share of the faces assigned "
    "to an expression that belong to it) in percent, as mean ± standard deviation over seeds. The interval is that "
    "of the recall: Student's t 95 % over seeds, or Wilson's over the faces for a single seed. Rare expressions "
    "have few faces: see `faces`.",
    by_dataset(
        {"recipe": code("recipe"), "expression": code("expression"), "faces": count("n_faces")},
        {"recall": mean("recall"), "95 %": interval(), "precision": mean("precision")},
        across="protocol",
        by=("recipe", "expression"),
    ),
    figure,
)
