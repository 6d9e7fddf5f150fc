"""Accuracy per annotated gender, race and age group (RAF-DB), and the largest gap; see docs/robustness.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from transfer.tables.kinds import ACCURACY, ROW, Cells, Context, Formats, Kind, grouped_cells, percent
from transfer.tables.text import ACCURACY_CELLS, by_dataset, code, count

if TYPE_CHECKING:
    import pandas as pd

FORMATS: Formats = {
    **ROW,
    **dict.fromkeys(["attribute", "group"], "text"),
    **ACCURACY,
    "mean_class_accuracy": "percent",
}
LEAST = 30
"""Faces that a group needs to count in the largest gap: in a smaller one a single face is more than three points."""
UNSURE = "unsure"
"""RAF-DB's code for a gender that the annotators could not tell; it does not count in the largest gap."""
GAP = "largest gap"


def rows(context: Context) -> Iterator[Cells]:
    """Accuracy of each group on the datasets that annotate it, as means over seeds."""
    import pandas as pd

    from transfer.datasets.rafdb import ATTRIBUTES

    datasets = {dataset for dataset, _ in context.runs}
    indexes = {name: pd.read_parquet(context.layout.data(name) / "index.parquet") for name in datasets}
    for names, seeds in context.results():
        index = indexes[names["dataset"]]
        if set(ATTRIBUTES) <= set(index.columns):
            found = [subgroups(result.test, index) for result in seeds.values()]
            groups = grouped_cells(pd.concat(found), ["attribute", "group"])
            yield from (names | cells for cells in (*groups, *_gaps(found)))


def _gaps(found: Sequence[pd.DataFrame]) -> Iterator[Cells]:
    from transfer.evaluation.statistics import summary

    gaps = [largest_gaps(groups) for groups in found]
    for attribute in gaps[0]:
        over = summary([each[attribute] for each in gaps])  # no interval, since the groups change
        faces = int(found[0].loc[found[0]["attribute"] == attribute, "n"].sum())
        cells = {"attribute": attribute, "group": GAP, "n_seeds": over.n, "n_faces": faces}
        yield cells | {"accuracy": 100 * over.mean, "accuracy_std": percent(over.std)}


def subgroups(test: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Return attribute, group, n, accuracy and mean_class_accuracy (fractions) of one run on each group of test faces.

    ``test`` are rows of predictions.parquet, ``index`` is the dataset's. The order is that of `rafdb.ATTRIBUTES`,
    without empty groups; faces without annotation are in no group.
    """
    import pandas as pd

    from transfer.datasets.rafdb import ATTRIBUTES
    from transfer.runs.metrics import frame_metrics

    annotated, rows = index.set_index("sample").loc[test["sample"]], []
    for attribute, meanings in ATTRIBUTES.items():
        for number, group in enumerate(meanings):
            part = test[(annotated[attribute] == number).fillna(False).to_numpy(bool)]
            if len(part):
                found = frame_metrics(part)
                rows.append((attribute, group, found["n"], found["accuracy"], found["mean_class_accuracy"]))
    return pd.DataFrame(rows, columns=["attribute", "group", "n", "accuracy", "mean_class_accuracy"])


def largest_gaps(groups: pd.DataFrame) -> dict[str, float]:
    """Return the largest gap in accuracy (a fraction) between two counted groups, by attribute with two or more."""
    counted = groups[(groups["n"] >= LEAST) & (groups["group"] != UNSURE)]
    parts = counted.groupby("attribute", sort=False)["accuracy"]
    return {str(attribute): float(part.max() - part.min()) for attribute, part in parts if len(part) > 1}


KIND = Kind(
    FORMATS,
    rows,
    "Accuracy by annotated group, in percent, as mean ± standard deviation over seeds. The interval is Student's t "
    "95 % over seeds, or Wilson's over the group's faces for a single seed: wide for small groups. "
    f"`{GAP}`: difference between the best and the worst group of at least {LEAST} faces, per seed; it is "
    "never negative, and therefore positive on average even if all groups are equal (docs/robustness.md). Datasets "
    "without annotated groups are left out.",
    by_dataset(
        {"recipe": code("recipe"), "attribute": code("attribute"), "group": code("group"), "faces": count("n_faces")},
        ACCURACY_CELLS,
        across="protocol",
        by=("recipe", "attribute", "group"),
    ),
    dataset_inputs=("index.parquet",),
)
