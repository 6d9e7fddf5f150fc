import os
from pathlib import Path

import numpy as np
import pytest
from archives import FORMS, noise, pack

from transfer.datasets import registry
from transfer.datasets.archives import open_source
from transfer.datasets.counts import check_counts
from transfer.datasets.ferplus import COLUMNS, RAN_LISTS, label_votes
from transfer.datasets.images import stream_images
from transfer.utils.errors import UserError

# neutral happiness surprise sadness anger disgust fear contempt unknown NF
VOTES = [
    # votes                          majority argmax why
    ([0, 10, 0, 0, 0, 0, 0, 0, 0, 0], 1, 1),  # everybody agrees
    ([4, 1, 1, 1, 1, 1, 1, 0, 0, 0], 0, 0),  # the votes of 1 go, and 4 of 4 are left
    ([5, 5, 0, 0, 0, 0, 0, 0, 0, 0], -1, 0),  # a tie: half is not more than half
    ([5, 3, 2, 0, 0, 0, 0, 0, 0, 0], -1, 0),  # exactly half
    ([5, 3, 1, 0, 0, 0, 0, 0, 0, 1], 0, 0),  # 5 of 8
    ([0, 0, 3, 2, 2, 0, 0, 0, 2, 1], -1, 2),  # 3 of 9
    ([0, 0, 4, 0, 0, 0, 2, 0, 2, 2], -1, 2),  # unknown and NF count in the sum: 4 of 10
    ([2, 0, 0, 0, 0, 0, 0, 0, 8, 0], -1, -1),  # unknown wins
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 10], -1, -1),  # no face
    ([0, 0, 0, 0, 0, 0, 0, 4, 4, 2], -1, 7),  # argmax takes the first of a tie
    ([0, 0, 0, 0, 0, 0, 0, 6, 4, 0], 7, 7),  # contempt is the eighth class
    ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], -1, 0),  # nothing is left
    ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], -1, -1),  # nobody voted
]
SPLITS = {"FER2013Train": ("train", VOTES[:6]), "FER2013Valid": ("val", VOTES[6:9]), "FER2013Test": ("test", VOTES[9:])}
TO_FER2013 = {"anger": 0, "disgust": 1, "fear": 2, "happiness": 3, "sadness": 4, "surprise": 5, "neutral": 6}
USAGE = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}


@pytest.mark.parametrize(("rule", "column"), [("majority", 1), ("argmax", 2)])
def test_rules(rule, column):
    votes = np.array([row[0] for row in VOTES])
    assert label_votes(votes, rule).tolist() == [row[column] for row in VOTES]


def png_form(boxes=True):
    files, number = {}, 0
    for folder, (_, rows) in SPLITS.items():
        lines = []
        for votes, *_ in rows:
            name = f"fer{number:07d}.png"
            files[f"ferplus/{folder}/{name}"] = noise(number, 48, 48, "L")[0]
            box = '"(0, 0, 48, 48)",' if boxes else ""
            lines.append(f"{name},{box}{','.join(map(str, votes))}\n")
            number += 1
        files[f"ferplus/{folder}/label.csv"] = "".join(lines).encode()
    return files


def csv_form():
    """The same images with the same names; in the training split a row without a name comes second."""
    pixels, new, number = ["emotion,pixels,Usage"], ["Usage,Image name," + ",".join(COLUMNS)], 0
    for split, rows in SPLITS.values():
        for votes, *_ in rows:
            image = " ".join(map(str, noise(number, 48, 48, "L")[1].ravel()))
            code = TO_FER2013.get(COLUMNS[int(np.argmax(votes))], 6)
            pixels.append(f"{code},{image},{USAGE[split]}")
            new.append(f"{USAGE[split]},fer{number:07d}.png,{','.join(map(str, votes))}")
            if number == 0:
                pixels.append(f"0,{image},{USAGE[split]}")
                new.append(f"{USAGE[split]},,0,0,0,0,0,0,0,0,0,10")
            number += 1
    return {"x/fer2013.csv": "\n".join(pixels).encode(), "x/fer2013new.csv": "\r\n".join(new).encode()}


