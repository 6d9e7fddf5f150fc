"""Trained on one dataset, tested on the others."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from transfer.runs.evaluations import cross_accuracy, read_evaluation
from transfer.tables.cells import ACCURACY, mean_cells
from transfer.tables.context import Context
from transfer.tables.text import Format, Section, Table, code, count, grid, interval, mean, protocols_paragraph, rounded
from transfer.utils.errors import UserError

FORMATS: dict[str, Format] = {
    "experiment": "text",
    "dataset": "text",
    "test_dataset": "text",
    "recipe": "text",
    "protocol": "text",
    **dict.fromkeys(["n_seeds", "n_faces", "common_classes"], "count"),
    **ACCURACY,
    "mean_class_accuracy": "percent",
    "all_classes_accuracy": "percent",
    "all_classes_mean_class_accuracy": "percent",
}


def table(context: Context) -> Table:
    """Accuracy of each training on its own test faces and on those of the table's other datasets."""
    (protocol,) = context.protocols
    datasets = list(dict.fromkeys(dataset for dataset, _ in context.runs))
    if len(datasets) < 2:
        raise UserError(f"table {context.name}: needs two datasets, has {datasets[0]} alone; name more in datasets")
    rows = []
    for (dataset, recipe), seeds in context.runs.items():
        for other in datasets:
            found = []
            for seed, run in seeds.items():
                if other == dataset:
                    own = {key: run.results[protocol].metrics[key] for key in ("n", "accuracy", "mean_class_accuracy")}
                    found.append(own | {"common_classes": len(run.classes)})
                else:
                    path = context.layout.evaluation("cross", dataset, recipe, seed) / f"{other}.parquet"
                    found.append(cross_accuracy(read_evaluation(path, run.directory)))
            names = {"experiment": context.params.experiment, "dataset": dataset, "test_dataset": other}
            rows.append(names | {"recipe": recipe, "protocol": protocol} | _cells(found))
    frame = rounded(pd.DataFrame(rows), FORMATS)
    header = [
        "Accuracy in percent of a training on the test faces of its own and of other datasets, as mean ± standard "
        "deviation over seeds. Expressions are matched by name; faces of an expression that the training does not know "
        "are left out, and the most probable of the common expressions counts (the csv has it for all expressions of "
        "the training too, where one that the other dataset does not have is an error). The interval is Student's t "
        "95 % over seeds, or Wilson's over the faces where there is one seed. Each dataset has its own alignment.",
        protocols_paragraph(context.protocols),
    ]
    sections = [_section(f"trained on {dataset}", part) for dataset, part in frame.groupby("dataset", sort=False)]
    return Table(context.title, frame, FORMATS, header, sections)


def _cells(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cells: dict[str, Any] = mean_cells([one["accuracy"] for one in found], int(found[0]["n"]))
    cells["common_classes"] = found[0]["common_classes"]
    for key in ("mean_class_accuracy", "all_classes_accuracy", "all_classes_mean_class_accuracy"):
        if key in found[0]:
            cells[key] = 100 * sum(one[key] for one in found) / len(found)
    return cells


def _section(name: str, rows: pd.DataFrame) -> Section:
    keys = {"tested on": code("test_dataset"), "faces": count("n_faces"), "common classes": count("common_classes")}
    cells = {"accuracy": mean("accuracy"), "95 %": interval("ci95_low", "ci95_high")}
    head, lines = grid(rows, keys, cells, across="recipe", by=("test_dataset",))
    return Section(name, "", head, lines)
