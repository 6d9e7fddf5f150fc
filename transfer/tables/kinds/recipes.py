"""Recipes against a baseline (Tables 1 to 4); learning curves, or accuracy against what was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transfer.tables.kinds import INTERVAL, Cells, Context, Formats, Kind, accuracy_cells, percent
from transfer.tables.kinds.reported import REPORTED, Reported, load_reported
from transfer.tables.text import ACCURACY_CELLS, UNDEFINED, Cell, Section, code, grid, plain, spread
from transfer.utils.plots import recipe_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FORMATS: Formats = {
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
    "model": "text",
    "loss": "text",
    "backbone": "text",
    **dict.fromkeys(["parameters", "macs"], "count"),
    "pretrained": "text",
}
COLUMNS = list(FORMATS)[:17]
"""The columns that every reader of Table 1 may count on; further ones follow them."""


def rows(context: Context) -> list[Cells]:
    """The recipes against their dataset's baseline; Holm's correction is over all comparisons under one protocol."""
    from transfer.evaluation.statistics import holm, paired_difference

    params, sweep, reported = context.params, context.params.table_definitions[context.name].sweep, load_reported()
    values, baseline = sweep.recipes() if sweep else {}, params.table_baseline(context.name)
    results = list(context.results())
    baselines = {(names["dataset"], names["protocol"]): ours for names, ours in results if names["recipe"] == baseline}
    found: list[Cells] = []
    families: dict[str, list[Cells]] = {}
    for names, ours in results:
        dataset, recipe, protocol = names["dataset"], names["recipe"], names["protocol"]
        row = names | context.model_cells(dataset, recipe) | accuracy_cells(ours)
        row |= context.size_cells(dataset, recipe)
        row |= {key.rpartition(".")[2]: value for key, value in values.get(recipe, {}).items()}
        theirs = baselines.get((dataset, protocol), {})
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
            row |= published(reported, params.dataset_definitions[dataset].reported_as, recipe)
        found.append(row)
        families.setdefault(protocol, []).append(row)
    for family in families.values():
        for row, p in zip(family, holm([row.get("p_value") for row in family]), strict=True):
            row["p_holm"] = p
    return found


def published(reported: Sequence[Reported], family: str | None, recipe: str) -> Cells:
    """Return the cells of a recipe's published number, if there is one."""
    for entry in reported:
        if (entry.dataset, entry.recipe, entry.protocol) == (family, recipe, "test_selected"):
            return {"reported_accuracy": entry.accuracy, "reported_source": f"{entry.said}; {entry.paper}"}
    return {}


def _section(name: str, rows: pd.DataFrame) -> Section:
    """A line per recipe, with the published numbers."""
    keys: dict[str, Cell] = {"recipe": code("recipe")}
    if rows["model"].nunique() > 1 or rows["mad"].isna().all():
        keys |= {"model": code("model"), "loss": plain("loss", "{}"), "backbone": plain("backbone", "{}")}
        keys |= {"M parameters": lambda row: f"{row['parameters'] / 1e6:.2f}"}
        keys |= {"M MACs": lambda row: f"{row['macs'] / 1e6:.2f}"}
        keys |= {"pretrained": plain("pretrained", "{}")}
    if not rows["mad"].isna().all():
        keys |= {"LANets": plain("local_cnns", "{}"), "p1 (MAD)": plain("mad", "{:g}")}
        keys |= {"p2 (MSAD)": plain("msad", "{:g}")}
    keys |= {column: plain(column, "{}") for column in map(str, rows) if column not in FORMATS}
    head, lines = grid(rows, keys, ACCURACY_CELLS | {"Δ (p, p(Holm), d)": _difference}, across="protocol")
    numbers = rows.dropna(subset="reported_accuracy").set_index("recipe")
    sources = list(numbers["reported_source"].unique())
    if sources:
        head.append("published (`test_selected`)")
        cells = {
            recipe: f"{row['reported_accuracy']:.2f} [{sources.index(row['reported_source']) + 1}]"
            for recipe, row in numbers.iterrows()
        }
        for line, recipe in zip(lines, dict.fromkeys(rows["recipe"]), strict=True):
            line.append(cells.get(recipe, UNDEFINED))
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

    sweep = context.params.table_definitions[context.name].sweep
    if sweep is None or len(sweep.over) > 2:
        from transfer.tables.publish import read_history

        histories = [
            read_history(context.layout, context.dataset, recipe, seed).assign(recipe=recipe, seed=seed)
            for recipe, seed, _ in context.each_run()
        ]
        what = "Learning curves: mean over seeds, band from lowest to highest; thin lines are the other recipes"
        return curves_figure(pd.concat(histories)), what
    values, names = sweep.recipes(), [key.rpartition(".")[2] for key in sweep.over]
    rows = [
        (*values[recipe].values(), seed, run.results[context.protocol].metrics["accuracy"])
        for recipe, seed, run in context.each_run()
    ]
    frame = pd.DataFrame(rows, columns=[*["first", "second"][: len(names)], "seed", "accuracy"])
    if len(names) == 1:
        what = f"Accuracy by {names[0]}: mean over seeds, with Student's t 95 % interval"
        return sweep_figure(frame, names[0]), what
    what = f"Accuracy (%) by {names[0]} and {names[1]}: mean ± standard deviation over seeds"
    return grid_figure(frame, names), what


