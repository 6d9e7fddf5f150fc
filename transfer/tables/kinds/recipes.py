"""Recipes against a baseline (Tables 1 to 4); learning curves, or accuracy against what was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transfer.tables.cells import INTERVAL, accuracy_cells, percent
from transfer.tables.kinds import Context, Kind
from transfer.tables.reported import REPORTED, Reported, load_reported
from transfer.tables.text import (
    ACCURACY_CELLS,
    UNDEFINED,
    Format,
    Section,
    Table,
    code,
    grid,
    plain,
    protocols_paragraph,
    rounded,
    statistics_paragraph,
)
from transfer.utils.plots import About, line_styles, recipe_name, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from transfer.runs.read import Runs

FORMATS: dict[str, Format] = {
    **dict.fromkeys(["experiment", "dataset", "recipe"], "text"),
    "local_cnns": "count",
    **dict.fromkeys(["mad", "msad", "protocol"], "text"),
    "n_seeds": "count",
    **dict.fromkeys(["accuracy", "accuracy_std"], "percent"),
    **INTERVAL,
    **dict.fromkeys(["mean_class_accuracy", "delta_vs_baseline"], "percent"),
    "p_value": "p",
    "reported_accuracy": "percent",
    "reported_source": "text",
    "n_faces": "count",
    **dict.fromkeys(["delta_ci95_low", "delta_ci95_high"], "percent"),
    "p_holm": "p",
    "effect_size": "number",
    "effect": "text",
}
COLUMNS = list(FORMATS)[:17]
"""The columns that every reader of Table 1 may count on; further ones follow them."""


def table(context: Context) -> Table:
    """The accuracies of the table's recipes on its datasets, against its baseline."""
    params, sweep = context.params, context.definition.sweep
    values = sweep.recipes() if sweep else {}
    parts = {
        (dataset, recipe): params.run(dataset, recipe).model.model_dump(include={"num_lanets", "mad", "msad"})
        | {key.rpartition(".")[2]: value for key, value in values.get(recipe, {}).items()}
        for dataset, recipe in context.runs
    }
    families = {dataset: params.dataset_definitions[dataset].reported_as for dataset, _ in context.runs}
    baseline = params.table_baseline(context.name)
    frame = recipes_frame(
        context.runs,
        parts,
        families,
        context.protocols,
        load_reported(REPORTED),
        experiment=params.experiment,
        baseline=baseline,
    )
    return recipes_page(frame, context.title, baseline)


def recipes_frame(
    runs: Runs,
    parts: Mapping[tuple[str, str], Mapping[str, float]],
    families: Mapping[str, str | None],
    protocols: Sequence[str],
    reported: Sequence[Reported],
    *,
    experiment: str,
    baseline: str = "baseline",
) -> pd.DataFrame:
    """Return the table with the columns of ``FORMATS``; accuracies and differences in percent, NaN where undefined.

    ``parts`` maps (dataset, recipe) to num_lanets, mad and msad there, and to further values that become columns;
    ``families`` maps each dataset to the leaderboard its published numbers belong to (rafdb, ferplus, affectnet7,
    affectnet8), None for one that has no published counterpart. Holm's correction is over all comparisons of the table
    under one protocol. Rows follow the order of the runs and protocols.
    """
    import numpy as np
    import pandas as pd

    from transfer.evaluation.statistics import holm, paired_difference

    rows = []
    for (dataset, recipe), seeds in runs.items():
        own = dict(parts[dataset, recipe])
        names = {"experiment": experiment, "dataset": dataset, "recipe": recipe, "local_cnns": own.pop("num_lanets")}
        for protocol in protocols:
            ours = {seed: run.results[protocol] for seed, run in seeds.items()}
            theirs = {seed: run.results[protocol] for seed, run in runs.get((dataset, baseline), {}).items()}
            row = names | own | {"protocol": protocol} | accuracy_cells(ours)
            if recipe != baseline and (both := sorted(ours.keys() & theirs.keys())):
                paired = paired_difference(*({seed: side[seed].correct for seed in both} for side in (ours, theirs)))
                row |= {
                    "delta_vs_baseline": 100 * paired.difference,
                    "delta_ci95_low": percent(paired.ci95_low),
                    "delta_ci95_high": percent(paired.ci95_high),
                    "p_value": paired.p_value,
                    "effect_size": paired.effect_size,
                    "effect": paired.effect_name,
                }
            if protocol == "test_selected":
                row |= published(reported, families[dataset], recipe)
            rows.append(row)
    frame = pd.DataFrame(rows).reindex(columns=[*FORMATS, *(key for key in rows[0] if key not in FORMATS)])
    for _, family in frame.groupby("protocol"):
        frame.loc[family.index, "p_holm"] = np.array(holm(family["p_value"].astype(float)), dtype=float)
    return rounded(frame, formats(frame))


