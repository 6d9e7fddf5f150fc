"""Any images with one csv file: path, label (a class by its name), split; five landmarks and votes if it has them."""

import math
import posixpath
import unicodedata
from collections.abc import Sequence
from ntpath import splitdrive
from typing import TYPE_CHECKING, Any

from transfer.datasets.archives import Source
from transfer.datasets.folders import sample_names
from transfer.datasets.registry import LANDMARKS, class_list, dataset
from transfer.datasets.text import csv_records, csv_rows, whole_number
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
    seen: dict[str, str] = {}
    content = source.read(name)
    given = _given(f"{source.path}: {name}", content, (LANDMARKS, votes))
    for where, row in csv_records(f"{source.path}: {name}", content, COLUMNS, given):
        path, label, split = (row[column] for column in COLUMNS)
        inside = posixpath.normpath(unicodedata.normalize("NFC", path.replace("\\", "/")))
        if inside.startswith("/") or inside.split("/")[0] == ".." or splitdrive(path)[0] or not path:
            raise UserError(f"{where}: path {path[:80]!r} leaves the folder of {name}; give it from there")
        if inside in seen:
            raise UserError(f"{where}: path {path[:80]!r} is that of {seen[inside]} too; keep one row")
        if label not in classes:
            raise UserError(f"{where}: label is {label[:40]!r}; expected one of {', '.join(classes)} (option classes)")
        if split not in SPLITS:
            raise UserError(f"{where}: split is {split[:40]!r}; expected {', '.join(SPLITS)}")
        numbers = {column: _number(row[column], column, where) for column in given}
        if len({math.isnan(numbers[column]) for column in LANDMARKS if column in numbers}) > 1:
            raise UserError(f"{where}: some landmark columns are empty and others are not; fill all 10 or none")
        if votes[0] in numbers and not any(numbers[column] for column in votes):
            raise UserError(f"{where}: nobody has voted; take the row away, or the columns vote_...")
        seen[inside] = where.rpartition(", ")[2]
        rows.append((inside, posixpath.join(folder, inside), split, classes.index(label), *numbers.values()))
    if not rows:
        raise UserError(f"{source.path}: {name} has no row below its header")
    index = pd.DataFrame(rows, columns=["sample", "path", "split", "label", *given])
    index["sample"] = sample_names(index["sample"].tolist())
    where = f"{source.path}: {name}"
    if LANDMARKS[0] in given:
        _check_landmarks(index, where)
    if votes[0] in given:
        most, total = index[votes].max(axis=1), index[votes].sum(axis=1)
        other = int((index[votes].to_numpy()[range(len(index)), index["label"]] < most).sum())
        if 2 * other > len(index):
            raise UserError(f"{where}: in {other:,} of {len(index):,} rows another class than label has the most votes")
        index.attrs["noted"] = {
            "another class than label has the most votes": other,
            "another number of votes than in most rows": int((total != total.mode()[0]).sum()),
        }
    return index


def _given(where: str, content: bytes, kinds: Sequence[Sequence[str]]) -> list[str]:
    """The optional columns of the header, all of a kind or none; UserError for those that only look like them."""
    header = next(csv_rows(where, content), (1, []))[1]
    given = [column for kind in kinds for column in kind if column in header]
    for kind in kinds:
        prefix = kind[0].partition("_")[0]
        like = [column for column in header if column.lower().startswith((f"{prefix}_", f"{prefix}s_"))]
        if unknown := [column for column in like if column not in kind]:
            raise UserError(f"{where}, line 1: column {unknown[0][:40]!r} is none of {kind[0]}, ..., {kind[-1]}")
        if like and (lacking := [column for column in kind if column not in like]):
            named = f"the header has {like[0]} and no {lacking[0]}"
            raise UserError(f"{where}, line 1: {named}; give all {len(kind)} or none")
    return given


def _check_landmarks(index: "pd.DataFrame", where: str) -> None:
    """UserError where the typical face is mirrored, upside down, or smaller than a face can be."""
    typical = dict(zip(LANDMARKS, index[LANDMARKS].median(), strict=True))
    if typical["landmark_0_x"] > typical["landmark_1_x"]:
        order = "landmark_0 and landmark_3 are those on the left of the image"
        raise UserError(f"{where}: landmark_0 lies to the right of landmark_1; {order}: exchange them")
    if typical["landmark_0_y"] + typical["landmark_1_y"] > typical["landmark_3_y"] + typical["landmark_4_y"]:
        raise UserError(f"{where}: the eyes (landmark_0, landmark_1) lie below the mouth; are x and y exchanged?")
    if typical["landmark_1_x"] - typical["landmark_0_x"] < 2:
        raise UserError(f"{where}: the eyes are less than 2 pixels apart; landmarks are pixels of the image")


def _number(text: str, column: str, where: str) -> float:
    if column.startswith("vote_"):
        votes = whole_number(text)
        if votes is None or votes < 0:
            raise UserError(f"{where}: {column} is {text[:40]!r}; expected a whole number of people")
        return votes
    try:
        number = float(text or "nan")
    except ValueError:
        number = math.inf
    if math.isinf(number):
        raise UserError(f"{where}: {column} is {text[:40]!r}; expected pixels, or nothing where it is unknown")
    return number