_CURVES = {"train_loss": "training loss", "val_accuracy": "validation accuracy (%)"}


def curves_figure(history: pd.DataFrame) -> Figure:
    """Draw a column per recipe of ``history``: mean over seeds, band from lowest to highest, the others' means."""
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
    return figure


def sweep_figure(frame: pd.DataFrame, name: str) -> Figure:
    """Draw accuracy (a fraction) against ``first``: a point per seed, a line through the means, their 95 % interval."""
    import pandas as pd
    from matplotlib.figure import Figure

    from transfer.evaluation.statistics import Summary, summary

    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(frame["first"], 100 * frame["accuracy"], "o", color="0.45", markerfacecolor="none", label="one seed")
    found: dict[Any, Summary] = {value: summary(list(part)) for value, part in frame.groupby("first")["accuracy"]}
    table = pd.DataFrame(map(vars, found.values()), dtype=float) * 100
    axes.plot(list(found), table["mean"], color="black", label="mean, 95 % interval")
    if frame["seed"].nunique() > 1:
        bars = [table["mean"] - table["ci95_low"], table["ci95_high"] - table["mean"]]
        axes.errorbar(list(found), table["mean"], bars, fmt="none", ecolor="black", capsize=2, elinewidth=0.8)
        axes.legend()
    axes.set(xlabel=name, ylabel="accuracy (%)")
    axes.set_xticks(list(found), list(map(_tick, found)))
    return figure


def grid_figure(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Draw accuracy (a fraction) by ``first`` and ``second`` as a heat map of mean ± standard deviation over seeds."""
    import numpy as np
    from matplotlib.figure import Figure

    cells = 100 * frame.groupby(["second", "first"])["accuracy"].agg(["mean", "std"]).unstack()
    means, deviations = cells["mean"], cells["std"]
    figure = Figure(figsize=(4.2, 3.4), layout="constrained")
    axes = figure.subplots()
    low, high = np.nanmin(means), np.nanmax(means)
    # neither white nor darker than black letters can be read on
    axes.imshow(means, cmap="Greys", origin="lower", aspect="auto", vmin=1.1 * low - 0.1 * high, vmax=2 * high - low)
    for row, column in np.ndindex(means.shape):
        mean, deviation = (float(of.to_numpy()[row, column]) for of in (means, deviations))
        text = UNDEFINED if np.isnan(mean) else spread(mean, deviation).replace(" ", "\n", 1)
        axes.text(column, row, text, ha="center", va="center", fontsize=7)
    axes.set_xticks(range(means.shape[1]), list(map(_tick, means.columns)))
    axes.set_yticks(range(means.shape[0]), list(map(_tick, means.index)))
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.grid(False)
    return figure


def _tick(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


KIND = Kind(
    FORMATS,
    rows,
    "Accuracy on the test split, in percent. {statistics} Δ is the difference to the recipe `{baseline}` in points, d "
    "its effect size, p two-sided; p(Holm) is corrected for all comparisons of this table under one protocol "
    "(docs/statistics.md). Marks: \\* p(Holm) < 0.05, \\*\\* p(Holm) < 0.01. Mean-class accuracy and the intervals of "
    "the differences are in the csv.",
    lambda context, frame: [_section(str(name), rows) for name, rows in frame.groupby("dataset", sort=False)],
    figure,
    inputs=(REPORTED.as_posix(),),
)
