"""AffectNet, manually annotated part: training.csv, validation.csv and Manually_Annotated_Images/."""

from collections import Counter

import numpy as np
import pandas as pd

from transfer.datasets.registry import LANDMARKS, Counts, dataset
from transfer.datasets.source import Source, csv_rows
from transfer.errors import UserError

CLASSES = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]
NOT_EXPRESSIONS = {8: "none", 9: "uncertain", 10: "no_face"}
IMAGES = "Manually_Annotated_Images"
HEADER = [
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
    "valence", "arousal",
]  # fmt: skip
# The test part of AffectNet was never released: the field tests on the validation part, so it is the test split here.
FILES = {"training.csv": "train", "validation.csv": "test"}


def _classes(classes: int) -> list[str]:
    return CLASSES[:classes]


def _official(classes: int) -> list[Counts]:
    train = [74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750]
    return [{"train": train[:classes], "test": [500] * classes}]


@dataset(
    "affectnet",
    classes=_classes,
    official=_official,
    options={"classes": (7, 8)},
)
def read(source: Source, classes: int) -> pd.DataFrame:
    """Index of the expressions 0..6 (7 classes) or 0..7 (8, with contempt), with five landmarks, valence and arousal.

    The landmarks are taken from the 68 of the csv files; NaN where a row has none. Raises UserError (file, line) for
    malformed rows. ``attrs["dropped"]`` counts the rows of other categories.
    """
    files = {source.find(name): split for name, split in FILES.items()}
    folder = _image_folder(source)
    contents = dict(source.stream(files))
    rows, landmarks, dropped = [], [], Counter()
    for name, split in files.items():
        for line, fields in csv_rows(name, contents[name]):
            if line == 1 and fields[0] == HEADER[0]:
                continue
            where = f"{source.path}: {name}, line {line}"
            if len(fields) != len(HEADER):
                raise UserError(f"{where}: {len(fields)} columns; expected {len(HEADER)}: {','.join(HEADER)}")
            row = dict(zip(HEADER, fields, strict=True))
            code = _expression(row["expression"], where)
            if code >= classes:
                dropped[NOT_EXPRESSIONS.get(code, "contempt")] += 1
                continue
            path = row["subDirectory_filePath"]
            rows.append((path.rpartition(".")[0], folder + path, split, code, *_floats(row, where)))
            landmarks.append(five_landmarks(row["facial_landmarks"], where))
    index = pd.DataFrame(rows, columns=["sample", "path", "split", "label", "valence", "arousal"])
    index[LANDMARKS] = np.array(landmarks).reshape(-1, len(LANDMARKS))
    index.attrs["dropped"] = dict(dropped)
    return index


def five_landmarks(text: str, where: str) -> np.ndarray:
    """Eye centres, nose tip and mouth corners (10 numbers x, y, x, ...) of the 68 points "x;y;x;y;...".

    The 68 points have the iBUG order: 36-41 and 42-47 are the eyes, 30 is the nose tip, 48 and 54 the mouth corners,
    each first the one on the left of the image. NaN for an empty ``text``; UserError for anything else.
    """
    if not text:
        return np.full(10, np.nan)
    try:
        points = np.array(text.split(";"), dtype=float).reshape(68, 2)
    except ValueError as error:
        raise UserError(f"{where}: facial_landmarks are not 68 points 'x;y;x;y;...'") from error
    five = [points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]]
    return np.concatenate(five)


def _image_folder(source: Source) -> str:
    """Name of the folder of images, with its slash."""
    inside = f"{IMAGES}/"
    folders = {name[: name.index(inside)] + inside for name in source.names() if f"/{inside}" in f"/{name}"}
    if len(folders) != 1:
        raise UserError(f"{source.path}: expected one folder {inside}, found {sorted(folders) or 'none'}")
    return folders.pop()


def _expression(text: str, where: str) -> int:
    allowed = len(CLASSES) + len(NOT_EXPRESSIONS)
    if not text.isdecimal() or int(text) >= allowed:
        raise UserError(f"{where}: expression is {text!r}; expected a whole number from 0 to {allowed - 1}")
    return int(text)


def _floats(row: dict[str, str], where: str) -> tuple[float, float]:
    try:
        return float(row["valence"]), float(row["arousal"])
    except ValueError as error:
        raise UserError(
            f"{where}: valence and arousal are {row['valence']!r} and {row['arousal']!r}; expected numbers"
        ) from error
