"""FERPlus: FER2013's images with Microsoft's ten-tagger votes, as PNG folders or as the two csv files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.datasets.archives import Source
from transfer.datasets.registry import Counts, dataset
from transfer.datasets.text import LISTS_FOLDER, NameList, csv_rows, read_list
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Parsed = tuple[list[tuple[str, str, str]], list[list[int]], int]
    """(sample, path, split) and votes of each row, and the number of rows without a name."""

CLASSES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]
COLUMNS = [*CLASSES, "unknown", "NF"]
VOTES = [f"vote_{name}" for name in COLUMNS]
FOLDERS = {"FER2013Train": "train", "FER2013Valid": "val", "FER2013Test": "test"}
USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}

# The RAN authors' lists (kaiwang960112/Challenge-condition-FER-dataset); a line is label, name and number of crops.
_LINE = {"pattern": r"(?P<label>[0-7])/(?P<name>fer\d+) \d+", "example": "0/fer0000001 6"}
RAN_LISTS = {
    split: NameList(f"{LISTS_FOLDER}/FERplus_dir/dlib_ferplus_{part}_center_crop_range_list.txt", **_LINE)
    for split, part in (("train", "train"), ("test", "val"))
}

# Two versions of the votes are in use: fer2013new.csv first, then the label.csv files that were once shipped with it
# and differ from it in a few rows. Under the majority rule the latter give the RAN authors' lists, class by class.
OFFICIAL: dict[str, list[Counts]] = {
    "majority": [
        {"train": [8740, 7287, 3149, 3014, 2100, 119, 532, 119], "val": [1182, 865, 415, 351, 287, 24, 62, 13],
         "test": [1090, 893, 396, 384, 273, 18, 83, 16]},
        {"train": [8733, 7284, 3136, 3022, 2098, 116, 536, 120], "val": [1180, 862, 411, 348, 289, 25, 60, 16],
         "test": [1083, 892, 394, 382, 269, 16, 86, 15]},
    ],
    "argmax": [
        {"train": 28389, "val": 3553, "test": [1262, 928, 444, 444, 325, 23, 93, 27]},
        {"train": [10295, 7526, 3557, 3530, 2463, 191, 655, 168], "val": [1329, 899, 458, 415, 325, 32, 71, 26],
         "test": 3545},
    ],
    "ran": [
        {"train": [9913, 8146, 3547, 3370, 2387, 141, 596, 136], "test": [1083, 892, 394, 382, 269, 16, 86, 15]},
    ],
}  # fmt: skip


def _lists(rule: str) -> dict[str, str]:
    wanted = RAN_LISTS.values() if rule == "ran" else ()
    return {entry.file: "download it with `transfer fetch ran_ferplus`" for entry in wanted}


@dataset(
    "ferplus",
    classes=lambda rule: list(CLASSES),
    official=lambda rule: OFFICIAL[rule],
    options={"rule": ("majority", "argmax", "ran")},
    lists=_lists,
)
def read(source: Source, rule: str, lists: Mapping[str, Path] | None = None) -> "pd.DataFrame":
    """Index of the images that have a label under ``rule``, with their ten votes in ``vote_*``.

    "ran" takes images and labels from the RAN authors' ``lists``, for "majority" and "argmax" see `label_votes`.
    """
    import numpy as np
    import pandas as pd

    # The folders of Microsoft's repository hold a label.csv even before their images are made from fer2013.csv.
    folders = source.find_all("FER2013Train/label.csv") and not source.find_all("fer2013.csv")
    rows, vote_rows, unnamed = _from_folders(source) if folders else _from_csv(source)
    index = pd.DataFrame(rows, columns=["sample", "path", "split"])
    votes = np.array(vote_rows, dtype=np.int64).reshape(-1, len(COLUMNS))
    index["label"] = label_votes(votes, "majority" if rule == "ran" else rule)
    index[VOTES] = votes
    if lists:
        return _as_listed(index, lists, unnamed)
    labelled = index[index["label"] >= 0].reset_index(drop=True)
    labelled.attrs["dropped"] = {"unnamed": unnamed, "unlabelled": len(index) - len(labelled)}
    return labelled


def _as_listed(index: "pd.DataFrame", lists: Mapping[str, Path], unnamed: int) -> "pd.DataFrame":
    """The images of the RAN authors' lists with their labels there; what is not in ``index`` gets a path in no archive.

    Their training list holds Training and PublicTest together, and becomes the training split as it is.
    """
    import pandas as pd

    rows = [
        (name, split, label)
        for split, entry in RAN_LISTS.items()
        for name, label in read_list(lists[entry.file], entry)
    ]
    listed = pd.DataFrame(rows, columns=["sample", "split", "label"])
    found = index.drop(columns="split").rename(columns={"label": "majority"})
    listed = listed.merge(found, on="sample", how="left")
    here = listed["path"].notna()
    differs = int((here & (listed["label"] != listed["majority"])).sum())
    listed["path"] = listed["path"].where(here, listed["sample"] + ".png")
    listed[VOTES] = listed[VOTES].fillna(0).astype("int64")
    listed = listed[["sample", "path", "split", "label", *VOTES]]
    listed.attrs["dropped"] = {"unnamed": unnamed, "unlisted": int((~index["sample"].isin(listed["sample"])).sum())}
    listed.attrs["noted"] = {"label is not the majority of the votes": differs}
    return listed


def label_votes(votes: "np.ndarray", rule: str) -> "np.ndarray":
    """Labels (N,) of votes (N, 10); -1 where the rule gives none, or where "unknown" or "NF" (no face) wins.

    "majority" is Microsoft's rule (`_process_data` in src/ferplus.py): votes of 1 become 0, and the winner needs more
    than half of what is left. "argmax" takes the most voted column, the first one of a tie.
    """
    import numpy as np

    kept = np.where(votes == 1, 0, votes) if rule == "majority" else votes
    winner = kept.argmax(axis=1)
    needed = 0.5 * kept.sum(axis=1) if rule == "majority" else np.zeros(len(kept))
    return np.where((kept.max(axis=1) > needed) & (winner < len(CLASSES)), winner, -1)


def _from_folders(source: Source) -> "Parsed":
    """One label.csv per folder: file name, face box (absent in files made by the present script), ten votes."""
    label_files = {source.find(f"{folder}/label.csv"): split for folder, split in FOLDERS.items()}
    contents = dict(source.stream(label_files))
    rows, votes = [], []
    for name, split in label_files.items():
        folder = name.removesuffix("label.csv")
        for line, fields in csv_rows(name, contents[name]):
            where = f"{source.path}: {name}, line {line}"
            if len(fields) not in (len(COLUMNS) + 1, len(COLUMNS) + 2):
                raise UserError(f"{where}: {len(fields)} columns; expected file name, box and ten votes")
            rows.append((fields[0].removesuffix(".png"), folder + fields[0], split))
            votes.append(_votes(fields[-len(COLUMNS) :], where))
    return rows, votes, 0


def _from_csv(source: Source) -> "Parsed":
    """fer2013.csv (emotion, pixels, Usage) and fer2013new.csv (Usage, Image name, votes), row by row the same image."""
    pixels_name, votes_name = source.find("fer2013.csv"), source.find("fer2013new.csv")
    contents = dict(source.stream([pixels_name, votes_name]))
    usages = _usages(f"{source.path}: {pixels_name}", contents[pixels_name])
    header, apart = ["Usage", "Image name", *COLUMNS], "the files do not belong together"
    lines = csv_rows(votes_name, contents[votes_name])
    if next(lines, (0, []))[1] != header:
        raise UserError(f"{source.path}: {votes_name}, line 1: expected the header {','.join(header)}")
    rows, votes, unnamed, count = [], [], 0, 0
    for count, (line, fields) in enumerate(lines, 1):
        where = f"{source.path}: {votes_name}, line {line}"
        if _fields(where, fields, header)[0] not in USAGES:
            raise UserError(f"{where}: Usage is {fields[0]!r}; expected {', '.join(USAGES)}")
        if count > len(usages) or usages[count - 1] != fields[0]:
            raise UserError(f"{where}: Usage is not that of the same row of {pixels_name}; {apart}")
        if not fields[1]:
            unnamed += 1
            continue
        rows.append((fields[1].removesuffix(".png"), f"{pixels_name}#{count - 1}", USAGES[fields[0]]))
        votes.append(_votes(fields[2:], where))
    if count != len(usages):
        raise UserError(f"{source.path}: {votes_name} has {count} rows and {pixels_name} {len(usages)}; {apart}")
    return rows, votes, unnamed


def _usages(where: str, content: bytes) -> list[str]:
    rows = csv_rows(where, content)
    header = next(rows, (0, []))[1]
    if not {"pixels", "Usage"} <= set(header):
        raise UserError(f"{where}, line 1: expected the header emotion,pixels,Usage")
    return [_fields(f"{where}, line {line}", fields, header)[header.index("Usage")] for line, fields in rows]


def _fields(where: str, fields: list[str], header: list[str]) -> list[str]:
    if len(fields) != len(header):
        raise UserError(f"{where}: {len(fields)} columns; expected {len(header)}: {','.join(header)}")
    return fields


def _votes(fields: list[str], where: str) -> list[int]:
    if not all(re.fullmatch(r"\d+", field, re.ASCII) for field in fields):
        raise UserError(f"{where}: votes are {','.join(fields)}; expected ten whole numbers")
    return [int(field) for field in fields]
