"""predictions.parquet: one row per face, split and protocol, with one probability per class."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_integer_dtype, is_numeric_dtype

from transfer.utils.errors import UserError
from transfer.utils.files import atomic

SPLITS = ("val", "test")
PROTOCOLS = ("last", "val_selected", "test_selected")
_FIXED = ("sample", "label", "split", "protocol", "epoch")
_PREFIX = "p_"
# float32 softmax is good to about 1e-6; anything near this bound is not a distribution
_SUM_TOLERANCE = 1e-4


def predictions_frame(
    samples: Sequence[str],
    labels: Sequence[int],
    probabilities: np.ndarray,
    classes: Sequence[str],
    *,
    split: str,
    protocol: str,
    epoch: int,
) -> pd.DataFrame:
    """Return the rows of one split under one protocol; the frames of a run are joined by ``pandas.concat``.

    ``samples`` and ``labels`` have length N, ``probabilities`` is (N, C) with rows that sum to 1, ``classes`` are the
    C names in label order, ``epoch`` is 1-based.
    """
    fixed = {
        "sample": pd.array(samples, dtype="str"),
        "label": np.asarray(labels, dtype=np.int64),
        "split": split,
        "protocol": protocol,
        "epoch": epoch,
    }
    columns = np.asarray(probabilities, dtype=np.float32)
    return pd.DataFrame(fixed | {f"{_PREFIX}{name}": columns[:, i] for i, name in enumerate(classes)})


def write_predictions(path: str | os.PathLike, predictions: pd.DataFrame) -> None:
    """Check ``predictions`` as on reading, then write them atomically. Raises UserError."""
    _check(predictions, path)
    with atomic(path) as part:
        predictions.to_parquet(part, index=False)


def read_predictions(path: str | os.PathLike) -> pd.DataFrame:
    """Read and check predictions.parquet.

    Raises UserError, naming the file: missing or damaged file, missing column, missing value, unknown split or
    protocol, label out of range, probabilities that are no distribution, a sample twice within a split and protocol
    or in both splits, more than one epoch under a protocol.
    """
    try:
        predictions = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; expected the predictions of a run; run the training again") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not a readable parquet file ({reason}); delete it and run the training again"
        ) from error
    _check(predictions, path)
    return predictions


def class_names(predictions: pd.DataFrame) -> list[str]:
    """Return the class names of the probability columns, in label order."""
    return [column.removeprefix(_PREFIX) for column in predictions.columns if column.startswith(_PREFIX)]


def probabilities_of(predictions: pd.DataFrame) -> np.ndarray:
    """Return the probabilities as one (N, C) float64 array."""
    return predictions[[_PREFIX + name for name in class_names(predictions)]].to_numpy(np.float64)


def correct_faces(predictions: pd.DataFrame, protocol: str, split: str = "test") -> pd.Series:
    """Return for every face of ``split`` under ``protocol`` whether the most probable class is its label.

    A boolean series indexed by (sample, label) and sorted: two runs tested on the same faces have equal indices.
    """
    rows = predictions[(predictions["split"] == split) & (predictions["protocol"] == protocol)]
    index = pd.MultiIndex.from_frame(rows[["sample", "label"]])
    return pd.Series(probabilities_of(rows).argmax(axis=1) == rows["label"].to_numpy(), index=index).sort_index()


def _check(predictions: pd.DataFrame, path: str | os.PathLike) -> None:
    problem = _problem(predictions)
    if problem:
        raise UserError(f"{Path(path)}: {problem}; run the training again")


def _problem(frame: pd.DataFrame) -> str | None:
    missing = [column for column in _FIXED if column not in frame.columns]
    if missing:
        return f"column {missing[0]} is missing (expected {', '.join(_FIXED)} and {_PREFIX}<class>)"
    classes = class_names(frame)
    if len(classes) < 2:
        return f"{len(classes)} probability columns {_PREFIX}<class>, expected at least 2"
    if frame.empty:
        return "no rows"
    columns = [*_FIXED, *(_PREFIX + name for name in classes)]
    for column in columns:
        if frame[column].isna().any():
            return f"column {column} has {int(frame[column].isna().sum())} missing values (NaN)"
    for column in ("label", "epoch"):
        if not is_integer_dtype(frame[column]):
            return f"column {column} holds {frame[column].dtype}, expected integers"
    for column, allowed in (("split", SPLITS), ("protocol", PROTOCOLS)):
        unknown = sorted(set(frame[column]) - set(allowed))
        if unknown:
            return f"column {column} holds {unknown[0]!r}, expected one of {', '.join(allowed)}"
    outside = frame.loc[~frame["label"].between(0, len(classes) - 1), ["sample", "label"]]
    if len(outside):
        return (
            f"label {outside['label'].iloc[0]} of sample {outside['sample'].iloc[0]}, expected 0 to {len(classes) - 1}"
        )
    if not all(is_numeric_dtype(frame[column]) for column in columns[len(_FIXED) :]):
        return "probabilities are not numbers"
    probabilities = probabilities_of(frame)
    wrong = (abs(probabilities.sum(axis=1) - 1) > _SUM_TOLERANCE) | (probabilities < 0).any(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        total = probabilities[row].sum()
        return f"probabilities of sample {frame['sample'].iloc[row]} are not in [0, 1] with sum 1 (sum {total:.6g})"
    twice = frame.duplicated(["sample", "split", "protocol"])
    if twice.any():
        row = frame[twice].iloc[0]
        return f"sample {row['sample']} occurs twice in split {row['split']}, protocol {row['protocol']}"
    both = set(frame.loc[frame["split"] == "val", "sample"]) & set(frame.loc[frame["split"] == "test", "sample"])
    if both:
        return f"sample {min(both)} is in both val and test"
    epochs = frame.groupby("protocol")["epoch"].nunique()
    if (epochs > 1).any():
        return f"protocol {epochs.idxmax()} mixes {epochs.max()} epochs, expected one"
    return None