def formats(frame: pd.DataFrame) -> dict[str, Format]:
    """Return ``FORMATS``, and as text the values of a sweep."""
    return FORMATS | {column: "text" for column in frame if column not in FORMATS}


def published(reported: Sequence[Reported], family: str | None, recipe: str) -> dict[str, float | str | None]:
    """Return the cells of a recipe's published number; none where there is no such number."""
    for entry in reported:
        if (entry.dataset, entry.recipe, entry.protocol) == (family, recipe, "test_selected"):
            remark = f" ({entry.remark})" if entry.remark else ""
            return {"reported_accuracy": entry.accuracy, "reported_source": f"{entry.status}: {entry.source}{remark}"}
    return {}


def recipes_page(frame: pd.DataFrame, title: str, baseline: str) -> Table:
    """Return ``frame`` for readers: per dataset a line per recipe."""
    header = [
        f"Accuracy on the test split, in percent. {statistics_paragraph(frame)} Δ is the difference to the recipe "
        f"`{baseline}` in points, d its effect size, p two-sided; p(Holm) is corrected for all comparisons of "
        "this table under one protocol (docs/statistics.md). Marks: \\* p(Holm) < 0.05, \\*\\* p(Holm) < 0.01. "
        "Mean-class accuracy and the intervals of the differences are in the csv.",
        protocols_paragraph(list(dict.fromkeys(frame["protocol"]))),
    ]
    sections = [_section(str(dataset), rows) for dataset, rows in frame.groupby("dataset", sort=False)]
    return Table(title, frame, formats(frame), header, sections)


def _section(name: str, rows: pd.DataFrame) -> Section:
    keys = {"recipe": code("recipe"), "LANets": plain("local_cnns", "{}"), "p1 (MAD)": plain("mad", "{:g}")}
    keys |= {"p2 (MSAD)": plain("msad", "{:g}")}
    keys |= {column: plain(column, "{}") for column in rows if column not in FORMATS}
    head, lines = grid(rows, keys, ACCURACY_CELLS | {"Δ (p, p(Holm), d)": _difference}, across="protocol")
    numbers = rows.dropna(subset="reported_accuracy").set_index("recipe")
    sources = list(numbers["reported_source"].unique())
    if sources:
        head.append("published (`test_selected`)")
        for line, recipe in zip(lines, dict.fromkeys(rows["recipe"]), strict=True):
            cell = UNDEFINED
            if recipe in numbers.index:
                number = numbers.loc[recipe]
                cell = f"{number['reported_accuracy']:.2f} [{sources.index(number['reported_source']) + 1}]"
            line.append(cell)
    return Section(name, "", head, lines, [f"[{i}] {source}" for i, source in enumerate(sources, 1)])


