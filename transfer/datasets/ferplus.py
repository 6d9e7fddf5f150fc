"""FERPlus: FER2013's images with Microsoft's ten-tagger votes, as PNG folders or as the two csv files."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.datasets.archives import Source
from transfer.datasets.folders import class_of, find_folders
from transfer.datasets.registry import Counts, dataset
from transfer.datasets.text import LISTS_FOLDER, NameList, csv_records, read_list, whole_number
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Parsed = tuple[list[tuple[str, str, str]], list[list[int]], list[str], dict[str, int]]
    """(sample, path, split) and votes of each row, paths of the rows without a name, and what is odd."""

CLASSES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]
COLUMNS = [*CLASSES, "unknown", "NF"]
VOTES = [f"vote_{name}" for name in COLUMNS]
FOLDERS = {"FER2013Train": "train", "FER2013Valid": "val", "FER2013Test": "test"}
PIXELS = ("fer2013.csv", "icml_face_data.csv")  # the same table, as FER2013 and as Kaggle's competition name it
USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}

# FER2013's codes as labels of FERPlus. Its single labels are noisy: by the counts per class at most 84 % of the
# training rows with a majority can agree, and 18 % agree by chance. Half tells right rows from wrong ones.
EMOTIONS = [4, 5, 6, 1, 3, 2, 0]
_LEAST_AGREEMENT, _STRETCH, _FEW = 0.5, 200, 10  # of the rows with a majority: how many are compared at once, at least

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
    pixels = next((name for name in PIXELS if source.find_all(name)), "")
    folders = source.find_all("FER2013Train/label.csv")
    named = {match[3] or "" for match in find_folders(source).values()}
    classes = [name for name in sorted(named) if class_of(name, CLASSES) is not None]
    if classes and not pixels and not folders:
        form = f"images in folders of FER2013's own labels ({', '.join(classes[:3])}, ...)"
        why = f"no name there says which row of fer2013new.csv an image is; use {' or '.join(PIXELS)} with it"
        raise UserError(f"{source.path}: holds {form}, to which the votes cannot be joined: {why}")
    rows, vote_rows, unnamed, noted = _from_csv(source, pixels) if pixels or not folders else _from_folders(source)
    index = pd.DataFrame(rows, columns=["sample", "path", "split"])
    votes = np.array(vote_rows, dtype=np.int64).reshape(-1, len(COLUMNS))
    index["label"] = label_votes(votes, "majority" if rule == "ran" else rule)
    index[VOTES] = votes
    index.attrs["noted"] = noted
    if lists:
        return _as_listed(index, lists, unnamed)
    labelled = index[index["label"] >= 0].reset_index(drop=True)
    labelled.attrs["dropped"] = {"unnamed": unnamed, "unlabelled": index["path"][index["label"] < 0].tolist()}
    return labelled


def _as_listed(index: "pd.DataFrame", lists: Mapping[str, Path], unnamed: list[str]) -> "pd.DataFrame":
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
    unlisted = index["path"][~index["sample"].isin(listed["sample"])].tolist()
    listed.attrs["dropped"] = {"unnamed": unnamed, "unlisted": unlisted}
    listed.attrs["noted"] = index.attrs["noted"] | {"label is not the majority of the votes": differs}
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
    columns, rows, votes = ["Image name", *COLUMNS], [], []
    for name, split in label_files.items():
        folder = name.removesuffix("label.csv")
        source.require(folder)
        layouts = columns, ["Image name", "box", *COLUMNS]
        for where, row in csv_records(f"{source.path}: {name}", contents[name], columns, bare=layouts):
            image = row["Image name"]
            rows.append((image.removesuffix(".png"), folder + image, split))
            votes.append(_votes(row, where))
    return rows, votes, [], {}


def _from_csv(source: Source, pixels: str) -> "Parsed":
    """fer2013.csv (emotion, pixels, Usage) and fer2013new.csv (Usage, Image name, votes), row by row the same image."""
    pixels_name, votes_name = source.find(pixels or PIXELS[0]), source.find("fer2013new.csv")
    contents = dict(source.stream([pixels_name, votes_name]))
    apart, columns = "the files do not belong together", ("Usage", "Image name", *COLUMNS)
    images = list(
        csv_records(f"{source.path}: {pixels_name}", contents[pixels_name], ("pixels", "Usage"), ("emotion",))
    )
    # What follows needs no pixels: 0.3 GB of text.
    emotions = [(where, row.get("emotion"), row["Usage"]) for where, row in images]
    del images
    rows, votes, unnamed, all_votes, count = [], [], [], [], 0
    lines = csv_records(f"{source.path}: {votes_name}", contents[votes_name], columns)
    for count, (where, row) in enumerate(lines, 1):
        usage, name, path = row["Usage"], row["Image name"], f"{pixels_name}#{count - 1}"
        if usage not in USAGES:
            raise UserError(f"{where}: Usage is {usage!r}; expected {', '.join(USAGES)}")
        if count > len(emotions) or emotions[count - 1][2] != usage:
            raise UserError(f"{where}: Usage is not that of the same row of {pixels_name}; {apart}")
        all_votes.append(_votes(row, where))
        if name:
            rows.append((name.removesuffix(".png"), path, USAGES[usage]))
            votes.append(all_votes[-1])
        else:
            unnamed.append(path)
    if count != len(emotions):
        raise UserError(f"{source.path}: {votes_name} has {count} rows and {pixels_name} {len(emotions)}; {apart}")
    return rows, votes, unnamed, _check_emotions(emotions, all_votes)


def _check_emotions(emotions: list[tuple[str, str | None, str]], votes: list[list[int]]) -> dict[str, int]:
    """Rows whose emotion is not the majority of their votes; UserError for a stretch of rows that seem to be others."""
    import numpy as np

    codes = []
    for where, text, _ in emotions:
        code = None if text is None else whole_number(text)
        if text is not None and (code is None or not 0 <= code < len(EMOTIONS)):
            raise UserError(f"{where}: emotion is {text[:40]!r}; expected a whole number from 0 to {len(EMOTIONS) - 1}")
        codes.append(-1 if code is None else EMOTIONS[code])
    labels = label_votes(np.array(votes).reshape(-1, len(COLUMNS)), "majority")
    # FER2013 has no contempt.
    compared = np.flatnonzero((labels >= 0) & (labels < len(EMOTIONS)) & (np.array(codes) >= 0))
    if len(compared) < _FEW:
        return {}
    for stretch in np.array_split(compared, max(1, len(compared) // _STRETCH)):
        same = int((labels[stretch] == np.array(codes)[stretch]).sum())
        if same < _LEAST_AGREEMENT * len(stretch):
            what = f"emotion is the majority of the votes in {same} of {len(stretch)} rows from there on"
            why = "the rows of fer2013new.csv are in another order: get both files again, unsorted"
            raise UserError(f"{emotions[stretch[0]][0]}: {what}; {why}")
    differs = int((labels[compared] != np.array(codes)[compared]).sum())
    return {"FER2013's emotion is not the majority of the votes": differs}


def _votes(row: Mapping[str, str], where: str) -> list[int]:
    votes = [number for column in COLUMNS if (number := whole_number(row[column])) is not None and number >= 0]
    if len(votes) < len(COLUMNS):
        shown = ",".join(row[column] for column in COLUMNS)[:80]
        raise UserError(f"{where}: votes are {shown}; expected ten whole numbers")
    return votes