def index(files, tmp_path, form="folder", **options):
    with open_source(pack(files, form, tmp_path / "ferplus")) as source:
        return registry.get("ferplus").index(source, **options)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", ["majority", "argmax"])
def test_both_forms_give_the_same(form, rule, tmp_path):
    column = {"majority": 1, "argmax": 2}[rule]
    wanted = [
        (f"fer{i:07d}", split, row[column])
        for i, (split, row) in enumerate((split, row) for split, rows in SPLITS.values() for row in rows)
        if row[column] >= 0
    ]
    for files, unnamed in ((png_form(), 0), (png_form(boxes=False), 0), (csv_form(), 1)):
        folder = tmp_path / str(len(os.listdir(tmp_path)))
        folder.mkdir()
        with open_source(pack(files, form, folder / "ferplus")) as source:
            table = registry.get("ferplus").index(source, rule=rule)
            assert list(zip(table["sample"], table["split"], table["label"], strict=True)) == wanted
            assert list(table.columns[:5]) == ["sample", "path", "split", "label", "class_name"]
            assert table["class_name"].tolist() == [COLUMNS[label] for _, _, label in wanted]
            votes = table[[f"vote_{name}" for name in COLUMNS]]
            assert votes.to_numpy().tolist() == [row[0] for row in VOTES if row[column] >= 0]
            assert table.attrs["dropped"] == {"unnamed": unnamed, "unlabelled": len(VOTES) - len(wanted)}
            images = {position: image for position, image, _ in stream_images(source, table["path"])}
        for position, sample in enumerate(table["sample"]):
            pixels = noise(int(sample[3:]), 48, 48, "L")[1]
            assert (images[position] == pixels[..., None]).all() and images[position].shape == (48, 48, 3)


def test_paths_of_the_csv_form_are_data_rows(tmp_path):
    table = index(csv_form(), tmp_path, rule="argmax")
    assert table["path"].tolist()[:3] == ["x/fer2013.csv#0", "x/fer2013.csv#2", "x/fer2013.csv#3"]


def test_microsofts_clone_with_votes_only(tmp_path):
    clone = {f"data/{name}": content for name, content in png_form().items() if name.endswith("label.csv")}
    table = index(csv_form() | clone, tmp_path)
    assert table["path"][0] == "x/fer2013.csv#0"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('fer0000009.png,"(0, 0, 48, 48)",1,2,3', "5 columns; expected 12: Image name,box,neutral"),
        ('fer0000009.png,"(0, 0, 48, 48)",1,2,3,4,5,6,7,8,9,10,11', "13 columns"),
        ('fer0000009.png,"(0, 0, 48, 48)",1,2,3,4,5,6,7,8,9,x', "expected ten whole numbers"),
        ('fer0000009.png,"(0, 0, 48, 48)",1,2,3,4,5,6,7,8,9,-1', "expected ten whole numbers"),
        ('fer0000009.png,"(0, 0, 48, 48)",1,2,3,4,5,6,7,8,9,1.5', "expected ten whole numbers"),
        ('fer0000009.png,"(0, 0, 48, 48)",1,2,3,4,5,6,7,8,9,', "expected ten whole numbers"),
    ],
)
def test_bad_label_row(row, message, tmp_path):
    files = png_form()
    name = "ferplus/FER2013Valid/label.csv"
    files[name] = files[name].splitlines(keepends=True)[0] + row.encode()
    with pytest.raises(UserError, match=rf"{name}, line 2: .*{message}"):
        index(files, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"Usage,Image name,neutral", b"usage,name,neutral", "line 1: expected the header Usage,Image name,neutral"),
        (b"Training,fer0000001.png,4,", b"Training,fer0000001.png,", "line 4: 11 columns; expected 12"),
        (b"Training,fer0000001.png,4,", b"Training,fer0000001.png,four,", "line 4: votes are four,.*whole numbers"),
        (b"Training,fer0000001", b"Test,fer0000001", "line 4: Usage is 'Test'; expected Training, PublicTest"),
        (
            b"Training,fer0000001",
            b"PublicTest,fer0000001",
            r"line 4: Usage is not that of the same row of x/fer2013\.csv",
        ),
        (b"Training,fer0000001.png,4,1,1,1,1,1,1,0,0,0\r\n", b"", "the files do not belong together"),
        (b"PrivateTest,fer0000012.png,0,0,0,0,0,0,0,0,0,0", b"", "has 13 rows and x/fer2013.csv 14"),
    ],
)
def test_bad_votes_file(old, new, message, tmp_path):
    files = csv_form()
    assert old in files["x/fer2013new.csv"]
    files["x/fer2013new.csv"] = files["x/fer2013new.csv"].replace(old, new)
    with pytest.raises(UserError, match=message):
        index(files, tmp_path)


