"""Recall and precision by expression."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from transfer.evaluation.statistics import summary
from transfer.runs.read import Result
from transfer.tables.cells import mean_cells, percent
from transfer.tables.context import Context
from transfer.tables.text import Format, Section, Table, code, count, grid, interval, mean, protocols_paragraph, rounded

FORMATS: dict[str, Format] = {
    "experiment": "text",
    "dataset": "text",
    "recipe": "text",
    "protocol": "text",
    "expression": "text",
    "n_seeds": "count",
    "n_faces": "count",
    "recall": "percent",
    "recall_std": "percent",
    "ci95_low": "percent",
    "ci95_high": "percent",
    "precision": "percent",
    "precision_std": "percent",
}


def table(context: Context) -> Table:
    """Recall (with its interval) and precision of each expression, as means over seeds."""
    rows = []
    for (dataset, recipe), seeds in context.runs.items():
        classes = next(iter(seeds.values())).classes
        for protocol in context.protocols:
            results = [run.results[protocol] for run in seeds.values()]
            names = {"experiment": context.params.experiment, "dataset": dataset, "recipe": recipe}
            for index, expression in enumerate(classes):
                cells = _cells(results, index)
                rows.append(names | {"protocol": protocol, "expression": expression} | cells)
    frame = rounded(pd.DataFrame(rows), FORMATS)
    header = [
        "Of the test faces of an expression, how many were called so (recall), and of the faces called so how many "
        "were of it (precision), in percent, as mean ± standard deviation over seeds. The interval is that of the "
        "recall: Student's t 95 % over seeds, or Wilson's over the faces where there is one seed. Rare "
        "expressions have few faces: `faces` says how many.",
        protocols_paragraph(context.protocols),
    ]
    sections = [_section(str(dataset), part) for dataset, part in frame.groupby("dataset", sort=False)]
    return Table(context.title, frame, FORMATS, header, sections)


def _cells(results: Sequence[Result], index: int) -> dict[str, float | int | None]:
    confusions = [np.array(result.metrics["confusion"]) for result in results]
    hits = [int(confusion[index, index]) for confusion in confusions]
    faces = int(confusions[0][index].sum())
    called = [int(confusion[:, index].sum()) for confusion in confusions]
    cells: dict[str, float | int | None] = {"n_seeds": len(results), "n_faces": faces}
    if faces:
        cells |= mean_cells([hit / faces for hit in hits], faces, "recall")
    if all(called):
        precision = summary([hit / total for hit, total in zip(hits, called, strict=True)])
        cells |= {"precision": 100 * precision.mean, "precision_std": percent(precision.std)}
    return cells


def _section(name: str, rows: pd.DataFrame) -> Section:
    keys = {"recipe": code("recipe"), "expression": code("expression"), "faces": count("n_faces")}
    cells = {"recall": mean("recall"), "95 %": interval("ci95_low", "ci95_high"), "precision": mean("precision")}
    head, lines = grid(rows, keys, cells, across="protocol", by=("recipe", "expression"))
    return Section(name, "", head, lines)
