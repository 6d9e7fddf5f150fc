"""AffectNet, manually annotated images, in its three releases: csv files, arrays and class folders.

The official test set was never released: the field tests on the validation set, so it is the test split here.
"""

import io
import re
from typing import TYPE_CHECKING

from transfer.datasets.archives import Source
from transfer.datasets.registry import LANDMARKS, Counts, dataset
from transfer.datasets.text import csv_rows
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
    "folders": "train_class/class001/ to class008/ and val_class/, or train/0/ to 7/ and val/",
}
# Training images per class: RAN's AffectNet_dir/simple_sample/train_affectnet8part_label.txt. The reduced release has
# the same, and one face of contempt less to test on: AU/AffectNet_peocess.py of forever208/FMAE-IAT counts 287,651 and
# 3,999 images.
_TRAIN = [74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750]
_TEST = {"full": [500] * 8, "reduced": [500] * 7 + [499]}
_SPLITS = {"train": "train", "train_set": "train", "val": "test", "val_set": "test"}
_ANNOTATION = re.compile(r"((?:.*/)?)(train_set|val_set)/annotations/(\d+)_(exp|val|aro|lnd)\.npy")
_IN_FOLDER = re.compile(r"(?:.*/)?(train|val)(?:_class/class00([1-8])|/([0-7]))/([^/]+)\.(?:jpg|jpeg|png)")
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
        "folders": any(map(_IN_FOLDER.fullmatch, source.names())),
    }
    if not present[release]:
        wrong = f"no {RELEASES[release]}; check that it is the right and complete archive"
        if found := next(filter(present.get, present), None):
            wrong = f"{RELEASES[found]}, not {RELEASES[release]}: set options: {{release: {found}}} for the dataset"
        raise UserError(f"{source.path}: holds {wrong}")
    parse = {"full": _from_csv, "reduced": _from_arrays, "folders": _from_folders}[release]
    rows, repeated = _without_repeats(parse(source), classes)
    others = rows["label"] >= classes
    index = rows[~others].reset_index(drop=True)
    names = dict(enumerate(CLASSES)) | NOT_EXPRESSIONS
    dropped = rows.loc[others, "label"].map(names).value_counts().to_dict()
    index.attrs |= {"dropped": dropped, "repeated": repeated, "layout": f"release {release}"}
    return index


def _without_repeats(rows: "pd.DataFrame", classes: int) -> tuple["pd.DataFrame", list[dict]]:
    """The rows whose image has one label in one split, and those of the ``classes`` that went, with the reason.

    A test image is no training image. Of rows that agree the first stays. Of an image with different labels in one
    split none stays: which label is right cannot be known.
    """
    import pandas as pd

    why = pd.Series("", index=rows.index)
    tested = rows["sample"].isin(rows.loc[rows["split"] == "test", "sample"])
    why[tested & (rows["split"] == "train")] = "rows of training images that are in the test split"
    labels = rows.groupby(["split", "sample"])["label"].transform("nunique")
    why[(labels > 1) & (why == "")] = "rows of images with different labels"
    why[rows.duplicated(["split", "sample"]) & (why == "")] = "rows that list an image again"
    gone = rows.assign(why=why)[(why != "") & (rows["label"] < classes)]
    return rows[why == ""].reset_index(drop=True), gone[["sample", "split", "label", "why"]].to_dict("records")


def _from_csv(source: Source) -> "pd.DataFrame":
    """All rows of training.csv and validation.csv; NaN for absent landmarks."""
    import numpy as np
    import pandas as pd

    files = {source.find("training.csv"): "train", source.find("validation.csv"): "test"}
    folders = {name[: name.index(IMAGES)] for name in source.names() if f"/{IMAGES}/" in f"/{name}"}
    if len(folders) != 1:
        found = sorted(f"{folder}{IMAGES}/" for folder in folders) or "none"
        raise UserError(f"{source.path}: expected one folder {IMAGES}/, found {found}")
    prefix = f"{folders.pop()}{IMAGES}/"
    table, none = [], np.full(len(LANDMARKS), np.nan)
    for name, content in source.stream(files):
        for line, fields in csv_rows(name, content):
            if line == 1 and fields[0] == HEADER[0]:
                continue
            where = f"{source.path}: {name}, line {line}"
            if len(fields) != len(HEADER):
                raise UserError(f"{where}: {len(fields)} columns; expected {len(HEADER)}: {','.join(HEADER)}")
            path, *_, points, expression, valence, arousal = fields
            code = _code(expression, where)
            affect = _number(valence, f"{where}: valence"), _number(arousal, f"{where}: arousal")
            five = five_landmarks(points, where) if points and code < len(CLASSES) else none
            table.append((path.rpartition(".")[0], prefix + path, files[name], code, *affect, *five))
    index = pd.DataFrame(table, columns=_COLUMNS)
    # Training comes first, in whatever order the archive holds the two.
    return index.sort_values("split", key=lambda split: split != "train", kind="stable", ignore_index=True)