def test_bad_pixels_file(tmp_path):
    files = csv_form()
    lines = files["x/fer2013.csv"].split(b"\n")
    for bad, message in (
        ([b"label,image"] + lines[1:], "line 1: expected the header pixels,Usage, found 'label,image'"),
        (lines[:3] + [b"0,Training"] + lines[4:], "line 4: 2 columns; expected 3"),
    ):
        with pytest.raises(UserError, match=rf"x/fer2013\.csv, {message}"):
            index(files | {"x/fer2013.csv": b"\n".join(bad)}, tmp_path)


@pytest.mark.parametrize("absent", ["x/fer2013.csv", "x/fer2013new.csv"])
def test_one_csv_is_not_enough(absent, tmp_path):
    files = csv_form()
    del files[absent]
    with pytest.raises(UserError, match=f"holds no {absent[2:]}"):
        index(files, tmp_path)


def test_absent_images(tmp_path):
    files = png_form()
    del files["ferplus/FER2013Train/fer0000001.png"]
    message = (
        r"1 of 4 listed images are absent \(train 1 of 3, test 0 of 1\), "
        r"first ferplus/FER2013Train/fer0000001\.png;"
    )
    with pytest.raises(UserError, match=message):
        index(files, tmp_path)
    attrs = index(files, tmp_path, missing="drop").attrs
    assert (attrs["missing"], attrs["dropped"]) == (1, {"unnamed": 0, "unlabelled": 9})
    first = [f"ferplus/FER2013Test/fer00000{n}.png" for n in ("09", "11", "12")]
    left_out = {"unlabelled": {"files": 9, "first": first}}
    assert attrs["files"] == {"total": 15, "indexed": 3, "read": 3, "left_out": left_out, "damaged": {}}


def write_lists(folder, train, test):
    for entry, rows in zip(RAN_LISTS.values(), (train, test), strict=True):
        path = folder / entry.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{label}/fer{number:07d} 6\n" for number, label in rows))
    return {entry.file: folder / entry.file for entry in RAN_LISTS.values()}


# Images 0-5 are the training split, 6-8 the validation split, 9-12 the test split; only 0, 1, 4 and 10 have a majority.
RAN_TRAIN, RAN_TEST = [(0, 1), (4, 2), (1, 0), (7, 3)], [(10, 7)]


@pytest.mark.parametrize("make", [png_form, csv_form])
def test_ran_lists_decide_images_labels_and_splits(make, tmp_path):
    write_lists(tmp_path, RAN_TRAIN, RAN_TEST)
    table = index(make(), tmp_path, rule="ran", raw_dir=tmp_path)
    assert table["sample"].tolist() == ["fer0000000", "fer0000004", "fer0000001", "fer0000007", "fer0000010"]
    assert table["label"].tolist() == [1, 2, 0, 3, 7] and table["label"].dtype == np.int64
    assert table["split"].tolist() == ["train"] * 4 + ["test"]
    assert table["class_name"].tolist() == ["happiness", "surprise", "neutral", "sadness", "contempt"]
    assert table[[f"vote_{name}" for name in COLUMNS]].to_numpy().tolist() == [VOTES[i][0] for i in (0, 4, 1, 7, 10)]
    assert table.attrs["dropped"] == {"unnamed": int(make is csv_form), "unlisted": 8}
    assert table.attrs["noted"] == {"label is not the majority of the votes": 2}
    majority = index(make(), tmp_path, rule="majority").set_index("sample")["path"]
    assert table["path"].tolist()[:2] == majority[["fer0000000", "fer0000004"]].tolist()


