"""How accuracy falls with corruptions of the test faces, and on the challenge subsets."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from transfer.runs.evaluations import CLEAN, accuracies, read_evaluation
from transfer.runs.read import Run
from transfer.tables.cells import ACCURACY, mean_cells
from transfer.tables.context import Context
from transfer.tables.text import (
    UNDEFINED,
    Format,
    Section,
    Table,
    code,
    count,
    grid,
    interval,
    mean,
    plain,
    protocols_paragraph,
    rounded,
)

FORMATS: dict[str, Format] = {
    "experiment": "text",
    "dataset": "text",
    "recipe": "text",
    "protocol": "text",
    "corruption": "text",
    "severity": "text",
    **ACCURACY,
    "mean_class_accuracy": "percent",
    "clean_accuracy": "percent",
    "drop": "percent",
}
SUBSET = "subset "
"""Before the name of a challenge subset, in the column of the corruptions."""


def table(context: Context) -> Table:
    """Accuracy under each corruption and severity, and on each subset of hard faces, as means over seeds."""
    (protocol,) = context.protocols
    rows = []
    for (dataset, recipe), seeds in context.runs.items():
        names = {"experiment": context.params.experiment, "dataset": dataset, "recipe": recipe, "protocol": protocol}
        frames = []
        for seed, run in seeds.items():
            path = context.layout.evaluation("robustness", dataset, recipe, seed) / "robustness.parquet"
            found = accuracies(read_evaluation(path, run.directory))
            frames.append(pd.concat([found, *_subsets(run, protocol)], ignore_index=True))
        for (corruption, severity), part in pd.concat(frames).groupby(
            ["corruption", "severity"], sort=False, dropna=False
        ):
            rows.append(names | {"corruption": corruption, "severity": severity} | _cells(part))
    frame = rounded(pd.DataFrame(rows), FORMATS)
    header = [
        "Accuracy on corrupted test faces and on subsets of hard ones, in percent, as mean ± standard deviation over "
        "seeds. `drop` is what the same faces lose against themselves clean, in points; a subset's is against the "
        "whole test part. The interval is Student's t 95 % over seeds, or Wilson's over the faces where there is one "
        "seed. The same face has the same corruption for all recipes and seeds; what each does, and its severities, "
        "stands in docs/robustness.md. The weights are those that a training keeps.",
        protocols_paragraph(context.protocols),
    ]
    sections = [_section(str(dataset), part) for dataset, part in frame.groupby("dataset", sort=False)]
    return Table(context.title, frame, FORMATS, header, sections)


def _subsets(run: Run, protocol: str) -> Iterator[pd.DataFrame]:
    result = run.results[protocol]
    for name, found in result.subsets.items():
        values = {key: found[key] for key in ("n", "accuracy", "mean_class_accuracy")}
        clean = {"clean_accuracy": result.metrics["accuracy"]}
        yield pd.DataFrame([{"corruption": f"{SUBSET}{name}", "severity": np.nan} | values | clean])


def _cells(part: pd.DataFrame) -> Mapping[str, Any]:
    """The numbers of one condition: a row per seed."""
    return {
        **mean_cells(list(part["accuracy"]), int(part["n"].iloc[0])),
        "mean_class_accuracy": 100 * float(part["mean_class_accuracy"].mean()),
        "clean_accuracy": 100 * float(part["clean_accuracy"].mean()),
        "drop": 100 * float((part["clean_accuracy"] - part["accuracy"]).mean()),
    }


def _section(name: str, rows: pd.DataFrame) -> Section:
    def drop(row: pd.Series) -> str:
        return UNDEFINED if row["corruption"] == CLEAN else f"{row['drop']:.2f}"

    keys = {"condition": code("corruption"), "severity": plain("severity", "{:g}"), "faces": count("n_faces")}
    cells = {"accuracy": mean("accuracy"), "95 %": interval("ci95_low", "ci95_high"), "drop": drop}
    head, lines = grid(rows, keys, cells, across="recipe", by=("corruption", "severity"))
    return Section(name, "", head, lines)
