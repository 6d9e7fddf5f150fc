"""Cross-dataset accuracy: trained on one dataset, tested on the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transfer.layout import Layout
from transfer.tables.cells import ACCURACY, ROW, mean_cells
from transfer.tables.kinds import Context, Kind
from transfer.tables.text import ACCURACY_CELLS, Format, by_dataset, code, count
from transfer.utils.errors import UserError

MEANS = ("mean_class_accuracy", "all_classes_accuracy", "all_classes_mean_class_accuracy")
FORMATS: dict[str, Format] = {
    **dict.fromkeys(["experiment", "dataset", "test_dataset"], "text"),
    **ROW,
    **dict.fromkeys(["n_seeds", "n_faces", "common_classes"], "count"),
    **ACCURACY,
    **dict.fromkeys(MEANS, "percent"),
}


def evaluation(layout: Layout, run: tuple[str, str, int], datasets: Sequence[str]) -> list[Path]:
    """The predictions of a run on the other datasets."""
    return [layout.evaluation("cross", *run) / f"{other}.parquet" for other in datasets if other != run[0]]


def rows(context: Context) -> Iterator[dict[str, Any]]:
    """Accuracy of each run on its own test faces and on those of the table's other datasets."""
    datasets = list(dict.fromkeys(dataset for dataset, _ in context.runs))
    if len(datasets) < 2:
        only = f"needs two datasets, found only {datasets[0]}"
        raise UserError(f"table {context.name}: {only}; add another to its datasets")
    for names, seeds in context.results():
        for other in datasets:
            yield names | {"test_dataset": other} | _cells(context, names, seeds, other)


def _cells(context: Context, names: dict[str, Any], seeds: dict[int, Any], other: str) -> dict[str, Any]:
    from transfer.runs.evaluations import cross_accuracy, read_evaluation

    dataset, recipe, found = names["dataset"], names["recipe"], []
    for seed, result in seeds.items():
        run = context.runs[dataset, recipe][seed]
        if other == dataset:
            found.append(result.metrics | {"common_classes": len(run.classes)})
        else:
            (path,) = evaluation(context.layout, (dataset, recipe, seed), [other])
            found.append(cross_accuracy(read_evaluation(path, run.directory)))
    cells: dict[str, Any] = mean_cells([one["accuracy"] for one in found], int(found[0]["n"]))
    means = {key: 100 * sum(one[key] for one in found) / len(found) for key in MEANS if key in found[0]}
    return cells | means | {"common_classes": found[0]["common_classes"]}


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
