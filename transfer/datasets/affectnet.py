"""AffectNet, manually annotated images, in its three releases: csv files, arrays and class folders.

The official test set was never released: the field tests on the validation set, so it is the test split here.
"""

import io
import math
import posixpath
import re
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING

from transfer.datasets.archives import Source
from transfer.datasets.folders import find_folders, is_image, read_folders, sample_names
from transfer.datasets.registry import LANDMARKS, Counts, dataset
from transfer.datasets.text import csv_records, whole_number
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CLASSES = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]
"""Expression codes 0 to 7."""
NOT_EXPRESSIONS = {8: "none", 9: "uncertain", 10: "no_face"}
HEADER = [
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
    "valence", "arousal",
]  # fmt: skip
IMAGES = "Manually_Annotated_Images"
RELEASES = {
    "full": f"training.csv, validation.csv and {IMAGES}/",
    "reduced": "train_set/ and val_set/ with annotations/*.npy",
    "folders": "train_class/class001/ to class008/ and val_class/, or train/ and val/ with 0/ to 7/, or with names",
}
# Training images per class: RAN's AffectNet_dir/simple_sample/train_affectnet8part_label.txt. The reduced release has
# the same, and one face of contempt less to test on: AU/AffectNet_peocess.py of forever208/FMAE-IAT counts 287,651 and
# 3,999 images.
_TRAIN = [74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750]
_TEST = {"full": [500] * 8, "reduced": [500] * 7 + [499]}
_SPLITS = {"train": "train", "train_set": "train", "val": "test", "val_set": "test"}
_ANNOTATION = re.compile(r"((?:.*/)?)(train_set|val_set)/annotations/(\d{1,12})_(exp|val|aro|lnd)\.npy")
_REDUCED_IMAGE = re.compile(r"(.*/)?(train_set|val_set)/images/([^/]+)\.\w+")
_OPTIONAL = ("facial_landmarks", "valence", "arousal")
_COLUMNS = ["sample", "path", "split", "label", "valence", "arousal", *LANDMARKS]


def _official(classes: int, release: str) -> list[Counts]:
    if release == "folders":
        return [{"train": 37553, "test": 4000}] if classes == 8 else []
    return [{"train": _TRAIN[:classes], "test": _TEST[release][:classes]}]


@dataset(
    "affectnet",
    classes=lambda classes, release: CLASSES[:classes],
    official=_official,
    options={"classes": (7, 8), "release": ("full", "reduced", "folders")},
)
def read(source: Source, classes: int, release: str) -> "pd.DataFrame":
    """Index of the expressions 0..6 (7 classes) or 0..7 (8, with contempt); with landmarks, valence and arousal.

    ``release`` is what the archive has to hold, see `RELEASES`; "folders" has labels alone. ``attrs``: ``dropped``
    counts the rows of other categories, ``repeated`` lists those that name an image again.
    """
    present = {
        "full": bool(source.find_all("training.csv")),
        "reduced": any(map(_ANNOTATION.fullmatch, source.names())),
        "folders": any(match[3] for match in find_folders(source).values()),
    }
    present["folders"] &= not (present["full"] or present["reduced"])
    if not present[release]:
        if found := next(filter(present.get, present), None):
            wrong = f"{RELEASES[found]}, not {RELEASES[release]}: set options: {{release: {found}}} for the dataset"
            raise UserError(f"{source.path}: holds {wrong}")
        raise source.lacks(f"holds no {RELEASES[release]}", "training.csv")
    parse = {"full": _from_csv, "reduced": _from_arrays, "folders": _from_folders}[release]
    parsed = parse(source)
    rows, repeated = _without_repeats(parsed, classes)
    others = rows["label"] >= classes
    index = rows[~others].reset_index(drop=True)
    names, left_out = dict(enumerate(CLASSES)) | NOT_EXPRESSIONS, defaultdict(list, parsed.attrs.get("dropped", {}))
    for label, path in zip(rows["label"][others], rows["path"][others], strict=True):
        left_out[names[label]].append(path)
    index.attrs |= {"dropped": dict(left_out), "repeated": repeated}
    index.attrs["layout"] = parsed.attrs.get("layout", f"release {release}")
    return index


