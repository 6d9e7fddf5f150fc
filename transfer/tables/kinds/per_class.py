"""Recall and precision by expression; confusion matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transfer.tables.cells import COUNTS, INTERVAL, ROW, mean_cells, percent
from transfer.tables.kinds import Context, Kind
from transfer.tables.text import Format, by_dataset, code, count, interval, mean
from transfer.utils.plots import panels, recipe_name

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from transfer.runs.read import Result

FORMATS: dict[str, Format] = {
    **ROW,
    "expression": "text",
    **COUNTS,
    **dict.fromkeys(["recall", "recall_std"], "percent"),
    **INTERVAL,
    **dict.fromkeys(["precision", "precision_std"], "percent"),
}


def rows(context: Context) -> Iterator[dict[str, Any]]:
    """Recall (with its interval) and precision of each expression, as means over seeds."""
    for names, seeds in context.results():
        for index, expression in enumerate(_classes(context, names["dataset"])):
            yield names | {"expression": expression} | _cells(list(seeds.values()), index)


def _classes(context: Context, dataset: str) -> list[str]:
    return next(run.classes for (name, _), seeds in context.runs.items() if name == dataset for run in seeds.values())


def _cells(results: Sequence[Result], index: int) -> dict[str, float | int | None]:
    from transfer.evaluation.statistics import summary

    confusions = [result.metrics["confusion"] for result in results]
    hits = [confusion[index][index] for confusion in confusions]
    faces = sum(confusions[0][index])
    called = [sum(row[index] for row in confusion) for confusion in confusions]
    cells: dict[str, float | int | None] = {"n_seeds": len(results), "n_faces": faces}
    if faces:
        cells |= mean_cells([hit / faces for hit in hits], faces, "recall")
    if all(called):
        precision = summary([hit / total for hit, total in zip(hits, called, strict=True)])
        cells |= {"precision": 100 * precision.mean, "precision_std": percent(precision.std)}
    return cells


def figure(context: Context) -> tuple[Figure, str]:
    """Confusion matrices."""
    matrices = {
        recipe: [run.results[context.protocol].metrics["confusion"] for run in seeds.values()]
        for (_, recipe), seeds in context.runs.items()
    }
    what = "Confusion matrices: percent of a true class, and number of faces summed over seeds"
    return confusion_figure(matrices, _classes(context, context.dataset)), what


def confusion_figure(matrices: Mapping[str, Sequence[np.ndarray | list[list[int]]]], classes: Sequence[str]) -> Figure:
    """Draw a panel per recipe: percent of the faces of a true class, and below the number of faces, summed over seeds.

    ``matrices``: recipe -> one ``confusion`` (C, C) of metrics.json per seed, rows are the truth. A row without faces
    stays empty.
    """
    import numpy as np

    side = 0.7 + 0.36 * len(classes)
    # "compressed" is the constrained layout for square panels
    figure, every = panels(len(matrices), (side, side + 0.2), (1, 1.2), 4, "compressed", sharex=True, sharey=True)
    for axes, (recipe, seeds) in zip(every, matrices.items(), strict=True):
        counts = np.sum(seeds, axis=0)
        _matrix(axes, counts)
        right = 100 * np.trace(counts) / counts.sum()
        axes.set_title(f"{recipe_name(recipe)}: {right:.2f} % of {counts.sum():,}")
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
    figure.supxlabel("predicted", fontsize=8)
    figure.supylabel("true", fontsize=8)
    return figure


def _matrix(axes: Axes, counts: np.ndarray) -> None:
    """Draw counts (C, C) as shades of each row's percentages, with both in numbers."""
    import numpy as np

    faces = counts.sum(axis=1, keepdims=True)
    shares = 100 * np.divide(counts, faces, out=np.zeros(counts.shape), where=faces > 0)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=100)
    for row, column in np.argwhere(counts > 0):
        cell = {"ha": "center", "color": "white" if shares[row, column] > 60 else "black"}
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
