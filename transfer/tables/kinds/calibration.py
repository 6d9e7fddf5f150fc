"""Calibration: ECE, negative log-likelihood and Brier score; reliability diagrams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from transfer.tables.kinds import COUNTS, ROW, Cells, Context, Formats, Kind, accuracy_cells
from transfer.tables.text import by_dataset, code, interval, mean, spread
from transfer.utils.plots import panels, recipe_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from transfer.runs.read import Result

METRICS: Formats = {"ece": "percent", "adaptive_ece": "percent", "nll": "number", "brier": "number"}
INTERVALS = ("ece", "nll", "brier")
FORMATS: Formats = {
    **ROW,
    **COUNTS,
    **dict.fromkeys(["accuracy", "accuracy_std"], "percent"),
    **{
        f"{name}{end}": kind
        for name, kind in METRICS.items()
        for end in ("", "_std", *(("_ci95_low", "_ci95_high") if name in INTERVALS else ()))
    },
}


def rows(context: Context) -> Iterator[Cells]:
    """ECE in percent, negative log-likelihood and Brier score of each recipe, as means over seeds."""
    for names, seeds in context.results():
        yield names | accuracy_cells(seeds) | _cells(list(seeds.values()))


def _cells(results: Sequence[Result]) -> Cells:
    import numpy as np
    import pandas as pd

    from transfer.evaluation.calibration import bootstrap_intervals, calibration
    from transfer.runs.predictions import probabilities_of

    values = pd.DataFrame(
        [calibration(probabilities_of(result.test), result.test["label"].to_numpy()) for result in results]
    )
    intervals = bootstrap_intervals([result.test for result in results])
    cells: Cells = {}
    for name, kind in METRICS.items():
        factor = 100 if kind == "percent" else 1
        cells[name] = factor * float(values[name].mean())
        cells[f"{name}_std"] = factor * float(np.std(values[name], ddof=1)) if len(results) > 1 else None
        if name in intervals:
            cells[f"{name}_ci95_low"], cells[f"{name}_ci95_high"] = (factor * end for end in intervals[name])
    return cells


def figure(context: Context) -> tuple[Figure, str]:
    """Reliability diagrams."""
    import pandas as pd

    from transfer.evaluation.calibration import reliability_curve
    from transfer.runs.predictions import probabilities_of

    frames = []
    for recipe, seed, run in context.each_run():
        test = run.results[context.protocol].test
        curve = reliability_curve(probabilities_of(test), test["label"].to_numpy())
        frames.append(curve.assign(recipe=recipe, seed=seed))
    what = "Reliability: accuracy by confidence, number of faces per bin, summed over seeds; ECE with 15 bins"
    return reliability_figure(pd.concat(frames)), what


def reliability_figure(curves: pd.DataFrame) -> Figure:
    """Draw a panel per recipe of ``curves``, the columns of `reliability_curve` with recipe and seed."""
    figure, every = panels(curves["recipe"].nunique(), (2.7, 2.7), (0.2, 0.9), 4.5, sharex=True, sharey=True)
    for axes, (recipe, rows) in zip(every, curves.groupby("recipe", sort=False), strict=True):
        bins = _pooled(rows)
        width, gaps = bins["high"] - bins["low"], bins["confidence"] - bins["accuracy"]
        edges: dict[str, Any] = {"align": "edge", "edgecolor": "black", "linewidth": 0.5}
        axes.bar(bins["low"], bins["accuracy"], width, label="accuracy", color="0.75", **edges)
        axes.bar(bins["low"], gaps, width, bins["accuracy"], label="gap", fill=False, hatch="////", **edges)
        axes.plot(*[bins["confidence"]] * 2, "_", label="mean confidence", color="black", ms=7, mew=2)
        axes.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=0.8)
        for middle, faces in zip(bins["low"] + width / 2, bins["n"], strict=True):
            axes.text(middle, 0.02, f"{faces:,}", rotation=90, fontsize=5, ha="center", va="bottom")
        axes.set(title=f"{recipe_name(str(recipe))}: ECE {_ece(rows)}", xlim=(0, 1), ylim=(0, 1), xlabel="confidence")
    figure.supylabel("accuracy", fontsize=8)
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _pooled(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows["n"] > 0]
    sums = rows.assign(accuracy=rows["n"] * rows["accuracy"], confidence=rows["n"] * rows["confidence"])
    bins = sums.groupby(["low", "high"], as_index=False)[["n", "confidence", "accuracy"]].sum()
    return bins.assign(confidence=bins["confidence"] / bins["n"], accuracy=bins["accuracy"] / bins["n"])


def _ece(rows: pd.DataFrame) -> str:
    gaps = (rows["n"] * (rows["accuracy"] - rows["confidence"]).abs()).groupby(rows["seed"]).sum()
    values = gaps / rows["n"].groupby(rows["seed"]).sum()
    return spread(values.mean(), values.std(), "{:.3f}")


KIND = Kind(
    FORMATS,
    rows,
    "Calibration of the probabilities of the test faces, as mean ± standard deviation over seeds; smaller is "
    "better. ECE: expected difference between confidence and accuracy, over 15 bins of equal width, in percent "
    "(adaptive: 15 bins with equal numbers of faces). NLL: mean of -log p(label) in nats. Brier: squared distance "
    "to the label, 0 to 2. Intervals: 95 % bootstrap over the test faces of the mean over seeds "
    "(docs/statistics.md); they do not cover the choice of seeds.",
    by_dataset(
        {"recipe": code("recipe")},
        {
            "ECE": mean("ece"),
            "95 %": interval("ece_ci95_low", "ece_ci95_high"),
            "NLL": mean("nll", "{:.3f}"),
            "Brier": mean("brier", "{:.3f}"),
        },
        across="protocol",
    ),
    figure,
)