def _difference(row: Mapping[str, Any]) -> str:
    delta, p, corrected = row["delta_vs_baseline"], row["p_value"], row["p_holm"]
    if delta is None:
        return UNDEFINED
    if p is None:
        return f"{delta:+.2f} (p undefined)"
    mark = "\\*\\*" if corrected < 0.01 else "\\*" if corrected < 0.05 else ""
    size = "" if row["effect_size"] is None else f", {row['effect_size']:.2f}"
    return f"{delta:+.2f} ({p:.2g}, {corrected:.2g}{size}){mark}"


def figure(context: Context) -> tuple[Figure, str]:
    """Learning curves; of a sweep over one or two values the test accuracy against them."""
    import pandas as pd

    sweep = context.definition.sweep
    if sweep is None or len(sweep.over) > 2:
        from transfer.tables.overview import read_history

        histories = [
            read_history(context.layout, context.dataset, recipe, seed).assign(recipe=recipe, seed=seed)
            for recipe, seed, _ in context.each_run()
        ]
        caption = (
            f"Training loss and validation accuracy by epoch ({context.of}): mean over seeds, and a band from the "
            "lowest to the highest."
        )
        return curves_figure(pd.concat(histories), context.about), caption
    values, names = sweep.recipes(), [key.rpartition(".")[2] for key in sweep.over]
    rows = [
        (*values[recipe].values(), seed, run.results[context.protocol].metrics["accuracy"])
        for recipe, seed, run in context.each_run()
    ]
    frame = pd.DataFrame(rows, columns=[*["first", "second"][: len(names)], "seed", "accuracy"])
    draw = sweep_figure if len(names) == 1 else grid_figure
    caption = f"Test accuracy against {' and '.join(names)} ({context.of}), with Student's t 95 % interval."
    return draw(frame, names, context.about), caption


_CURVES = {"train_loss": "training loss", "val_accuracy": "validation accuracy (%)"}


@styled
def curves_figure(history: pd.DataFrame, about: About) -> Figure:
    """Draw a column per recipe: its mean over seeds, a band from lowest to highest seed, and the other recipes' means.

    ``history``: recipe, seed, epoch, train_loss, val_accuracy in percent, of one dataset; recipes in order of first
    appearance.
    """
    from matplotlib.figure import Figure

    means = history.groupby(["recipe", "epoch"])[list(_CURVES)].mean()
    recipes = list(history["recipe"].unique())
    figure = Figure(figsize=(max(1.7 * len(recipes), 3.4) + 0.6, 4), layout="constrained")
    panels = figure.subplots(len(_CURVES), len(recipes), sharex=True, sharey="row", squeeze=False)
    for row, (column, label) in zip(panels, _CURVES.items(), strict=True):
        row[0].set_ylabel(label)
        for axes, recipe in zip(row, recipes, strict=True):
            for other in recipes:
                if other != recipe:
                    axes.plot(means.loc[other, column], color="0.6", linewidth=0.6)
            seeds = history[history["recipe"] == recipe].groupby("epoch")[column]
            axes.fill_between(seeds.min().index, seeds.min(), seeds.max(), color="0.85", linewidth=0, zorder=0)
            axes.plot(means.loc[recipe, column], color="black")
    for top, bottom, recipe in zip(panels[0], panels[-1], recipes, strict=True):
        top.set_title(recipe_name(recipe))
        bottom.set_xlabel("epoch")
        bottom.xaxis.get_major_locator().set_params(integer=True)
    seeds = history["seed"].nunique()
    explained = ["mean, band from lowest to highest seed"] if seeds > 1 else []
    explained += ["thin lines are the other recipes"] if len(recipes) > 1 else []
    about.without_protocol().put_on(figure, ": ".join(filter(None, ["Learning curves", "; ".join(explained)])), seeds)
    return figure


