"""Tables of recipes (Table 1 to 4): datasets x recipes x protocols, as the mean over seeds (never their maximum)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from transfer.evaluation.statistics import holm, paired_difference
from transfer.runs.read import Result, Runs
from transfer.tables.cells import accuracy_cells, percent
from transfer.tables.context import Context
from transfer.tables.reported import REPORTED, Reported, load_reported
from transfer.tables.text import (
    UNDEFINED,
    Format,
    Section,
    Table,
    code,
    grid,
    interval,
    mean,
    plain,
    protocols_paragraph,
    rounded,
    statistics_paragraph,
)

FORMATS: dict[str, Format] = {
    "experiment": "text",
    "dataset": "text",
    "recipe": "text",
    "local_cnns": "count",
    "mad": "text",
    "msad": "text",
    "protocol": "text",
    "n_seeds": "count",
    "accuracy": "percent",
    "accuracy_std": "percent",
    "ci95_low": "percent",
    "ci95_high": "percent",
    "mean_class_accuracy": "percent",
    "delta_vs_baseline": "percent",
    "p_value": "p",
    "reported_accuracy": "percent",
    "reported_source": "text",
    "n_faces": "count",
    "delta_ci95_low": "percent",
    "delta_ci95_high": "percent",
    "p_holm": "p",
    "effect_size": "number",
    "effect": "text",
}
COLUMNS = list(FORMATS)[:17]
"""Those that every reader of Table 1 may count on; further ones stand behind them."""


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
    """The table with the columns of ``FORMATS``; accuracies and differences in percent, NaN where undefined.

    ``parts`` maps (dataset, recipe) to num_lanets, mad and msad there, and to further values that become columns;
    ``families`` maps each dataset to the leaderboard its published numbers belong to (rafdb, ferplus, affectnet7,
    affectnet8), None for one that has no published counterpart. Holm's correction is over all comparisons of the table
    under one protocol. Rows follow the order of the runs and protocols.
    """
    rows = []
    for (dataset, recipe), seeds in runs.items():
        own = parts[dataset, recipe]
        names = {"num_lanets": "local_cnns"}
        for protocol in protocols:
            ours = {seed: run.results[protocol] for seed, run in seeds.items()}
            row = {
                "experiment": experiment,
                "dataset": dataset,
                "recipe": recipe,
                **{names.get(key, key): value for key, value in own.items()},
                "protocol": protocol,
                **accuracy_cells(ours),
            }
            theirs = {seed: run.results[protocol] for seed, run in runs.get((dataset, baseline), {}).items()}
            if recipe != baseline and (both := sorted(ours.keys() & theirs.keys())):
                row |= comparison_cells({seed: ours[seed] for seed in both}, {seed: theirs[seed] for seed in both})
            if protocol == "test_selected":
                row |= published(reported, families[dataset], recipe)
            rows.append(row)
    frame = pd.DataFrame(rows).reindex(columns=[*FORMATS, *(key for key in rows[0] if key not in FORMATS)])
    for _, family in frame.groupby("protocol"):
        frame.loc[family.index, "p_holm"] = np.array(holm(family["p_value"].astype(float)), dtype=float)
    return rounded(frame, formats(frame))


def formats(frame: pd.DataFrame) -> dict[str, Format]:
    """``FORMATS``, and as text the values of a sweep."""
    return FORMATS | {column: "text" for column in frame if column not in FORMATS}


def comparison_cells(ours: Mapping[int, Result], theirs: Mapping[int, Result]) -> dict[str, Any]:
    """Difference of two recipes with the same seeds in points, its interval and test, and the size of the effect."""
    paired = paired_difference(
        {seed: result.correct for seed, result in ours.items()},
        {seed: result.correct for seed, result in theirs.items()},
    )
    return {
        "delta_vs_baseline": 100 * paired.difference,
        "delta_ci95_low": percent(paired.ci95_low),
        "delta_ci95_high": percent(paired.ci95_high),
        "p_value": paired.p_value,
        "effect_size": paired.effect_size,
        "effect": paired.effect_name,
    }


def published(reported: Sequence[Reported], family: str | None, recipe: str) -> dict[str, float | str | None]:
    """The cells of a row for the published number of a recipe; none where there is no such number."""
    if family is None:
        return {}
    for entry in reported:
        if (entry.dataset, entry.recipe, entry.protocol) == (family, recipe, "test_selected"):
            remark = f" ({entry.remark})" if entry.remark else ""
            return {"reported_accuracy": entry.accuracy, "reported_source": f"{entry.status}: {entry.source}{remark}"}
    return {}


def table(context: Context) -> Table:
    """The accuracies of the table's recipes on its datasets, against its baseline."""
    params = context.params
    sweep = context.definition.sweep
    values = sweep.recipes() if sweep else {}
    parts = {
        (dataset, recipe): params.run(dataset, recipe).model.model_dump(include={"num_lanets", "mad", "msad"})
        | {key.rpartition(".")[2]: value for key, value in values.get(recipe, {}).items()}
        for dataset, recipe in context.runs
    }
    frame = recipes_frame(
        context.runs,
        parts,
        {dataset: params.dataset_definitions[dataset].reported_as for dataset, _ in context.runs},
        context.protocols,
        load_reported(REPORTED),
        experiment=params.experiment,
        baseline=context.baseline,
    )
    return recipes_page(frame, context.title, context.baseline)


def recipes_page(frame: pd.DataFrame, title: str, baseline: str) -> Table:
    """``frame`` for readers: per dataset a line per recipe."""
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
    cells = {"accuracy": mean("accuracy"), "95 %": interval("ci95_low", "ci95_high"), "Δ (p, p(Holm), d)": _difference}
    with_published = rows[rows["reported_accuracy"].notna()]
    head, lines = grid(rows, keys, cells, across="protocol")
    notes = []
    if len(with_published):
        sources = list(with_published["reported_source"].unique())
        numbers = with_published.groupby("recipe", sort=False).first()
        head.append("published (`test_selected`)")
        for line, recipe in zip(lines, dict.fromkeys(rows["recipe"]), strict=True):
            if recipe in numbers.index:
                number = numbers.loc[recipe]
                mark = sources.index(number["reported_source"]) + 1
                line.append(f"{number['reported_accuracy']:.2f} [{mark}]")
            else:
                line.append(UNDEFINED)
        notes = [f"[{i}] {source}" for i, source in enumerate(sources, 1)]
    return Section(name, "", head, lines, notes)


def _difference(row: pd.Series) -> str:
    if pd.isna(row["delta_vs_baseline"]):
        return UNDEFINED
    if pd.isna(row["p_value"]):
        return f"{row['delta_vs_baseline']:+.2f} (p undefined)"
    corrected = row["p_holm"]
    mark = "\\*\\*" if corrected < 0.01 else "\\*" if corrected < 0.05 else ""
    size = "" if pd.isna(row["effect_size"]) else f", {row['effect_size']:.2f}"
    return f"{row['delta_vs_baseline']:+.2f} ({row['p_value']:.2g}, {corrected:.2g}{size}){mark}"
