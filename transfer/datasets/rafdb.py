"""RAF-DB, single-label (basic) images, in three forms.

The authors': EmoLabel/list_patition_label.txt, Image/ and Annotation/manual/. APViT's: EmoLabel/train.txt and test.txt,
and Image/aligned_224/ (mmcls/datasets/raf.py of youqingxiaozhua/APViT). Kaggle's: the aligned images in train/1/ to 7/
and test/1/ to 7/, with train_labels.csv and test_labels.csv.
"""

import math
import posixpath
import re
from typing import TYPE_CHECKING, Any

from transfer.datasets.archives import Source
from transfer.datasets.folders import find_folders, read_folders, sample_names
from transfer.datasets.registry import LANDMARKS, Counts, dataset
from transfer.datasets.text import csv_records, text_lines, whole_number
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

CLASSES = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
LIST = "EmoLabel/list_patition_label.txt"
APVIT_LISTS = ("EmoLabel/train.txt", "EmoLabel/test.txt")
IMAGES = {"original": "{}.jpg", "aligned": "{}_aligned.jpg", "aligned_224": "{}.jpg"}
"""Folder of Image/ -> name of an image in it."""
# The codes are those of RAF-DB's own readme.txt, and so is the layout.
ATTRIBUTES = {
    "gender": ["male", "female", "unsure"],
    "race": ["Caucasian", "African-American", "Asian"],
    "age": ["0-3", "4-19", "20-39", "40-69", "70+"],
}
OFFICIAL: Counts = {"train": [1290, 281, 717, 4772, 1982, 705, 2524], "test": [329, 74, 160, 1185, 478, 162, 680]}


@dataset(
    "rafdb",
    classes=lambda images: list(CLASSES),
    official=lambda images: [OFFICIAL],
    options={"images": tuple(IMAGES)},
)
def read(source: Source, images: str) -> "pd.DataFrame":
    """Index in the order of the list file; with landmarks and attributes if Annotation/manual/ is present.

    ``images`` chooses Image/original/, the authors' 100x100 Image/aligned/, or APViT's Image/aligned_224/. The
    landmarks are those of the original image, hence left out for the others. ``gender``, ``race`` and ``age`` are
    codes, see `ATTRIBUTES`.
    """
    import pandas as pd

    apvit = [name for suffix in APVIT_LISTS for name in source.find_all(suffix)]
    lists = source.find_all(LIST) or apvit
    if not lists and find_folders(source):
        return _from_folders(source, images)
    lists = [source.find(APVIT_LISTS[0]), source.find(APVIT_LISTS[1])] if lists == apvit != [] else [source.find(LIST)]
    prefix = lists[0][: lists[0].rindex("EmoLabel/")]
    place = f"{prefix}Image/{images}/"
    source.require(place)
    names = [name for name in source.names() if name.startswith(f"{prefix}Image/")]
    if not any(name.startswith(place) for name in names):
        others = [other for other in IMAGES if any(name.startswith(f"{prefix}Image/{other}/") for name in names)]
        if others:
            remedy = f"set options: {{images: {others[0]}}} for the dataset"
            raise UserError(f"{source.path}: holds {prefix}Image/{others[0]}/, not {place}; {remedy}")
    rows = []
    for list_name, content in source.stream(lists):
        for number, line in enumerate(text_lines(f"{source.path}: {list_name}", content), 1):
            if not line.strip():
                continue
            match = re.fullmatch(r"((train|test)_\d+)(?:_aligned)?\.jpg\s+([1-7])", line.strip(), re.ASCII)
            if not match:
                expected = "a name and a label from 1 to 7, such as 'train_00001.jpg 5'"
                where = f"{source.path}: {list_name}, line {number}"
                raise UserError(f"{where}: {line.strip()[:60]!r}; expected {expected}")
            sample, split, label = match.groups()
            rows.append((sample, f"{place}{IMAGES[images].format(sample)}", split, int(label) - 1))
    index = pd.DataFrame(rows, columns=["sample", "path", "split", "label"])
    # Training comes first where the lists are two.
    index = index.sort_values("split", ascending=False, kind="stable", ignore_index=True) if len(lists) > 1 else index
    dropped = {
        f"images of {prefix}Image/{other}/": paths
        for other in sorted({name.removeprefix(f"{prefix}Image/").split("/")[0] for name in names} - {images})
        if (paths := [name for name in names if name.startswith(f"{prefix}Image/{other}/")])
    }
    source.require(f"{prefix}Annotation/manual/")
    annotations = {f"{prefix}Annotation/manual/{sample}_manu_attri.txt": sample for sample in index["sample"]}
    present = [name for name in annotations if name in source]
    if not present:
        index.attrs["dropped"] = dropped
        return index
    numbers = {annotations[n]: _annotation(f"{source.path}: {n}", content) for n, content in source.stream(present)}
    table = pd.DataFrame(numbers, index=[*LANDMARKS, *ATTRIBUTES]).T
    # The authors do not say whose left comes first; it is the same for all images, so the typical face decides.
    if (table["landmark_0_x"] - table["landmark_1_x"]).median() > 0:
        mirrored = [f"landmark_{i}_{axis}" for i in (1, 0, 2, 4, 3) for axis in "xy"]
        table = table.rename(columns=dict(zip(LANDMARKS, mirrored, strict=True)))
    columns = [*(LANDMARKS if images == "original" else []), *ATTRIBUTES]
    index = index.join(table[columns].astype(dict.fromkeys(ATTRIBUTES, "Int64")), on="sample")
    index.attrs["dropped"] = dropped
    return index


