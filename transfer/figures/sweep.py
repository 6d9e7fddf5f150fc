"""Accuracy against what was varied: one number, or two."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transfer.evaluation.statistics import summary
from transfer.utils.plots import About, line_styles, styled


@styled
def sweep_figure(frame: pd.DataFrame, name: str, about: About) -> Figure:
    """Draw accuracy against a number called ``name``: a point per seed, a line through the means, their 95 % interval.

    ``frame``: value, seed, accuracy in [0, 1]. The interval is Student's, for two seeds or more.
    """
    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(frame["value"], 100 * frame["accuracy"], "o", color="0.45", markerfacecolor="none", label="one seed")
    _means(axes, frame, "value", {"color": "black"}, "mean, 95 % interval")
    axes.set_xlabel(name)
    axes.set_ylabel("accuracy (%)")
    _ticks(axes, frame["value"])
    seeds = frame["seed"].nunique()
    if seeds > 1:
        axes.legend()
    about.put_on(figure, f"Accuracy by {name}", seeds)
    return figure


@styled
def grid_figure(frame: pd.DataFrame, names: tuple[str, str], about: About) -> Figure:
    """Draw accuracy against two numbers called ``names``: a heat map of the means, and a line per value of the second.

    ``frame``: first, second (the two numbers), seed, accuracy in [0, 1]. A pair without runs stays empty.
    """
    cells = 100 * frame.groupby(["second", "first"])["accuracy"].agg(["mean", "std"])
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    heat, lines = figure.subplots(1, 2)
    _heat_map(heat, cells["mean"].unstack(), cells["std"].unstack())
    values = sorted(frame["second"].unique())
    seeds = frame["seed"].nunique()
    # a little beside each other, so that their intervals can be told apart
    step = 0.015 * float(np.ptp(frame["first"])) if seeds > 1 else 0.0
    for i, (value, style) in enumerate(line_styles(values).items()):
        part = frame[frame["second"] == value]
        _means(lines, part, "first", style, f"{value:g}", beside=step * (i - (len(values) - 1) / 2))
    for axes in (heat, lines):
        axes.set_xlabel(names[0])
    heat.set_ylabel(names[1])
    lines.set_ylabel("accuracy (%)")
    _ticks(lines, frame["first"])
    lines.legend(title=names[1], loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3.5)
    heat.set_title("mean ± standard deviation (%)" if seeds > 1 else "accuracy (%)")
    lines.set_title("mean, 95 % interval" if seeds > 1 else "one run each")
    about.put_on(figure, f"Accuracy by {names[0]} and {names[1]}", seeds)
    return figure


def _heat_map(axes: Axes, means: pd.DataFrame, deviations: pd.DataFrame) -> None:
    low, high = np.nanmin(means), np.nanmax(means)
    # neither white nor darker than what black letters can be read on
    axes.imshow(means, cmap="Greys", origin="lower", aspect="auto", vmin=1.1 * low - 0.1 * high, vmax=2 * high - low)
    for row, column in np.ndindex(means.shape):
        mean, deviation = means.iloc[row, column], deviations.iloc[row, column]
        spread = "" if np.isnan(deviation) else f"\n± {deviation:.2f}"
        text = "–" if np.isnan(mean) else f"{mean:.2f}{spread}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7)
    axes.set_xticks(range(means.shape[1]), [f"{value:g}" for value in means.columns])
    axes.set_yticks(range(means.shape[0]), [f"{value:g}" for value in means.index])
    axes.grid(False)


def _means(axes: Axes, frame: pd.DataFrame, by: str, style: dict[str, Any], label: str, beside: float = 0.0) -> None:
    """A line through the means, with their intervals where there are any, moved sideways."""
    values = {value: summary(list(part)) for value, part in frame.groupby(by)["accuracy"]}
    axes.plot([x + beside for x in values], [100 * value.mean for value in values.values()], label=label, **style)
    for x, value in values.items():
        if value.ci95_low is not None:
            bar = [[100 * (value.mean - value.ci95_low)], [100 * (value.ci95_high - value.mean)]]
            axes.errorbar(
                [x + beside], [100 * value.mean], bar, fmt="none", ecolor=style["color"], capsize=2, elinewidth=0.8
            )


def _ticks(axes: Axes, values: pd.Series) -> None:
    """A tick at every value that was run, if there are few."""
    if values.nunique() <= 10:
        axes.set_xticks(sorted(values.unique()), [f"{value:g}" for value in sorted(values.unique())])
