"""Splits and class-balanced upsampling plans, as row numbers: no image is ever copied."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from transfer.utils.errors import UserError

_SQRT_THRESHOLD = 0.15  # oversample_thr of the authors' later configuration, configs/_base_/datasets/RAF.py

DROPPED = "dropped"  # the split of training images that are excluded as copies of validation or test images


def split_rows(table: pd.DataFrame, val_fraction: float, seed: int, groups: np.ndarray | None = None) -> pd.DataFrame:
    """Assign every row to a split; sets aside a stratified validation split where ``table`` has none.

    ``table`` has the columns sample, split and label. Of a class with n training rows ``val_fraction * n`` (rounded,
    at least 1, at most n - 1) are sampled for validation. ``groups`` gives copies of one picture the same number:
    training rows that share it with a test or validation row get the split "dropped", before the validation split is
    sampled and again after it. Returns the columns row (int64 position in ``table``), sample, split, label.
    """
    split = table["split"].to_numpy(dtype=object, copy=True)
    labels = table["label"].to_numpy()
    if groups is not None:
        split[training_copies(split, groups)] = DROPPED
    if not (split == "val").any():
        for label in np.unique(labels):
            rows = np.flatnonzero((split == "train") & (labels == label))
            if len(rows) < 2:
                raise UserError(
                    f"class with label {label}: {len(rows)} training images, validation needs at least 2; "
                    "add images or leave the class out"
                )
            n_val = min(max(round(val_fraction * len(rows)), 1), len(rows) - 1)
            # A generator per class, so that the sample of one class does not depend on the others.
            rng = np.random.default_rng([seed, int(label)])
            split[rng.choice(rows, n_val, replace=False)] = "val"
    if groups is not None:
        split[training_copies(split, groups)] = DROPPED
    columns = {"sample": table["sample"].to_numpy(), "split": split, "label": labels.astype(np.int64)}
    return pd.DataFrame({"row": np.arange(len(table), dtype=np.int64), **columns})


def training_copies(split: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mask (N,) of the training rows whose group has a row in "val" or "test"."""
    held_out = np.isin(split, ["val", "test"])
    return (split == "train") & np.isin(groups, groups[held_out])


def upsampling_plan(
    labels: np.ndarray, rows: np.ndarray, method: str, seed: int, class_names: Sequence[str]
) -> np.ndarray:
    """The rows of one training epoch, repeated according to ``method``; sorted int64 row numbers.

    ``labels`` and ``rows`` describe the training split. "none": every row once. "full": as many rows of every class as
    of the largest, by whole repeats and a remainder sampled without replacement (``seed``). "sqrt": every row of a
    class with frequency f ceil(max(1, sqrt(0.15 / f))) times, as ClassBalancedDataset(oversample_thr=0.15,
    method="sqrt") of the authors' later code (mmcls/datasets/dataset_wrappers.py).
    """
    counts = np.bincount(labels, minlength=len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if empty:
        raise UserError(f"no training images of class {', '.join(empty)}: add images or leave the class out")
    if method == "none":
        plan = rows
    elif method == "sqrt":
        repeats = np.ceil(np.maximum(1, np.sqrt(_SQRT_THRESHOLD * len(labels) / counts))).astype(np.int64)
        plan = np.repeat(rows, repeats[labels])
    elif method == "full":
        parts = []
        for label, count in enumerate(counts):
            own = rows[labels == label]
            repeats, remainder = divmod(counts.max(), count)
            rng = np.random.default_rng([seed, label])
            parts += [np.repeat(own, repeats), rng.choice(own, remainder, replace=False)]
        plan = np.concatenate(parts)
    else:
        raise ValueError(f"upsampling method {method!r}: none, sqrt or full")
    return np.sort(plan).astype(np.int64)
