"""Diversity of attention: similarity of the LANets' maps and of a block's heads, which MAD and MSAD should lower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.layout import Layout
from transfer.tables.kinds import COUNTS, Cells, Context, Formats, Kind
from transfer.tables.text import by_dataset, code, interval, mean, plain
from transfer.utils.plots import recipe_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FORMATS: Formats = {
    **dict.fromkeys(["experiment", "dataset", "recipe"], "text"),
    "local_cnns": "count",
    **dict.fromkeys(["mad", "msad", "protocol", "measure"], "text"),
    **COUNTS,
    **dict.fromkeys(["value", "value_std", "ci95_low", "ci95_high"], "number"),
}
SHOWN = {
    "lanets_overlap": "LANet maps:\noverlap (soft IoU)",
    "lanets_correlation": "LANet maps:\ncorrelation",
    "heads_class_cosine": "heads, class-token row:\ncosine",
    "heads_class_correlation": "heads, class-token row:\ncorrelation",
}


def evaluation(layout: Layout, run: tuple[str, str, int], datasets: Sequence[str]) -> list[Path]:
    """The measures of a run's attention."""
    return [layout.evaluation("attention", *run) / "diversity.json"]


def rows(context: Context) -> Iterator[Cells]:
    """Each measure of each recipe, as the mean over seeds."""
    from transfer.evaluation.statistics import summary
    from transfer.runs.evaluations import MEASURES, read_diversity

    for names, seeds in context.results():
        names |= context.model_cells(names["dataset"], names["recipe"])
        found = read_diversity(context.layout, names["dataset"], [names["recipe"]], list(seeds))
        for measure, values in found.groupby("measure", sort=False):
            over = vars(summary(values["value"].tolist(), within=MEASURES[str(measure)]))
            counts = {"n_seeds": over.pop("n"), "n_faces": int(values["faces"].iloc[0])}
            yield names | over | counts | {"measure": measure, "value": over["mean"], "value_std": over["std"]}


def figure(context: Context) -> tuple[Figure, str]:
    """Similarity of maps and heads."""
    from transfer.runs.evaluations import read_diversity

    recipes = [recipe for _, recipe in context.runs]
    found = read_diversity(context.layout, context.dataset, recipes, context.params.table_seeds(context.name))
    what = (
        "Similarity of the LANets' maps and of the heads of a block, mean over pairs and test faces "
        "(docs/attention.md); low is diverse. Circles: seeds; lines: mean; bars: its Student's t 95 % interval"
    )
    return diversity_figure(found), what


def diversity_figure(found: pd.DataFrame) -> Figure:
    """Draw a panel per measure in ``SHOWN``, a line per recipe; ``found`` is that of `read_diversity`."""
    from matplotlib.figure import Figure

    from transfer.evaluation.statistics import summary
    from transfer.runs.evaluations import MEASURES

    recipes = list(found["recipe"].unique())
    figure = Figure(figsize=(9, 1.3 + 0.32 * len(recipes)), layout="constrained")
    panels = figure.subplots(1, len(SHOWN), sharey=True)
    for axes, (measure, name) in zip(panels, SHOWN.items(), strict=True):
        for place, recipe in enumerate(recipes):
            values = found[(found["recipe"] == recipe) & (found["measure"] == measure)]["value"].tolist()
            over = summary(values, within=MEASURES[measure])
            axes.plot(values, [place] * len(values), "o", color="black", mfc="none", ms=5)
            axes.plot([over.mean] * 2, [place - 0.3, place + 0.3], color="black", lw=1.5)
            if over.std is not None:
                axes.plot([over.ci95_low, over.ci95_high], [place] * 2, color="0.65", lw=5, zorder=1)
        axes.set_xlabel(name)
    panels[0].set_yticks(range(len(recipes)), [recipe_name(recipe) for recipe in recipes])
    panels[0].set_ylim(len(recipes) - 0.5, -0.5)
    return figure


_grid = by_dataset(
    {"recipe": code("recipe"), "p1 (MAD)": plain("mad", "{:g}"), "p2 (MSAD)": plain("msad", "{:g}")},
    {"value": mean("value", "{:.3f}"), "95 %": interval(template="{:.3f}")},
    across="measure",
)
KIND = Kind(
    FORMATS,
    rows,
    "Similarity of the LANets' maps (overlap: soft intersection over union; correlation of their cells) and of "
    "the heads of a block (cosine and correlation of the class token's attention, averaged over the blocks): mean "
    "over all pairs and the test faces ({faces}), as mean ± standard deviation over seeds; low is diverse. The "
    "interval is Student's t 95 % over seeds, undefined for a single seed. Further measures are in the csv, the "
    "formulas in docs/attention.md. The overlap is undefined with fewer than two LANets.",
    lambda context, frame: _grid(context, frame[frame["measure"].isin(SHOWN)]),
    figure,
    evaluation=evaluation,
)
