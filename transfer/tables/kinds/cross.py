"""Cross-dataset accuracy: trained on one dataset, tested on the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.layout import Layout
from transfer.tables.kinds import ACCURACY, COUNTS, ROW, Cells, Context, Formats, Kind, grouped_cells
from transfer.tables.text import ACCURACY_CELLS, by_dataset, code, count
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    from transfer.runs.read import Result

BY = ("test_dataset", "common_classes")
MEANS = ("mean_class_accuracy", "all_classes_accuracy", "all_classes_mean_class_accuracy")
FORMATS: Formats = {
    **dict.fromkeys(["experiment", "dataset", "test_dataset"], "text"),
    **ROW,
    **COUNTS,
    "common_classes": "count",
    **ACCURACY,
    **dict.fromkeys(MEANS, "percent"),
}


def evaluation(layout: Layout, run: tuple[str, str, int], datasets: Sequence[str]) -> list[Path]:
    """The predictions of a run on the other datasets."""
    return [layout.evaluation("cross", *run) / f"{other}.parquet" for other in datasets if other != run[0]]


def rows(context: Context) -> Iterator[Cells]:
    """Accuracy of each run on its own test faces and on those of the table's other datasets."""
    import pandas as pd

    datasets = list(dict.fromkeys(dataset for dataset, _ in context.runs))
    if len(datasets) < 2:
        only = f"needs two datasets, found only {datasets[0]}"
        raise UserError(f"table {context.name}: {only}; add another to its datasets")
    for names, seeds in context.results():
        for other in datasets:
            found = [_numbers(context, names, seed, result, other) for seed, result in seeds.items()]
            means = [name for name in MEANS if name in found[0]]
            yield from (names | cells for cells in grouped_cells(pd.DataFrame(found), BY, means))


def _numbers(context: Context, names: Cells, seed: int, result: Result, other: str) -> Cells:
    from transfer.runs.evaluations import cross_accuracy, read_evaluation

    run = context.runs[names["dataset"], names["recipe"]][seed]
    if other == names["dataset"]:
        return result.metrics | {"test_dataset": other, "common_classes": len(run.classes)}
    (path,) = evaluation(context.layout, (names["dataset"], names["recipe"], seed), [other])
    return cross_accuracy(read_evaluation(path, run.directory)) | {"test_dataset": other}


KIND = Kind(
    FORMATS,
    rows,
    "Accuracy in percent of runs on the test faces of their own and of other datasets, as mean ± standard "
    "deviation over seeds. Expressions are matched by name; faces of an expression unknown to the training dataset "
    "are left out, and the most probable of the common expressions counts (the csv also has the accuracies over "
    "all expressions of the training dataset, where a prediction outside the test dataset's is an error). The "
    "interval is Student's t 95 % over seeds, or Wilson's over the faces for a single seed. Each dataset has its "
    "own alignment.",
    by_dataset(
        {"tested on": code("test_dataset"), "faces": count("n_faces"), "common classes": count("common_classes")},
        ACCURACY_CELLS,
        across="recipe",
        by=("test_dataset",),
        title="trained on {}",
    ),
    evaluation=evaluation,
)
