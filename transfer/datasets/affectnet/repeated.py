"""Rows that name an image again."""

import pandas as pd

from transfer.datasets.affectnet.codes import name_of

IN_TEST = "rows of training images that are in the test split"
AGAIN = "rows that list an image again"
DIFFERENT = "rows of images with different labels"


def without_repeats(rows: pd.DataFrame, classes: int) -> pd.DataFrame:
    """The rows (columns sample, split and label) whose image has one label in one split; the others in ``attrs``.

    An image of the test split is no training image. Of rows that agree the first stays. Of an image with different
    labels in one split none stays: which label is right cannot be known. ``label`` may be a code beyond the
    ``classes``, which makes a difference too, but is dropped later and not noted here. ``attrs["repeated"]`` has every
    row that went, with its split, label and the reason.
    """
    why = pd.Series("", index=rows.index)
    tested = rows["sample"].isin(rows.loc[rows["split"] == "test", "sample"])
    why[tested & (rows["split"] == "train")] = IN_TEST
    labels = rows.groupby(["split", "sample"])["label"].transform("nunique")
    why[(labels > 1) & (why == "")] = DIFFERENT
    why[rows.duplicated(["split", "sample"]) & (why == "")] = AGAIN
    gone = rows.assign(why=why)[(why != "") & (rows["label"] < classes)]
    kept = rows[why == ""].reset_index(drop=True)
    kept.attrs["repeated"] = gone[["sample", "split", "label", "why"]].to_dict("records")
    return kept


def without_others(rows: pd.DataFrame, classes: int) -> pd.DataFrame:
    """The rows of the first ``classes`` codes; ``attrs["dropped"]`` counts the others by category."""
    others = rows["label"] >= classes
    kept = rows[~others].reset_index(drop=True)
    kept.attrs["dropped"] = {name_of(code): int(n) for code, n in rows.loc[others, "label"].value_counts().items()}
    return kept