def _from_arrays(source: Source) -> "pd.DataFrame":
    """The reduced release (4 GB): train_set/ and val_set/, each with images/N.jpg and annotations/N_*.npy.

    One row per _exp.npy; NaN for arrays that are absent. Layout: AU/AffectNet_peocess.py of forever208/FMAE-IAT, and
    thread 14 of sb-ai-lab/EmotiEffLib for the four arrays: expression, valence, arousal, and 68 landmarks in pixels.
    """
    import numpy as np
    import pandas as pd

    faces: dict[tuple[str, int], dict] = {}
    names = {name: match for name in source.names() if (match := _ANNOTATION.fullmatch(name))}
    parse = {"lnd": _five_of, "exp": lambda array, where: _code(str(array.item()), where)}
    for name, content in source.stream(names):
        top, folder, number, kind = names[name].groups()
        face, where = faces.setdefault((folder, int(number)), {"top": top, "number": number}), f"{source.path}: {name}"
        array = _array(content, where)
        if kind != "lnd" and array.size != 1:
            raise UserError(f"{where}: {array.size} values; expected one {'expression' if kind == 'exp' else 'number'}")
        face[kind] = parse[kind](array, where) if kind in parse else _number(array.item(), where)
    none = np.full(len(LANDMARKS), np.nan)
    table = []
    for (folder, _), face in sorted(faces.items(), key=lambda item: item[0]):
        if "exp" in face:
            sample, path = f"{folder}/{face['number']}", f"{face['top']}{folder}/images/{face['number']}.jpg"
            affect = face.get("val", np.nan), face.get("aro", np.nan)
            table.append((sample, path, _SPLITS[folder], face["exp"], *affect, *face.get("lnd", none)))
    return pd.DataFrame(table, columns=_COLUMNS)


def _from_folders(source: Source) -> "pd.DataFrame":
    """Images in a folder per class, whose code is the label.

    train_class/class001/ to class008/: README of the repository of ExpLLM (starhiking), which counts 37,553 and 4,000
    images. train/0/ to 7/: utils/convert_affectnet.py of yaoing/DAN.
    """
    import pandas as pd

    table = []
    for name in source.names():
        if match := _IN_FOLDER.fullmatch(name):
            split, counted, code, stem = match.groups()
            table.append((f"{split}/{stem}", name, _SPLITS[split], int(code) if code else int(counted) - 1))
    return pd.DataFrame(table, columns=_COLUMNS[:4])


def _number(value: object, where: str) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {value!r}; expected a number") from error


def _code(text: str, where: str) -> int:
    allowed = len(CLASSES) + len(NOT_EXPRESSIONS)
    if not text.isdecimal() or int(text) >= allowed:
        raise UserError(f"{where}: expression is {text!r}; expected a whole number from 0 to {allowed - 1}")
    return int(text)


def _array(content: bytes, where: str) -> "np.ndarray":
    import numpy as np

    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{where}: not a numpy array without pickled objects ({error}); get the file again") from error


def five_landmarks(text: str, where: str) -> "np.ndarray":
    """Five landmarks, 10 numbers, of 68 points "x;y;x;y;..."."""
    import numpy as np

    return _five_of(np.array(text.split(";")), f"{where}: facial_landmarks")


def _five_of(points: "np.ndarray", where: str) -> "np.ndarray":
    """Eye centres, nose tip and mouth corners, 10 numbers, of 68 points in the iBUG order (136 numbers)."""
    import numpy as np

    try:
        points = points.astype(float).reshape(68, 2)
    except ValueError as error:
        raise UserError(f"{where}: expected 68 points 'x;y;...', 136 numbers, found {points.shape}") from error
    weights = np.zeros((5, 68))  # of each pair, first the one on the left of the image
    weights[0, 36:42] = weights[1, 42:48] = weights[2, 30] = weights[3, 48] = weights[4, 54] = 1
    return (weights @ points / weights.sum(axis=1, keepdims=True)).ravel()