def _from_folders(source: Source, images: str) -> "pd.DataFrame":
    """Kaggle's form: the labels are the numbers of the folders, and have to be those of the csv files beside them."""
    import pandas as pd

    lists = {split: source.find_all(f"{split}_labels.csv") for split in ("train", "test")}
    known: Any = None if any(lists.values()) else OFFICIAL["train"]
    found = read_folders(source, CLASSES, 1, known)
    names = {path: posixpath.basename(path) for path, _, _ in found.rows}
    crops = sum(posixpath.splitext(name)[0].endswith("_aligned") for name in names.values())
    if (images == "aligned") != bool(crops) or crops not in (0, len(names)):
        which = f"{crops:,} of its {len(names):,} images are the aligned ones"
        remedy = f"set options: {{images: {'aligned' if crops else 'original'}}} for the dataset"
        raise UserError(f"{source.path}: holds class folders, and by name {which}; {remedy}")
    labels = {(posixpath.basename(path), split): label for path, split, label in found.rows}
    listed = set()
    for split, files in lists.items():
        for file, content in source.stream(files):
            for where, row in csv_records(f"{source.path}: {file}", content, ("image", "label")):
                number, folder = whole_number(row["label"]), labels.get((row["image"], split))
                if number is None or not 1 <= number <= len(CLASSES):
                    raise UserError(f"{where}: label is {row['label'][:40]!r}; expected a whole number from 1 to 7")
                if folder not in (None, number - 1):
                    what = f"{row['image']!r} has label {number} and lies in the folder of {folder + 1}"
                    raise UserError(f"{where}: {what}; the copy cannot be trusted: get it again")
                if folder is None:
                    raise UserError(f"{where}: {row['image'][:80]!r} is in no folder of {split}; complete the archive")
                listed.add((row["image"], split))
    if listed and len(labels) < len(found.rows):
        raise UserError(
            f"{source.path}: images of one name in several class folders, which the csv files do not tell apart"
        )
    unlisted = [path for path, split, _ in found.rows if listed and (names[path], split) not in listed]
    dropped = found.dropped | ({"images that the csv files do not name": unlisted} if unlisted else {})
    rows = []
    for (path, split, label), sample in zip(found.rows, sample_names([path for path, _, _ in found.rows]), strict=True):
        official = re.fullmatch(rf"(.*/)?({split}_\d+)(_aligned)?\.\w+", path)
        if not listed or (names[path], split) in listed:
            rows.append((official[2] if official else sample, path, split, label))
    index = pd.DataFrame(rows, columns=["sample", "path", "split", "label"])
    index = index.sort_values(["split", "sample"], ascending=[False, True], ignore_index=True)
    index.attrs |= {"dropped": dropped, "layout": f"class folders{found.numbered}"}
    return index


def _annotation(name: str, content: bytes) -> list[float]:
    """Five lines 'x y', then gender, race and age, one a line: 13 numbers."""
    try:
        values = [float(text) for text in " ".join(text_lines(name, content)).split()]
    except ValueError:
        values = []
    if len(values) != len(LANDMARKS) + len(ATTRIBUTES) or not all(map(math.isfinite, values)):
        raise UserError(f"{name}: expected five lines 'x y', then gender, race and age, one a line")
    for line, (value, (attribute, meanings)) in enumerate(zip(values[-3:], ATTRIBUTES.items(), strict=True), 6):
        if value not in range(len(meanings)):
            codes = ", ".join(f"{code} ({meaning})" for code, meaning in enumerate(meanings))
            raise UserError(f"{name}, line {line}: {attribute} is {value:g}; expected {codes}")
    return values
