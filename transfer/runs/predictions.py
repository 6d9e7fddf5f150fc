"""predictions.parquet: one row per face, split and protocol, with one probability per class.

Reading it into arrays needs no pandas, whose import costs more than the metrics of a run.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer.utils.errors import UserError
from transfer.utils.files import atomic

if TYPE_CHECKING:
    import pandas as pd

    Predictions = pd.DataFrame | Mapping[str, np.ndarray]
    """The columns of predictions.parquet: as a frame, or as an array of each name."""

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
) -> "pd.DataFrame":
    """The rows of one split under one protocol: ``probabilities`` are (N, C), ``epoch`` counts from 1."""
    import pandas as pd

    fixed = {
        "sample": pd.array(samples, dtype="str"),
        "label": np.asarray(labels, dtype=np.int64),
        "split": split,
        "protocol": protocol,
        "epoch": epoch,
    }
    columns = np.asarray(probabilities, dtype=np.float32)
    return pd.DataFrame(fixed | {f"{_PREFIX}{name}": columns[:, i] for i, name in enumerate(classes)})


def write_predictions(path: str | os.PathLike[str], predictions: "pd.DataFrame") -> None:
    """Check ``predictions`` as `read_columns` does, then write them atomically. Raises UserError."""
    _check(predictions, path)
    with atomic(path) as part:
        predictions.to_parquet(part, index=False)


def read_columns(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read and check predictions.parquet: an array per column.

    Raises UserError: missing, damaged, columns of other names or types, unknown labels, splits or protocols,
    probabilities that are no distribution, a sample twice, several epochs under a protocol.
    """
    with readable(path, "run transfer train again"):
        columns = parquet_columns(path)
    _check(columns, path)
    return columns


@contextmanager
def readable(path: str | os.PathLike[str], again: str) -> Iterator[None]:
    """Turn the errors of reading a parquet file into a UserError: missing, damaged."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {again}") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        wrong = f"not a readable parquet file ({str(error).splitlines()[0]})"
        raise UserError(f"{path}: {wrong}; delete it and {again}") from None


def parquet_columns(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The columns of a parquet file; one of text, or with missing values, as objects. Raises OSError, ValueError."""
    from pyarrow.parquet import ParquetFile
    from pyarrow.types import is_floating, is_integer

    def array(column: Any) -> np.ndarray:  # not column.to_numpy(), which imports pandas
        if column.null_count == 0 and (is_integer(column.type) or is_floating(column.type)):
            return np.from_dlpack(column.combine_chunks())
        return np.array(column.to_pylist(), dtype=object)

    with ParquetFile(path) as file:
        table = file.read()
    return {name: array(table[name]) for name in table.column_names}


def read_predictions(path: str | os.PathLike[str]) -> "pd.DataFrame":
    """predictions.parquet as a frame, checked by `read_columns`. Raises UserError."""
    import pandas as pd

    return pd.DataFrame(read_columns(path))


def class_names(predictions: "Predictions") -> list[str]:
    """The class names of the probability columns, in label order."""
    return [column.removeprefix(_PREFIX) for column in map(str, predictions) if column.startswith(_PREFIX)]


def probabilities_of(predictions: "Predictions") -> np.ndarray:
    """The probabilities as one (N, C) float64 array."""
    return np.stack([np.asarray(predictions[_PREFIX + name], np.float64) for name in class_names(predictions)]).T


def correct_faces(predictions: "pd.DataFrame", protocol: str, split: str = "test") -> "pd.Series[bool]":
    """Whether each face's most probable class is its label: a boolean series with a sorted index (sample, label)."""
    import pandas as pd

    rows = predictions[(predictions["split"] == split) & (predictions["protocol"] == protocol)]
    index = pd.MultiIndex.from_frame(rows[["sample", "label"]])
    return pd.Series(probabilities_of(rows).argmax(axis=1) == rows["label"].to_numpy(), index=index).sort_index()


def _check(predictions: "Predictions", path: str | os.PathLike[str]) -> None:
    if problem := _problem({name: np.asarray(predictions[name]) for name in map(str, predictions)}):
        raise UserError(f"{path}: {problem}; run transfer train again")


def _problem(columns: dict[str, np.ndarray]) -> str | None:
    classes = class_names(columns)
    kinds = dict.fromkeys(_FIXED, "O") | {"label": "i", "epoch": "i"} | {_PREFIX + name: "f" for name in classes}
    for column, kind in kinds.items():
        if column not in columns:
            return f"column {column} is missing (expected {', '.join(_FIXED)} and {_PREFIX}<class>)"
        if columns[column].dtype.kind != kind:
            expected = {"O": "text", "i": "integers", "f": "floats"}[kind]
            return f"column {column} holds {columns[column].dtype}, expected {expected} without missing values"
    sample, label, split, protocol, epoch = (columns[name] for name in _FIXED)
    if len(classes) < 2 or not len(sample):
        return f"{len(sample)} rows of {len(classes)} classes, expected faces and at least 2 columns {_PREFIX}<class>"
    probabilities = probabilities_of(columns)
    total = probabilities.sum(axis=1)
    valid = {
        f"split is not one of {', '.join(SPLITS)}": np.isin(split, SPLITS),
        f"protocol is not one of {', '.join(PROTOCOLS)}": np.isin(protocol, PROTOCOLS),
        f"label is not in 0 to {len(classes) - 1}": (label >= 0) & (label < len(classes)),
        "probabilities are not in [0, 1] with sum 1": (abs(total - 1) <= _SUM_TOLERANCE)
        & (probabilities >= 0).all(axis=1),
    }
    for problem, right in valid.items():
        if not right.all():
            return f"the {problem} (sample {sample[~right][0]})"
    if len(set(zip(sample, split, protocol, strict=True))) < len(sample):
        return "a sample occurs twice in a split and protocol"
    if both := set(sample[split == "val"]) & set(sample[split == "test"]):
        return f"sample {min(both)} is in both val and test"
    if len(set(zip(protocol, epoch, strict=True))) > len(set(protocol)):
        return "a protocol mixes several epochs, expected one"
    return None
