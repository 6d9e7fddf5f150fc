"""The full release: training.csv, validation.csv and Manually_Annotated_Images/."""

import numpy as np
import pandas as pd

from transfer.datasets.affectnet.codes import expression
from transfer.datasets.affectnet.landmarks import five_landmarks
from transfer.datasets.registry import LANDMARKS
from transfer.datasets.source import Source, csv_rows
from transfer.utils.errors import UserError

IMAGES = "Manually_Annotated_Images"
HEADER = [
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
    "valence", "arousal",
]  # fmt: skip
FILES = {"training.csv": "train", "validation.csv": "test"}


def found(source: Source) -> bool:
    """Whether this release lies in the source."""
    return bool(source.find_all("training.csv"))


def rows(source: Source, classes: int) -> pd.DataFrame:
    """All rows of both files, with their codes as labels, valence, arousal and five landmarks.

    The landmarks are NaN where a row has none, and in rows that have none of the ``classes``. Raises UserError (file,
    line) for malformed rows.
    """
    files = {source.find(name): split for name, split in FILES.items()}
    folder = _image_folder(source)
    table, landmarks = [], []
    none = np.full(len(LANDMARKS), np.nan)
    for name, content in source.stream(files):
        for line, fields in csv_rows(name, content):
            if line == 1 and fields[0] == HEADER[0]:
                continue
            where = f"{source.path}: {name}, line {line}"
            if len(fields) != len(HEADER):
                raise UserError(f"{where}: {len(fields)} columns; expected {len(HEADER)}: {','.join(HEADER)}")
            row = dict(zip(HEADER, fields, strict=True))
            code, path = expression(row["expression"], where), row["subDirectory_filePath"]
            sample = path.rpartition(".")[0]
            table.append((sample, folder + path, files[name], code, *_floats(row, where)))
            landmarks.append(five_landmarks(row["facial_landmarks"], where) if code < classes else none)
    index = pd.DataFrame(table, columns=["sample", "path", "split", "label", "valence", "arousal"])
    index[LANDMARKS] = np.array(landmarks).reshape(-1, len(LANDMARKS))
    # Training comes first, in whatever order the archive holds the two.
    return index.sort_values("split", key=lambda split: split != "train", kind="stable", ignore_index=True)


def _image_folder(source: Source) -> str:
    """Name of the folder of images, with its slash."""
    inside = f"{IMAGES}/"
    folders = {name[: name.index(inside)] + inside for name in source.names() if f"/{inside}" in f"/{name}"}
    if len(folders) != 1:
        raise UserError(f"{source.path}: expected one folder {inside}, found {sorted(folders) or 'none'}")
    return folders.pop()


def _floats(row: dict[str, str], where: str) -> tuple[float, float]:
    try:
        return float(row["valence"]), float(row["arousal"])
    except ValueError as error:
        raise UserError(
            f"{where}: valence and arousal are {row['valence']!r} and {row['arousal']!r}; expected numbers"
        ) from error
