"""Accuracy per annotated gender, race and age group (RAF-DB), and the largest gap; see docs/robustness.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from transfer.tables.cells import ACCURACY, ROW, mean_cells
from transfer.tables.kinds import Context, Kind
from transfer.tables.text import ACCURACY_CELLS, Format, Table, by_dataset, code, count
from transfer.utils.errors import UserError

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


def table(context: Context) -> Table:
    """Accuracy of each group on the datasets that annotate it, as means over seeds."""
    import pandas as pd

    from transfer.datasets.rafdb import ATTRIBUTES

    datasets = dict.fromkeys(dataset for dataset, _ in context.runs)
    indexes = {name: pd.read_parquet(context.layout.data(name) / "index.parquet") for name in datasets}
    annotated = {name: index for name, index in indexes.items() if set(ATTRIBUTES) <= set(index.columns)}
    rows = []
    for names, seeds in context.rows():
        if names["dataset"] in annotated:
            index = annotated[names["dataset"]]
            found = [subgroups(result.test, index, names["protocol"]) for result in seeds.values()]
            rows += [names | cells for cells in [*_groups(found), *_gaps(found)]]
    frame = context.frame(pd.DataFrame(rows, columns=list(FORMATS)), FORMATS)
    header = (
        "Accuracy by annotated group, in percent, as mean ± standard deviation over seeds. The interval is Student's t "
        "95 % over seeds, or Wilson's over the group's faces for a single seed: wide for small groups. "
        f"`{GAP}`: difference between the best and the worst group of at least {LEAST} faces, per seed; it is "
        "never negative, and therefore positive on average even if all groups are equal (docs/robustness.md)."
    )
    if without := [name for name in datasets if name not in annotated]:
        header += f" Without annotated groups: {', '.join(without)}."
    keys = {"recipe": code("recipe"), "attribute": code("attribute"), "group": code("group"), "faces": count("n_faces")}
    sections = by_dataset(frame, keys, ACCURACY_CELLS, across="protocol", by=("recipe", "attribute", "group"))
    return context.table(frame, FORMATS, header, sections)


def _groups(found: Sequence[pd.DataFrame]) -> Iterator[dict[str, Any]]:
    import pandas as pd

    for (attribute, group), part in pd.concat(found).groupby(["attribute", "group"], sort=False):
        cells = mean_cells(list(part["accuracy"]), int(part["n"].iloc[0]))
        by_class = 100 * float(part["mean_class_accuracy"].mean())
        yield {"attribute": attribute, "group": group, **cells, "mean_class_accuracy": by_class}


def _gaps(found: Sequence[pd.DataFrame]) -> Iterator[dict[str, Any]]:
    """Yield the largest gap of each attribute, as mean over seeds; no interval, since the groups change."""
    import pandas as pd

    for attribute, part in pd.concat([largest_gaps(groups) for groups in found]).groupby("attribute", sort=False):
        gaps, faces = 100 * part["gap"], found[0].loc[found[0]["attribute"] == attribute, "n"].sum()
        cells = {"attribute": attribute, "group": GAP, "n_seeds": len(gaps), "n_faces": int(faces)}
        yield cells | {"accuracy": float(gaps.mean()), "accuracy_std": float(gaps.std())}


def subgroups(predictions: pd.DataFrame, index: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Return the accuracy of one run on the test faces of each group, under ``protocol``; fractions in [0, 1].

    ``predictions`` are those of predictions.parquet, ``index`` is the dataset's index. One row per attribute and group
    in the order of `rafdb.ATTRIBUTES`, without empty groups: attribute, group, n, accuracy, mean_class_accuracy (over
    the classes that occur in the group). Faces without annotation are in no group. Raises UserError for a dataset
    without attributes, a test face that the index does not have, a protocol without rows.
    """
    import pandas as pd

    from transfer.datasets.rafdb import ATTRIBUTES
    from transfer.runs.metrics import metrics
    from transfer.runs.predictions import class_names, probabilities_of

    missing = [attribute for attribute in ATTRIBUTES if attribute not in index.columns]
    if missing:
        raise UserError(f"subgroups: no column {missing[0]} in the dataset's index; only RAF-DB is annotated with it")
    test = predictions.query("split == 'test' and protocol == @protocol")
    if test.empty:
        raise UserError(
            f"subgroups: no test predictions under protocol {protocol}; add it to protocols and train again"
        )
    annotated = index.set_index("sample")[list(ATTRIBUTES)]
    absent = test.loc[~test["sample"].isin(annotated.index), "sample"]
    if len(absent):
        raise UserError(f"subgroups: test face {absent.iloc[0]} is not in the dataset's index; train again")
    annotated, classes, rows = annotated.loc[test["sample"]], class_names(test), []
    for attribute, meanings in ATTRIBUTES.items():
        for number, group in enumerate(meanings):
            part = test[(annotated[attribute] == number).fillna(False).to_numpy(bool)]
            if len(part):
                found = metrics(probabilities_of(part), part["label"].to_numpy(), classes)
                rows.append((attribute, group, found["n"], found["accuracy"], found["mean_class_accuracy"]))
    return pd.DataFrame(rows, columns=["attribute", "group", "n", "accuracy", "mean_class_accuracy"])


def largest_gaps(groups: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Return the largest gap of ``metric`` between two groups of each attribute of `subgroups`.

    Columns: attribute, gap (a fraction), best, worst (groups). Groups of fewer than `LEAST` faces and `UNSURE` do not
    count; an attribute with fewer than two others has no row.
    """
    import pandas as pd

    rows = []
    counted = groups[(groups["n"] >= LEAST) & (groups["group"] != UNSURE)]
    for attribute, part in counted.groupby("attribute", sort=False):
        values = part.set_index("group")[metric]
        if len(values) > 1:
            rows.append((attribute, float(values.max() - values.min()), values.idxmax(), values.idxmin()))
    return pd.DataFrame(rows, columns=["attribute", "gap", "best", "worst"])


KIND = Kind(table, dataset_inputs=("index.parquet",))
