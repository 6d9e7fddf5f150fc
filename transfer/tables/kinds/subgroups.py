"""Accuracy per annotated gender, race and age group (RAF-DB), and the largest gap; see docs/robustness.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from transfer.tables.cells import ACCURACY, ROW, mean_cells
from transfer.tables.kinds import Context, Kind
from transfer.tables.text import ACCURACY_CELLS, Format, by_dataset, code, count

if TYPE_CHECKING:
    import pandas as pd

FORMATS: dict[str, Format] = {
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


def rows(context: Context) -> Iterator[dict[str, Any]]:
    """Accuracy of each group on the datasets that annotate it, as means over seeds."""
    import pandas as pd

    from transfer.datasets.rafdb import ATTRIBUTES

    datasets = {dataset for dataset, _ in context.runs}
    indexes = {name: pd.read_parquet(context.layout.data(name) / "index.parquet") for name in datasets}
    for names, seeds in context.results():
        index = indexes[names["dataset"]]
        if set(ATTRIBUTES) <= set(index.columns):
            found = [subgroups(result.test, index) for result in seeds.values()]
            yield from (names | cells for cells in [*_groups(found), *_gaps(found)])


def _groups(found: Sequence[pd.DataFrame]) -> Iterator[dict[str, Any]]:
    import pandas as pd

    for (attribute, group), part in pd.concat(found).groupby(["attribute", "group"], sort=False):
        cells = mean_cells(list(part["accuracy"]), int(part["n"].iloc[0]))
        by_class = 100 * float(part["mean_class_accuracy"].mean())
        yield {"attribute": attribute, "group": group, **cells, "mean_class_accuracy": by_class}


def _gaps(found: Sequence[pd.DataFrame]) -> Iterator[dict[str, Any]]:
    """Yield the largest gap of each attribute, as mean over seeds; no interval, since the groups change."""
    import numpy as np

    gaps = [largest_gaps(groups) for groups in found]
    for attribute in gaps[0]:
        values = [100 * each[attribute] for each in gaps]
        faces = int(found[0].loc[found[0]["attribute"] == attribute, "n"].sum())
        cells = {"attribute": attribute, "group": GAP, "n_seeds": len(values), "n_faces": faces}
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        yield cells | {"accuracy": float(np.mean(values)), "accuracy_std": spread}


def subgroups(test: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of one run on the test faces of each group; fractions in [0, 1].

    ``test`` are rows of predictions.parquet, ``index`` is the dataset's index. One row per attribute and group in the
    order of `rafdb.ATTRIBUTES`, without empty groups: attribute, group, n, accuracy, mean_class_accuracy (over the
    classes that occur in the group). Faces without annotation are in no group.
    """
    import pandas as pd

    from transfer.datasets.rafdb import ATTRIBUTES
    from transfer.runs.metrics import metrics
    from transfer.runs.predictions import class_names, probabilities_of

    annotated, classes, rows = index.set_index("sample").loc[test["sample"]], class_names(test), []
    for attribute, meanings in ATTRIBUTES.items():
        for number, group in enumerate(meanings):
            part = test[(annotated[attribute] == number).fillna(False).to_numpy(bool)]
            if len(part):
                found = metrics(probabilities_of(part), part["label"].to_numpy(), classes)
                rows.append((attribute, group, found["n"], found["accuracy"], found["mean_class_accuracy"]))
    return pd.DataFrame(rows, columns=["attribute", "group", "n", "accuracy", "mean_class_accuracy"])


def largest_gaps(groups: pd.DataFrame) -> dict[str, float]:
    """Return the largest gap in accuracy (a fraction) between two groups of each attribute of `subgroups`.

    Groups of fewer than `LEAST` faces and `UNSURE` do not count; an attribute with fewer than two others has none.
    """
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