def test_ran_lists_name_images_that_are_absent(tmp_path):
    write_lists(tmp_path, RAN_TRAIN, [*RAN_TEST, (20, 0), (21, 1)])
    message = r"2 of 7 listed images are absent \(train 0 of 4, test 2 of 3\), first fer0000020\.png, fer0000021\.png;"
    with pytest.raises(UserError, match=message):
        index(png_form(), tmp_path, rule="ran", raw_dir=tmp_path)
    table = index(png_form(), tmp_path, rule="ran", raw_dir=tmp_path, missing="drop")
    assert len(table) == 5 and table.attrs["missing"] == 2


def test_ran_lists_that_are_not_there_or_broken(tmp_path):
    with pytest.raises(
        UserError, match=r"ferplus with rule ran needs .*train_center_crop_range_list\.txt; .*transfer fetch"
    ):
        index(png_form(), tmp_path, rule="ran", raw_dir=tmp_path)
    write_lists(tmp_path, RAN_TRAIN, RAN_TEST)
    (tmp_path / RAN_LISTS["test"].file).write_text("0/fer0000010 6\n0/fer0000011.png 6\n")
    message = (
        r"val_center_crop_range_list\.txt, line 2: '0/fer0000011\.png 6'; expected a line such as '0/fer0000001 6'"
    )
    with pytest.raises(UserError, match=message):
        index(png_form(), tmp_path, rule="ran", raw_dir=tmp_path)
    write_lists(tmp_path, [*RAN_TRAIN, (0, 1)], RAN_TEST)
    with pytest.raises(UserError, match="1 images are listed twice, such as fer0000000"):
        index(png_form(), tmp_path, rule="ran", raw_dir=tmp_path)


def test_other_rules_need_no_lists(tmp_path):
    parser = registry.get("ferplus")
    assert parser.lists(tmp_path) == parser.lists(tmp_path, rule="argmax") == {}
    lists = write_lists(tmp_path, RAN_TRAIN, RAN_TEST)
    assert parser.lists(tmp_path, rule="ran") == lists


def test_official_counts():
    parser = registry.get("ferplus")
    totals = {
        rule: [
            {split: n if isinstance(n, int) else sum(n) for split, n in counts.items()}
            for counts in parser.official(rule=rule)
        ]
        for rule in ("majority", "argmax")
    }
    assert totals["majority"][0] == {"train": 25_060, "val": 3_199, "test": 3_153}
    assert totals["argmax"][0] == {"train": 28_389, "val": 3_553, "test": 3_546}
    # Microsoft's label.csv files; the RAN authors' lists have 28,236 images in train + val and 3,137 in test
    assert totals["majority"][1] == {"train": 25_045, "val": 3_191, "test": 3_137}
    assert sum(parser.official(rule="ran")[0]["train"]) == 28_236 == 25_045 + 3_191
    assert sum(parser.official(rule="ran")[0]["test"]) == 3_137
    older = parser.official(rule="majority")[1]
    both = [a + b for a, b in zip(older["train"], older["val"], strict=True)]
    assert parser.official(rule="ran") == [{"train": both, "test": older["test"]}], "the older votes' majority"
    assert totals["argmax"][1] == {"train": 28_385, "val": 3_555, "test": 3_545}


@pytest.mark.skipif("TRANSFER_FERPLUS" not in os.environ, reason="TRANSFER_FERPLUS names no FERPlus archive")
@pytest.mark.parametrize("rule", ["majority", "argmax"])
def test_development_split(rule):
    """The archive is a re-split for development: its train + val are the official train, its test the official val."""
    parser = registry.get("ferplus")
    with open_source(Path(os.environ["TRANSFER_FERPLUS"])) as source:
        table = parser.index(source, rule=rule)
    table["split"] = table["split"].map({"train": "train", "val": "train", "test": "val"})
    label_csv = parser.official(rule=rule)[1]
    for split in ("train", "val"):
        assert table.loc[table["split"] == split, "label"].value_counts().sort_index().tolist() == label_csv[split]
    with pytest.raises(UserError, match="no test image"):
        check_counts(table, parser.classes())
