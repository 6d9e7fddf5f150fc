"""Accuracy by RAF-DB's annotated gender, race and age: who is recognised less well; see docs/robustness.md."""

import pandas as pd

from transfer.datasets.rafdb import ATTRIBUTES
from transfer.runs.metrics import metrics
from transfer.runs.predictions import class_names, probabilities_of
from transfer.utils.errors import UserError

LEAST = 30
"""Faces that a group needs to count in the largest gap: of fewer, one is more than three points."""
UNSURE = "unsure"
"""The group of the annotators' doubt, which is none of people."""


def subgroups(predictions: pd.DataFrame, index: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Accuracy of one run on the test faces of each group, under ``protocol``; fractions in [0, 1].

    ``predictions`` are those of predictions.parquet, ``index`` is the dataset's index. One row per attribute and group
    in the order of `rafdb.ATTRIBUTES`, groups without a face left out: attribute, group, n, accuracy,
    mean_class_accuracy (over the classes that the group has). Faces without annotation are in no group. Raises
    UserError for a dataset without attributes, a test face that the index does not have, a protocol without rows.
    """
    missing = [attribute for attribute in ATTRIBUTES if attribute not in index.columns]
    if missing:
        raise UserError(f"subgroups: the dataset's index has no column {missing[0]}; RAF-DB alone is annotated with it")
    test = predictions.query("split == 'test' and protocol == @protocol")
    if test.empty:
        raise UserError(f"subgroups: no test predictions of protocol {protocol}; name it in protocols and train again")
    annotated = index.set_index("sample")[list(ATTRIBUTES)]
    absent = test.loc[~test["sample"].isin(annotated.index), "sample"]
    if len(absent):
        raise UserError(f"subgroups: test face {absent.iloc[0]} is not in the dataset's index; train again")
    annotated, classes, rows = annotated.loc[test["sample"]], class_names(test), []
    for attribute, meanings in ATTRIBUTES.items():
        for code, group in enumerate(meanings):
            part = test[(annotated[attribute] == code).fillna(False).to_numpy(bool)]
            if len(part):
                found = metrics(probabilities_of(part), part["label"].to_numpy(), classes)
                rows.append((attribute, group, found["n"], found["accuracy"], found["mean_class_accuracy"]))
    return pd.DataFrame(rows, columns=["attribute", "group", "n", "accuracy", "mean_class_accuracy"])


def largest_gaps(groups: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """The largest gap of ``metric`` between two groups of each attribute of `subgroups`.

    Columns: attribute, gap (a fraction), best, worst (groups). Groups of fewer than `LEAST` faces and `UNSURE` do not
    count; an attribute with fewer than two others has no row.
    """
    rows = []
    counted = groups[(groups["n"] >= LEAST) & (groups["group"] != UNSURE)]
    for attribute, part in counted.groupby("attribute", sort=False):
        values = part.set_index("group")[metric]
        if len(values) > 1:
            rows.append((attribute, float(values.max() - values.min()), values.idxmax(), values.idxmin()))
    return pd.DataFrame(rows, columns=["attribute", "gap", "best", "worst"])
