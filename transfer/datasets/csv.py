"""Any images with one csv file: path, label (a class by its name), split; five landmarks and votes if it has them."""

import math
import posixpath
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

from transfer.datasets.archives import Source
from transfer.datasets.folders import sample_names
from transfer.datasets.registry import LANDMARKS, class_list, dataset
from transfer.datasets.text import csv_records, whole_number
from transfer.params import SPLITS
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("path", "label", "split")


def _file(value: Any) -> str:
    if value is not None and not (isinstance(value, str) and value.endswith(".csv")):
        raise UserError(f"option file is {value!r}; expected the name of a .csv file in the archive")
    return value or "labels.csv"


@dataset(
    "csv",
    classes=lambda classes, file: list(classes),
    official=lambda classes, file: [],
    options={"classes": class_list, "file": _file},
)
def read(source: Source, classes: list[str], file: str) -> "pd.DataFrame":
    """Index in the order of the csv ``file``; paths are those from its folder.

    Optional columns, all of a kind or none: landmark_0_x to landmark_4_y (`LANDMARKS`; empty where unknown), and
    vote_<class> for soft labels.
    """
    import pandas as pd

    name = source.find(file)
    folder, votes = posixpath.dirname(name), [f"vote_{label}" for label in classes]
    rows: list[tuple] = []
    given: list[str] = []
    for where, row in csv_records(f"{source.path}: {name}", source.read(name), COLUMNS, [*LANDMARKS, *votes]):
        if not rows:
            for kind in (LANDMARKS, votes):
                here = [column for column in kind if column in row]
                if here and len(here) < len(kind):
                    lacking = next(column for column in kind if column not in row)
                    raise UserError(f"{where}: the header has {here[0]} and no {lacking}; give all {len(kind)} or none")
                given += here
        path, label, split = (row[column] for column in COLUMNS)
        inside = posixpath.normpath(path.replace("\\", "/"))
        if inside.startswith(("/", "..")) or PureWindowsPath(path).drive or not path:
            raise UserError(f"{where}: path {path[:80]!r} leaves the folder of {name}; give it from there")
        if label not in classes:
            raise UserError(f"{where}: label is {label[:40]!r}; expected one of {', '.join(classes)} (option classes)")
        if split not in SPLITS:
            raise UserError(f"{where}: split is {split[:40]!r}; expected {', '.join(SPLITS)}")
        numbers = [_number(row[column], column, where) for column in given]
        rows.append((inside, posixpath.join(folder, inside), split, classes.index(label), *numbers))
    index = pd.DataFrame(rows, columns=["sample", "path", "split", "label", *given])
    index["sample"] = sample_names(index["sample"].tolist())
    if LANDMARKS[0] in given and (index["landmark_0_x"] - index["landmark_1_x"]).median() > 0:
        order = "landmark_0 and landmark_3 are those on the left of the image"
        raise UserError(f"{source.path}: {name}: landmark_0 lies to the right of landmark_1; {order}: exchange them")
    return index


def _number(text: str, column: str, where: str) -> float:
    if column.startswith("vote_"):
        votes = whole_number(text)
        if votes is None or votes < 0:
            raise UserError(f"{where}: {column} is {text[:40]!r}; expected a whole number")
        return votes
    try:
        number = float(text or "nan")
    except ValueError:
        number = math.inf
    if math.isinf(number):
        raise UserError(f"{where}: {column} is {text[:40]!r}; expected pixels, or nothing where it is unknown")
    return number
