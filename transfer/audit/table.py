"""The audit's table: copies counted by dataset and pair of splits."""

from itertools import combinations, product

import numpy as np
import pandas as pd

from transfer.audit.groups import KINDS, copy_groups
from transfer.params import SPLITS
from transfer.sampling import training_copies

_KEY = ["dataset_a", "split_a", "dataset_b", "split_b"]


def audit_table(images: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """One row per pair of splits, within and across datasets; all of them, also where there are no copies.

    ``images`` has a row per compared image: dataset, sample, split; ``pairs`` the columns of `transfer.audit.pairs`
    and dataset_a, dataset_b. Columns: dataset_a, split_a, images_a, dataset_b, split_b, images_b; exact, near,
    mirrored (pairs by kind); exact_other_label, other_label (pairs whose labels differ: exact ones, all); and
    exact_copied_a, copied_a, exact_copied_b, copied_b: images of a that have an exact copy, or any, in b; of b in a.
    """
    rows = []
    by_parts = dict(iter(pairs.groupby(_KEY)))
    sizes = images.groupby(["dataset", "split"], sort=False).size()
    datasets = list(images["dataset"].unique())
    parts = {name: [split for split in SPLITS if (name, split) in sizes.index] for name in datasets}
    for a, b in [(name, name) for name in datasets] + list(combinations(datasets, 2)):
        for split_a, split_b in product(parts[a], parts[b]):
            if a == b and SPLITS.index(split_a) > SPLITS.index(split_b):
                continue
            found = by_parts.get((a, split_a, b, split_b), pairs.iloc[:0])
            exact = found[found["kind"] == "exact"]
            row = {"dataset_a": a, "split_a": split_a, "images_a": sizes[a, split_a]}
            row |= {"dataset_b": b, "split_b": split_b, "images_b": sizes[b, split_b]}
            row |= {kind: int((found["kind"] == kind).sum()) for kind in ("exact", "near", "mirrored")}
            row |= {"exact_other_label": int((~exact["same_label"]).sum())}
            row |= {"other_label": int((~found["same_label"]).sum())}
            for end in "ab":
                row |= {f"exact_copied_{end}": _copied(exact, row, end), f"copied_{end}": _copied(found, row, end)}
            rows.append(row)
    return pd.DataFrame(rows)


def removed(images: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, int]:
    """How many training images each way of `sampling.duplicates` leaves out, by the dataset's own splits.

    ``images`` (sample, split) and ``pairs`` are those of one dataset.
    """
    split = images["split"].to_numpy(dtype=object)
    return {
        way: int(training_copies(split, copy_groups(images["sample"], pairs, kinds)).sum())
        for way, kinds in KINDS.items()
    }


def contradictions(images: pd.DataFrame, pairs: pd.DataFrame) -> tuple[int, int]:
    """Pictures that one dataset holds more than once, pixel for pixel, and those of them with more than one label.

    ``images`` has the columns sample and class_name.
    """
    groups = images.assign(group=copy_groups(images["sample"], pairs, ["exact"])).groupby("group")["class_name"]
    repeated = groups.size() > 1
    return int(repeated.sum()), int((groups.nunique()[repeated] > 1).sum())


def _copied(pairs: pd.DataFrame, row: dict, end: str) -> int:
    """Images of one end that have a copy in the other; in a pair of a split with itself both ends count."""
    same = (row["dataset_a"], row["split_a"]) == (row["dataset_b"], row["split_b"])
    ends = ["a", "b"] if same else [end]
    return len(np.unique(np.concatenate([pairs[f"sample_{name}"].to_numpy(dtype=str) for name in ends])))