@styled
def sweep_figure(frame: pd.DataFrame, names: Sequence[str], about: About) -> Figure:
    """Draw accuracy against the one of ``names``: a point per seed, a line through the means, their 95 % interval.

    ``frame``: first (the value), seed, accuracy in [0, 1]. The interval is Student's, for two seeds or more.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(frame["first"], 100 * frame["accuracy"], "o", color="0.45", markerfacecolor="none", label="one seed")
    _means(axes, frame, {"color": "black"}, "mean, 95 % interval")
    axes.set(xlabel=names[0], ylabel="accuracy (%)")
    seeds = frame["seed"].nunique()
    if seeds > 1:
        axes.legend()
    about.put_on(figure, f"Accuracy by {names[0]}", seeds)
    return figure


@styled
def grid_figure(frame: pd.DataFrame, names: Sequence[str], about: About) -> Figure:
    """Draw accuracy against the two ``names``: a heat map of the means, and a line per value of the second.

    ``frame``: first, second (the values), seed, accuracy in [0, 1]. A pair without runs stays empty.
    """
    import numpy as np
    from matplotlib.figure import Figure

    cells = 100 * frame.groupby(["second", "first"])["accuracy"].agg(["mean", "std"])
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    heat, lines = figure.subplots(1, 2)
    _heat_map(heat, cells["mean"].unstack(), cells["std"].unstack())
    values = sorted(frame["second"].unique())
    seeds = frame["seed"].nunique()
    # shifted slightly, so that the intervals can be told apart
    step = 0.015 * float(np.ptp(frame["first"])) if seeds > 1 else 0.0
    for i, (value, style) in enumerate(line_styles(values).items()):
        _means(lines, frame[frame["second"] == value], style, f"{value:g}", shift=step * (i - (len(values) - 1) / 2))
    heat.set(xlabel=names[0], ylabel=names[1])
    heat.set_title("mean ± standard deviation (%)" if seeds > 1 else "accuracy (%)")
    lines.set(xlabel=names[0], ylabel="accuracy (%)")
    lines.set_title("mean, 95 % interval" if seeds > 1 else "one run each")
    lines.legend(title=names[1], loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3.5)
    about.put_on(figure, f"Accuracy by {names[0]} and {names[1]}", seeds)
    return figure


def _heat_map(axes: Axes, means: pd.DataFrame, deviations: pd.DataFrame) -> None:
    import numpy as np

    low, high = np.nanmin(means), np.nanmax(means)
    # neither white nor darker than black letters can be read on
    axes.imshow(means, cmap="Greys", origin="lower", aspect="auto", vmin=1.1 * low - 0.1 * high, vmax=2 * high - low)
    for row, column in np.ndindex(means.shape):
        mean, deviation = means.iloc[row, column], deviations.iloc[row, column]
        spread = "" if np.isnan(deviation) else f"\n± {deviation:.2f}"
        text = UNDEFINED if np.isnan(mean) else f"{mean:.2f}{spread}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7)
    axes.set_xticks(range(means.shape[1]), [f"{value:g}" for value in means.columns])
    axes.set_yticks(range(means.shape[0]), [f"{value:g}" for value in means.index])
    axes.grid(False)


def _means(axes: Axes, frame: pd.DataFrame, style: Mapping[str, Any], label: str, shift: float = 0.0) -> None:
    """Draw a line through the means, with their intervals where there are any, and a tick at each of few values."""
    from transfer.evaluation.statistics import summary

    values = {value: summary(list(part)) for value, part in frame.groupby("first")["accuracy"]}
    axes.plot([x + shift for x in values], [100 * value.mean for value in values.values()], label=label, **style)
    for x, value in values.items():
        if value.ci95_low is not None:
            bar = [[100 * (value.mean - value.ci95_low)], [100 * (value.ci95_high - value.mean)]]
            line = {"fmt": "none", "ecolor": style["color"], "capsize": 2, "elinewidth": 0.8}
            axes.errorbar([x + shift], [100 * value.mean], bar, **line)
    if len(values) <= 10:
        axes.set_xticks(list(values), [f"{value:g}" for value in values])


KIND = Kind(table, figure, inputs=(REPORTED.as_posix(),))
