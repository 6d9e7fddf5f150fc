"""Accuracy by the annotated gender, race and age of the faces, and the largest gap between groups."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from transfer.datasets.rafdb import ATTRIBUTES
from transfer.evaluation.subgroups import LEAST, largest_gaps, subgroups
from transfer.tables.cells import ACCURACY, mean_cells
from transfer.tables.context import Context
from transfer.tables.text import Format, Section, Table, code, count, grid, interval, mean, protocols_paragraph, rounded

FORMATS: dict[str, Format] = {
    "experiment": "text",
    "dataset": "text",
    "recipe": "text",
    "protocol": "text",
    "attribute": "text",
    "group": "text",
    **ACCURACY,
    "mean_class_accuracy": "percent",
}
GAP = "largest gap"


def table(context: Context) -> Table:
    """Accuracy of each group on the datasets that annotate it, as means over seeds."""
    rows, without = [], []
    for dataset in dict.fromkeys(dataset for dataset, _ in context.runs):
        index = pd.read_parquet(context.layout.data(dataset) / "index.parquet")
        if not set(ATTRIBUTES) <= set(index.columns):
            without.append(dataset)
            continue
        for recipe, seeds in ((recipe, seeds) for (name, recipe), seeds in context.runs.items() if name == dataset):
            for protocol in context.protocols:
                found = [subgroups(run.results[protocol].test, index, protocol) for run in seeds.values()]
                names = {"experiment": context.params.experiment, "dataset": dataset, "recipe": recipe}
                rows += [names | {"protocol": protocol} | cells for cells in _groups(found)]
                rows += [names | {"protocol": protocol} | cells for cells in _gaps(found)]
    frame = rounded(pd.DataFrame(rows, columns=list(FORMATS)), FORMATS)
    header = [
        "Accuracy by annotated group, in percent, as mean ± standard deviation over seeds. The interval is Student's t "
        "95 % over seeds, or Wilson's over the group's faces where there is one seed: small groups have wide ones. "
        f"`{GAP}`: the difference between the best and the worst group of at least {LEAST} faces, each seed for "
        "itself; it is never negative, and so not 0 on average where all groups are equal (docs/robustness.md).",
        protocols_paragraph(context.protocols),
    ]
    if without:
        header.append(f"Without annotations of groups: {', '.join(without)}.")
    sections = [_section(str(dataset), part) for dataset, part in frame.groupby("dataset", sort=False)]
    return Table(context.title, frame, FORMATS, header, sections)


def _groups(found: list[pd.DataFrame]) -> list[Mapping[str, Any]]:
    cells = []
    for (attribute, group), part in pd.concat(found).groupby(["attribute", "group"], sort=False):
        cells.append(
            {
                "attribute": attribute.removeprefix("attribute_"),
                "group": group,
                **mean_cells(list(part["accuracy"]), int(part["n"].iloc[0])),
                "mean_class_accuracy": 100 * float(part["mean_class_accuracy"].mean()),
            }
        )
    return cells


def _gaps(found: list[pd.DataFrame]) -> list[Mapping[str, Any]]:
    """The largest gap of each attribute, as mean over seeds; no interval, since the groups change."""
    cells = []
    for attribute, part in pd.concat([largest_gaps(groups) for groups in found]).groupby("attribute", sort=False):
        gaps = 100 * part["gap"]
        cells.append(
            {
                "attribute": attribute.removeprefix("attribute_"),
                "group": GAP,
                "n_seeds": len(gaps),
                "n_faces": int(found[0].loc[found[0]["attribute"] == attribute, "n"].sum()),
                "accuracy": float(gaps.mean()),
                "accuracy_std": float(np.std(gaps, ddof=1)) if len(gaps) > 1 else None,
            }
        )
    return cells


def _section(name: str, rows: pd.DataFrame) -> Section:
    keys = {"recipe": code("recipe"), "attribute": code("attribute"), "group": code("group"), "faces": count("n_faces")}
    cells = {"accuracy": mean("accuracy"), "95 %": interval("ci95_low", "ci95_high")}
    head, lines = grid(rows, keys, cells, across="protocol", by=("recipe", "attribute", "group"))
    return Section(name, "", head, lines)