def _without_repeats(rows: "pd.DataFrame", classes: int) -> tuple["pd.DataFrame", list[dict]]:
    """The rows whose image has one label in one split, and those of the ``classes`` that went, with the reason.

    A test image is no training image. Of rows that agree the first stays. Of an image with different labels in one
    split none stays: which label is right cannot be known.
    """
    import pandas as pd

    why = pd.Series("", index=rows.index)
    tested = rows["path"].isin(rows.loc[rows["split"] == "test", "path"])
    why[tested & (rows["split"] == "train")] = "rows of training images that are in the test split"
    labels = rows.groupby(["split", "path"])["label"].transform("nunique")
    why[(labels > 1) & (why == "")] = "rows of images with different labels"
    why[rows.duplicated(["split", "path"]) & (why == "")] = "rows that list an image again"
    gone = rows.assign(why=why)[(why != "") & (rows["label"] < classes)]
    return rows[why == ""].reset_index(drop=True), gone[["sample", "path", "split", "label", "why"]].to_dict("records")


def _from_csv(source: Source) -> "pd.DataFrame":
    """All rows of training.csv and validation.csv; NaN for absent landmarks."""
    import numpy as np
    import pandas as pd

    files = {source.find("training.csv"): "train", source.find("validation.csv"): "test"}
    folders = {name[: name.index(IMAGES)] for name in source.names() if f"/{IMAGES}/" in f"/{name}"}
    if len(folders) != 1:
        found = sorted(f"{folder}{IMAGES}/" for folder in folders) or "none"
        raise source.lacks(f"expected one folder {IMAGES}/, found {found}", "")
    prefix = f"{folders.pop()}{IMAGES}/"
    table, none = [], np.full(len(LANDMARKS), np.nan)
    needed = HEADER[0], "expression"
    for name, content in source.stream(files):
        for where, row in csv_records(f"{source.path}: {name}", content, needed, _OPTIONAL, [HEADER]):
            path, points = posixpath.normpath(row[HEADER[0]].replace("\\", "/")), row.get("facial_landmarks", "")
            code = _code(row["expression"], where)
            affect = [_number(row[key], f"{where}: {key}") if key in row else np.nan for key in _OPTIONAL[1:]]
            five = five_landmarks(points, where) if points and code < len(CLASSES) else none
            table.append((path, prefix + path, files[name], code, *affect, *five))
    index = pd.DataFrame(table, columns=_COLUMNS)
    index["sample"] = sample_names(index["sample"].tolist())
    # Training comes first, in whatever order the archive holds the two.
    return index.sort_values("split", key=lambda split: split != "train", kind="stable", ignore_index=True)


def _from_arrays(source: Source) -> "pd.DataFrame":
    """The reduced release (4 GB): train_set/ and val_set/, each with images/N.jpg and annotations/N_*.npy.

    One row per _exp.npy; NaN for arrays that are absent. Layout: AU/AffectNet_peocess.py of forever208/FMAE-IAT, and
    thread 14 of sb-ai-lab/EmotiEffLib for the four arrays: expression, valence, arousal, and 68 landmarks in pixels.
    """
    import numpy as np
    import pandas as pd

    source.require("")
    faces: dict[tuple[str, str, str], dict] = {}
    images = {
        match.groups(): name for name in source.names() if is_image(name) and (match := _REDUCED_IMAGE.fullmatch(name))
    }
    names = {name: match for name in source.names() if (match := _ANNOTATION.fullmatch(name))}
    parse = {"lnd": _five_of, "exp": lambda array, where: _code(str(array.item()), where)}
    for name, content in source.stream(names):
        top, folder, number, kind = names[name].groups()
        face, where = faces.setdefault((top, folder, number), {}), f"{source.path}: {name}"
        array = _array(content, where)
        if kind != "lnd" and array.size != 1:
            raise UserError(f"{where}: {array.size} values; expected one {'expression' if kind == 'exp' else 'number'}")
        face[kind] = parse[kind](array, where) if kind in parse else _number(array.item(), where)
    none = np.full(len(LANDMARKS), np.nan)
    table = []
    for (top, folder, number), face in sorted(faces.items(), key=lambda item: (item[0][1], int(item[0][2]), item[0])):
        if "exp" in face:
            path = images.pop((top or None, folder, number), f"{top}{folder}/images/{number}.jpg")
            affect = face.get("val", np.nan), face.get("aro", np.nan)
            table.append((f"{folder}/{number}", path, _SPLITS[folder], face["exp"], *affect, *face.get("lnd", none)))
    index = pd.DataFrame(table, columns=_COLUMNS)
    index.attrs["dropped"] = {"images without an expression": sorted(images.values())} if images else {}
    return index


def _from_folders(source: Source) -> "pd.DataFrame":
    """Images in a folder per class.

    train_class/class001/ to class008/: README of the repository of ExpLLM (starhiking), which counts 37,553 and 4,000
    images. train/0/ to 7/: utils/convert_affectnet.py of yaoing/DAN.
    """
    import pandas as pd

    found = read_folders(source, CLASSES, 0, _TRAIN, NOT_EXPRESSIONS)
    index = pd.DataFrame(found.rows, columns=_COLUMNS[1:4])
    index.insert(0, "sample", sample_names(["/".join(path.split("/")[-3:]) for path in index["path"]]))
    index.attrs |= {"dropped": dict(found.dropped), "layout": f"release folders{found.numbered}"}
    return index


def _number(value: object, where: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.inf
    if math.isinf(number):
        raise UserError(f"{where}: {str(value)[:40]!r}; expected a number")
    return number


def _code(text: str, where: str) -> int:
    code, allowed = whole_number(text), len(CLASSES) + len(NOT_EXPRESSIONS)
    if code is None or not 0 <= code < allowed:
        raise UserError(f"{where}: expression is {text[:40]!r}; expected a whole number from 0 to {allowed - 1}")
    return code


def _array(content: bytes, where: str) -> "np.ndarray":
    import numpy as np

    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(array, np.ndarray):
            array.tolist()  # bytes that are no text fail here
            return array
        why = "several arrays"
    except Exception as error:  # a damaged header raises nearly anything
        why = " ".join(str(error).split())
    raise UserError(f"{where}: not a numpy array without pickled objects ({why}); get the file again")


def five_landmarks(text: str, where: str) -> "np.ndarray":
    """Five landmarks, 10 numbers, of 68 points "x;y;x;y;..."."""
    import numpy as np

    fields = text.split(";")
    try:
        points = np.array([float(field) for field in fields])  # ten times as fast as numpy reads texts
    except ValueError:
        points = np.array(fields)
    return _five_of(points, f"{where}: facial_landmarks")


@cache
def _five_weights() -> "tuple[np.ndarray, np.ndarray]":
    """Which of the 68 points make each of the five, (5, 68), and how many, (5, 1); left in the image first."""
    import numpy as np

    weights = np.zeros((5, 68))
    weights[0, 36:42] = weights[1, 42:48] = weights[2, 30] = weights[3, 48] = weights[4, 54] = 1
    return weights, weights.sum(axis=1, keepdims=True)


def _five_of(points: "np.ndarray", where: str) -> "np.ndarray":
    """Eye centres, nose tip and mouth corners, 10 numbers, of 68 points in the iBUG order (136 numbers)."""
    import numpy as np

    try:
        points = points.astype(float).reshape(68, 2)
        if not np.isfinite(points).all():
            raise ValueError("not finite")
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: expected 68 points 'x;y;...', 136 numbers, found {points.shape}") from error
    weights, counts = _five_weights()
    return (weights @ points / counts).ravel()
