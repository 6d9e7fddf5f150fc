"""The forms in which people hold the datasets: read to the last label, or refused in a line that names the form."""

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archives import noise, pack
from test_affectnet import POINTS, npy
from test_ferplus import TO_FER2013, USAGE

from transfer.datasets import affectnet, ferplus, rafdb, registry
from transfer.datasets.archives import Source, Storage, open_source
from transfer.datasets.counts import check_counts, in_words, index_summary
from transfer.datasets.folders import read_folders
from transfer.utils.errors import UserError


def index(parser, files, folder, form="folder", **options):
    folder.mkdir(exist_ok=True)
    with open_source(pack(files, form, folder / "data")) as source:
        table = registry.get(parser).index(source, **options)
        files_block = table.attrs["files"]
        left = sum(entry["files"] for entry in files_block["left_out"].values())
        assert files_block["total"] == files_block["indexed"] + files_block["read"] + left
    return table


def labels(table):
    return dict(zip(table["path"], table["label"], strict=True))


def picture(number):
    return noise(number, 8, 8, suffix="jpg")[0]


# Class folders of AffectNet


def class_folders(names, train=4, test=1, splits=("train", "val"), counts=None):
    """{path: content} and {path: label}; ``names`` are the folders of the classes 0, 1, ..."""
    files, truth = {}, {}
    for split, number in zip(splits, (train, test), strict=True):
        for label, name in enumerate(names):
            for k in range(counts[label] if counts is not None and split == splits[0] else number):
                path = f"x/{split}/{name}/{k}.jpg"
                files[path], truth[path] = f"{path}".encode(), label
    return files, truth


WORDS = ["Neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt"]
ALPHABETICAL = sorted(affectnet.CLASSES)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (range(8), ("train", "val")),
        ([f"class{n:03d}" for n in range(1, 9)], ("train_class", "val_class")),
        (WORDS, ("train", "val")),
        (affectnet.CLASSES, ("Train", "Test")),
    ],
)
def test_class_folders(names, splits, tmp_path):
    files, truth = class_folders(names, splits=splits)
    table = index("affectnet", files, tmp_path, classes=8, release="folders")
    assert labels(table) == truth and table["sample"].is_unique and len(table) == 40
    assert table["split"].value_counts().to_dict() == {"train": 32, "test": 8}
    seven = index("affectnet", files, tmp_path, classes=7, release="folders")
    assert labels(seven) == {path: label for path, label in truth.items() if label < 7}
    assert seven.attrs["dropped"] == {"contempt": 5}


def test_validation_and_test_folders_are_two_splits(tmp_path):
    files, truth = class_folders(WORDS)
    more, others = class_folders(WORDS, splits=("train", "test"))
    table = index("affectnet", files | more, tmp_path, classes=8, release="folders")
    assert labels(table) == truth | others
    assert table["split"].value_counts().to_dict() == {"train": 32, "val": 8, "test": 8}


def test_names_and_suffixes_of_images(tmp_path):
    files, truth = class_folders(range(8))
    for path, label in {"x/train/3/0.JPG": 3, "x/train/3/0.bmp": 3, "x/val/3/a.WebP": 3}.items():
        files[path], truth[path] = b"3", label
    files |= {f"x/train/{n}/part/deep.jpg": b"d" for n in range(8)}
    files |= {"x/train/8/a.jpg": b"8", "x/train/10/a.png": b"10", "x/train/11/a.jpg": b"11", "x/train/b.jpg": b"b"}
    files |= {"x/readme.txt": b"", "x/other.jpg": b"o"}
    table = index("affectnet", files, tmp_path, classes=8, release="folders")
    assert labels(table) == truth and table["sample"].is_unique
    assert table.attrs["dropped"] == {
        "none": 1,
        "no_face": 1,
        "images in folders of no class": 2,
        "images in sub-folders of a class folder": 8,
    }
    left_out = {why: entry["files"] for why, entry in table.attrs["files"]["left_out"].items()}
    assert left_out == table.attrs["dropped"] | {"images that nothing names": 1, "other files": 1}
    assert "1 images that nothing names" in in_words(table) and "3 surprise 6" in in_words(table)
    about = {"dataset": "d", "archive": tmp_path, "parser": "affectnet", "options": {}, "expect": "any"}
    summary = index_summary(table, affectnet.CLASSES, **about)
    assert summary["left_out"]["images in sub-folders of a class folder"] == 8 and json.dumps(summary)


OFFICIAL = [749, 1344, 255, 141, 64, 38, 249, 38]


def test_alphabetical_numbers_are_no_official_ones(tmp_path):
    counts = [OFFICIAL[affectnet.CLASSES.index(name)] for name in ALPHABETICAL]
    files, _ = class_folders(range(8), counts=counts)
    with pytest.raises(
        UserError, match=r"\(0: 249, .*\) are those of the classes in alphabetical order; .*classes\.txt"
    ):
        index("affectnet", files, tmp_path, classes=8, release="folders")
    files["x/classes.txt"] = "\n".join(ALPHABETICAL).encode()
    table = index("affectnet", files, tmp_path, classes=8, release="folders")
    assert table["class_name"][0] == "anger" and (table["class_name"] == "neutral").sum() == 749 + 1
    del files["x/classes.txt"]
    numbered = {
        path.replace("/train/", "/train_class/class00").replace("/val/", "/val_class/class00"): content
        for path, content in files.items()
    }
    files = {path.replace("class000", "class008"): content for path, content in numbered.items()}
    with pytest.raises(UserError, match="data: .*"):
        index("affectnet", class_folders(range(1, 9), counts=counts)[0], tmp_path / "1", classes=8, release="folders")


def test_seven_alphabetical_numbers(tmp_path):
    names = sorted(affectnet.CLASSES[:7])
    files, _ = class_folders(range(7), counts=[OFFICIAL[affectnet.CLASSES.index(name)] for name in names])
    with pytest.raises(UserError, match="are those of the classes in alphabetical order"):
        index("affectnet", files, tmp_path, classes=7, release="folders")
    files, truth = class_folders(range(7), counts=OFFICIAL[:7])
    assert labels(index("affectnet", files, tmp_path / "2", classes=7, release="folders")) == truth


def numbered(names, official):
    """The class folders of an archive of many files, of which nothing but the names is read."""
    source = Source(Path("data"))
    source.add(Storage(Path("data"), dict.fromkeys(names), {}, str, len, iter), {name: name for name in names})
    return read_folders(source, affectnet.CLASSES, 0, official)


def test_counts_that_cannot_tell_one_order_from_another(tmp_path):
    """As many images of each class as of any other; or, as on Kaggle, up to a limit, which can tell."""
    balanced, _ = class_folders(range(8), counts=[125] * 8)
    with pytest.raises(UserError, match=r"\(0: 125, .*\) do not tell whether the numbers are the official ones; which"):
        index("affectnet", balanced, tmp_path, classes=8, release="folders")
    balanced["x/classes.txt"] = "\n".join(ALPHABETICAL).encode()
    table = index("affectnet", balanced, tmp_path, classes=8, release="folders")
    assert set(table["class_name"][table["path"].str.contains("/0/")]) == {"anger"}
    official = [74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750]
    limited = [min(n, 5000) for n in official]
    assert sum(limited) == 37_553, "the copy of eight folders"
    names, truth = class_folders([f"class{n:03d}" for n in range(1, 9)], counts=limited)
    assert {path: label for path, _, label in numbered(names, official).rows} == truth
    by_name = [limited[affectnet.CLASSES.index(name)] for name in ALPHABETICAL]
    with pytest.raises(UserError, match="are those of the classes in alphabetical order"):
        numbered(class_folders(range(8), counts=by_name)[0], official)
    names = sorted(rafdb.CLASSES)
    files = {
        f"{split}/{number}/{k}_aligned.jpg": b""
        for split in ("train", "test")
        for number in range(1, 8)
        for k in range(150)
    }
    with pytest.raises(UserError, match="do not tell whether the numbers are the official ones"):
        index("rafdb", files, tmp_path / "4", images="aligned")
    files["classes.txt"] = "\n".join(names).encode()
    assert index("rafdb", files, tmp_path / "5", images="aligned")["class_name"].value_counts().nunique() == 1


def test_numbers_from_one(tmp_path):
    files, truth = class_folders(range(1, 9), counts=OFFICIAL)
    assert labels(index("affectnet", files, tmp_path, classes=8, release="folders")) == truth
    files, truth = class_folders(range(1, 9))
    with pytest.raises(UserError, match=r"class folders 1 to 8, where the official numbers start at 0; which class"):
        index("affectnet", files, tmp_path / "2", classes=8, release="folders")
    files["x/classes.txt"] = "".join(f"{n + 1} {name}\n" for n, name in enumerate(affectnet.CLASSES)).encode()
    assert labels(index("affectnet", files, tmp_path / "3", classes=8, release="folders")) == truth
    for text, message in (
        ("anger\n", r"1 lines for 8 numbered folders"),
        ("1 anger\n1 joy\n", r"1 'joy'; expected a number and one of"),
        ("1 anger\n2 angry\n", r"2 'angry'; expected"),
    ):
        files["x/classes.txt"] = text.encode()
        with pytest.raises(UserError, match=rf"data: x/classes\.txt: {message}"):
            index("affectnet", files, tmp_path / "3", classes=8, release="folders")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"x/train/anger/a.jpg": b""}, "class folders by name and by number"),
        ({"x/train/00/a.jpg": b""}, "two class folders have one number"),
        ({"y/train/0/a.jpg": b""}, r"class folders in 2 places \('x/', 'y/'\); keep one"),
        ({"more.zip": b"PK\3\4"}, r"data/more\.zip: truncated or corrupt"),
    ],
)
def test_class_folders_that_leave_doubt(more, message, tmp_path):
    with pytest.raises(UserError, match=message):
        index("affectnet", class_folders(range(8))[0] | more, tmp_path, classes=8, release="folders")


# AffectNet's csv files


def full(header, rows, sep=",", encoding="utf-8", header_names=None, extra=()):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=sep)
    writer.writerow([*(header_names or header), *extra])
    for row in rows:
        writer.writerow([*(row[name] for name in header), *("x" for _ in extra)])
    return text.getvalue().encode(encoding)


def full_release(**form):
    header = form.pop("header", affectnet.HEADER)
    files, truth, number = {}, {}, 0
    for name in ("training.csv", "validation.csv"):
        rows = []
        for code in range(8):
            path = f"{number % 3}/{number:04d}.jpg"
            values = [path, 1, 2, 30, 40, ";".join(map(str, POINTS.ravel())), code, 0.1 * code, -0.05 * code]
            rows.append(dict(zip(affectnet.HEADER, values, strict=True)))
            rows[-1] |= {"": number, "expression": form.get("code", "{}").format(code)}
            files[f"{affectnet.IMAGES}/{path}"], truth[f"{affectnet.IMAGES}/{path}"] = b"i", code
            number += 1
        files[name] = full(header, rows, **{key: value for key, value in form.items() if key != "code"})
    return files, truth


@pytest.mark.parametrize(
    "form",
    [
        {"header": [*affectnet.HEADER[:7], "arousal", "valence"]},
        {"header": affectnet.HEADER[::-1]},
        {"header": ["", *affectnet.HEADER]},
        {"sep": ";"},
        {"sep": "\t"},
        {"code": "{}.0"},
        {"encoding": "utf-16"},
        {"encoding": "utf-8-sig"},
        {"extra": ["comment", "fold"]},
    ],
)
def test_columns_by_name(form, tmp_path):
    files, truth = full_release(**form)
    table = index("affectnet", files, tmp_path, classes=8)
    assert labels(table) == truth
    assert np.allclose(table["valence"], 0.1 * table["label"]) and np.allclose(table["arousal"], -0.05 * table["label"])
    assert table[registry.LANDMARKS].notna().all(axis=None)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            {"header_names": ["path", *affectnet.HEADER[1:]]},
            r"expected the header subDirectory_filePath,expression, found",
        ),
        ({"header_names": [*affectnet.HEADER[:8], "expression"]}, r"found '.*' \(a column is there twice\)"),
        ({"code": "{}.5"}, r"line 2: expression is '0\.5'; expected a whole number from 0 to 10"),
        ({"code": "{}" + "1" * 5000}, r"line 2: expression is '0111\S{0,40}'; expected a whole number"),
        ({"encoding": "utf-32"}, "not a UTF-8 text file"),
    ],
)
def test_columns_that_do_not_fit(form, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        index("affectnet", full_release(**form)[0], tmp_path, classes=8)
    assert "data: training.csv" in str(error.value) and len(str(error.value)) < 500


def test_reduced_release_as_floats_and_without_labels(tmp_path):
    files, truth = {}, {}
    for split in ("train_set", "val_set"):
        for code in range(8):
            path = f"{split}/images/{code}.{'png' if code == 3 else 'jpg'}"
            files[path], truth[path] = picture(code), code
            files[f"{split}/annotations/{code}_exp.npy"] = npy(np.float64(code))
            files[f"{split}/annotations/{code}_lnd.npy"] = npy(POINTS)
    del files["train_set/annotations/5_exp.npy"]
    files["train_set/images/77.jpg"] = picture(77)
    table = index("affectnet", files, tmp_path, "zip", classes=8, release="reduced")
    assert labels(table) == {path: code for path, code in truth.items() if path != "train_set/images/5.jpg"}
    assert table.attrs["dropped"] == {"images without an expression": 2}
    files["val_set/annotations/1_exp.npy"] = npy(np.float64(1.5))
    with pytest.raises(UserError, match=r"val_set/annotations/1_exp\.npy: expression is '1\.5'; expected"):
        index("affectnet", files, tmp_path, "zip", classes=8, release="reduced")


# RAF-DB


def kaggle_rafdb(per=3):
    files, truth = {}, {}
    for split, count, digits in (("train", per, 5), ("test", 1, 4)):
        rows, number = ["image,label"], 0
        for label in range(7):
            for _ in range(count):
                number += 1
                name = f"{split}_{number:0{digits}d}_aligned.jpg"
                path = f"DATASET/{split}/{label + 1}/{name}"
                files[path], truth[path] = path.encode(), label
                rows.append(f"{name},{label + 1}")
        files[f"{split}_labels.csv"] = "\n".join(rows).encode()
    return files, truth


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_kaggles_rafdb(form, tmp_path):
    files, truth = kaggle_rafdb()
    table = index("rafdb", files, tmp_path, form, images="aligned")
    assert labels(table) == truth and table["sample"].tolist()[:2] == ["train_00001", "train_00002"]
    assert table["sample"].tolist()[-1] == "test_0007" and (table["split"] == "train").sum() == 21
    check_counts(table, rafdb.CLASSES, {"train": [3] * 7, "test": 7})
    bare = {name: content for name, content in files.items() if not name.endswith(".csv")}
    assert labels(index("rafdb", bare, tmp_path / "bare", form, images="aligned")) == truth


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            (b"00001_aligned.jpg,1", b"00001_aligned.jpg,2"),
            r"'train_00001_aligned\.jpg' has label 2 and lies in .* of 1",
        ),
        ((b"00001_aligned.jpg,1", b"00099_aligned.jpg,1"), r"'train_00099_aligned\.jpg' is in no folder of train"),
        ((b"00001_aligned.jpg,1", b"00001_aligned.jpg,0"), r"label is '0'; expected a whole number from 1 to 7"),
        ((b"image,label", b"file,label"), r"expected the header image,label, found 'file,label' \(image is missing\)"),
    ],
)
def test_kaggles_rafdb_that_contradicts_itself(change, message, tmp_path):
    files, _ = kaggle_rafdb()
    files["train_labels.csv"] = files["train_labels.csv"].replace(*change)
    with pytest.raises(UserError, match=rf"train_labels\.csv, line [12]: {message}"):
        index("rafdb", files, tmp_path, images="aligned")


def test_kaggles_rafdb_with_more_than_its_csv_files_name(tmp_path):
    files, truth = kaggle_rafdb()
    files["DATASET/train/3/train_00099_aligned.jpg"] = b"more"
    table = index("rafdb", files, tmp_path, images="aligned")
    assert labels(table) == truth and table.attrs["dropped"] == {"images that the csv files do not name": 1}
    files["DATASET/train/3/train_00001_aligned.jpg"] = files.pop("DATASET/train/3/train_00099_aligned.jpg")
    with pytest.raises(UserError, match="has label 1 and lies in .* of 3|images of one name in several class folders"):
        index("rafdb", files, tmp_path / "2", images="aligned")


def test_kaggles_rafdb_has_the_aligned_images(tmp_path):
    with pytest.raises(UserError, match=r"holds class folders, .* set options: \{images: aligned\} for the dataset"):
        index("rafdb", kaggle_rafdb()[0], tmp_path)


def test_alphabetical_numbers_of_rafdb(tmp_path):
    official = rafdb.OFFICIAL["train"]
    names = sorted(rafdb.CLASSES)
    files = {}
    for number, name in enumerate(names, 1):
        for k in range(official[rafdb.CLASSES.index(name)] // 20):
            files[f"train/{number}/{name}{k}_aligned.jpg"] = b""
        files[f"test/{number}/a_aligned.jpg"] = b""
    with pytest.raises(UserError, match="are those of the classes in alphabetical order"):
        index("rafdb", files, tmp_path, "tar", images="aligned")


def test_numbers_of_rafdb_from_zero(tmp_path):
    files, _ = kaggle_rafdb()
    files = {path.replace(f"/{n + 1}/", f"/{n}/"): b"" for n in range(7) for path in files if f"/{n + 1}/" in path}
    with pytest.raises(UserError, match=r"class folders 0 to 6, where the official numbers start at 1"):
        index("rafdb", files, tmp_path, images="aligned")


def rafdb_list(stem="{}.jpg"):
    names = [(f"train_{n:05d}", n) for n in range(1, 8)] + [(f"test_{n:04d}", n) for n in range(1, 8)]
    lines = [f"{stem.format(name)} {label}" for name, label in names]
    return names, lines


@pytest.mark.parametrize("stem", ["{}.jpg", "{}_aligned.jpg"])
def test_apvits_rafdb(stem, tmp_path):
    names, lines = rafdb_list(stem)
    files = {f"RAF/Image/aligned_224/{name}.jpg": name.encode() for name, _ in names}
    files |= {
        "RAF/EmoLabel/train.txt": "\n".join(lines[:7]).encode(),
        "RAF/EmoLabel/test.txt": "\n".join(lines[7:]).encode(),
    }
    table = index("rafdb", files, tmp_path, images="aligned_224")
    assert labels(table) == {f"RAF/Image/aligned_224/{name}.jpg": label - 1 for name, label in names}
    assert table["sample"].tolist() == [name for name, _ in names]
    with pytest.raises(UserError, match=r"holds RAF/Image/aligned_224/, not RAF/Image/original/; set options"):
        index("rafdb", files, tmp_path)


def test_images_one_level_deeper_are_not_absent(tmp_path):
    names, lines = rafdb_list()
    files = {f"Image/original/RAF/{name}.jpg": b"" for name, _ in names}
    files["EmoLabel/list_patition_label.txt"] = "\n".join(lines).encode()
    with pytest.raises(
        UserError, match=r"14 of 14 .*; but Image/original/RAF/train_00001\.jpg is there: give such files the names"
    ):
        index("rafdb", files, tmp_path)
    files = {f"Image/original/{name}.JPG" if "0001" in name else f"Image/original/{name}.jpg": b"" for name, _ in names}
    files["EmoLabel/list_patition_label.txt"] = "\n".join(lines).encode()
    with pytest.raises(UserError, match=r"2 of 14 .*; but Image/original/train_00001\.JPG is there: give such files"):
        index("rafdb", files, tmp_path / "3")
    files = {f"Image/original/{name}.jpg": b"" for name, _ in names} | {"list_patition_label.txt": b"\n".join([b""])}
    with pytest.raises(UserError, match=r"holds no EmoLabel/list_.*; but list_patition_label\.txt is there: give"):
        index("rafdb", files, tmp_path / "2")


def test_absent_images_behind_a_link(tmp_path):
    names, lines = rafdb_list()
    files = {f"real/{name}.jpg": b"" for name, _ in names} | {
        "EmoLabel/list_patition_label.txt": "\n".join(lines).encode()
    }
    folder = pack(files, "folder", tmp_path / "data")
    (folder / "Image").mkdir()
    (folder / "Image/original").symlink_to("../real")
    with pytest.raises(
        UserError, match=r"14 of 14 .*; but Image/original is there, which is left out \(links to folders"
    ):
        index("rafdb", {}, tmp_path)


def test_absent_images_in_an_archive_that_is_not_read(tmp_path):
    _, lines = rafdb_list()
    files = {"EmoLabel/list_patition_label.txt": "\n".join(lines).encode()}
    for name, message in {
        "Image/original.rar": r"holds Image/original\.rar, .*; unpack it with 7-Zip into the folder original/",
        "Image/original.zip.001": r"holds Image/original\.zip\.001, .*; join the parts first",
        "Image/original.zip": r"data\.zip/Image/original\.zip: truncated or corrupt",
    }.items():
        with pytest.raises(UserError, match=message):
            index("rafdb", files | {name: b"PK\3\4"}, tmp_path, "zip")
    files |= {f"Image/original/{line.split()[0]}": b"" for line in lines}
    for name in ("manual.zip", "manual.part1.rar"):
        with pytest.raises(UserError, match=rf"Annotation/{name}(: truncated or corrupt|, which is not read as it is)"):
            index("rafdb", files | {f"Annotation/{name}": b"PK\3\4"}, tmp_path, "zip")
    assert len(index("rafdb", files | {"Image/original.rar": b"", "Image/aligned.rar": b""}, tmp_path, "zip")) == 14


# FERPlus


def ferplus_csv(per=(5, 2, 2), order=lambda rows: rows, columns=("emotion", "pixels", "Usage"), name="fer2013.csv"):
    votes, pixels, truth, number = [], {}, {}, 0
    for usage, count in zip(USAGE.values(), per, strict=True):
        for _ in range(count):
            for c, expression in enumerate(ferplus.CLASSES):
                votes.append([usage, f"fer{number:07d}.png", *(10 if k == c else 0 for k in range(10))])
                row = {"emotion": TO_FER2013.get(expression, 6), "pixels": "0 " * 2304, "Usage": usage}
                pixels.setdefault(usage, []).append(row)
                truth[f"fer{number:07d}"] = c
                number += 1
    rows = [row for rows in pixels.values() for row in order(rows)]
    head = ["Usage", "Image name", *ferplus.COLUMNS]
    return {
        name: full([column.strip() for column in columns], rows, header_names=columns),
        "fer2013new.csv": full(head, [dict(zip(head, row, strict=True)) for row in votes]),
    }, truth


@pytest.mark.parametrize(
    "form",
    [{}, {"columns": ("emotion", " Usage", " pixels"), "name": "icml_face_data.csv"}, {"columns": ("pixels", "Usage")}],
)
def test_csv_forms_of_ferplus(form, tmp_path):
    files, truth = ferplus_csv(**form)
    table = index("ferplus", files, tmp_path)
    assert dict(zip(table["sample"], table["label"], strict=True)) == truth
    known = (
        {}
        if "emotion" not in form.get("columns", ("emotion",))
        else {"FER2013's emotion is not the majority of the votes": 0}
    )
    assert table.attrs["noted"] == known


def test_the_competitions_zip_as_it_comes(tmp_path):
    files, truth = ferplus_csv()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as handle:
        handle.writestr("fer2013/fer2013.csv", files["fer2013.csv"])
    whole = {
        "fer2013new.csv": files["fer2013new.csv"],
        "icml_face_data.csv": b"",
        "train.csv": b"",
        "fer.zip": buffer.getvalue(),
    }
    table = index("ferplus", whole, tmp_path)
    assert dict(zip(table["sample"], table["label"], strict=True)) == truth
    assert table["path"][0] == "fer/fer2013/fer2013.csv#0"


@pytest.mark.parametrize(
    "order", [lambda rows: sorted(rows, key=lambda row: row["emotion"]), lambda rows: rows[1:] + rows[:1]]
)
def test_rows_in_another_order(order, tmp_path):
    with pytest.raises(
        UserError, match=r"fer2013\.csv, line 2: emotion is the majority of the votes in \d+ of 63 rows"
    ):
        index("ferplus", ferplus_csv(order=order)[0], tmp_path)


def test_rows_in_another_order_in_one_place(tmp_path):
    """The overall agreement is that of the real data, whose single labels are noisy."""

    def shifted(rows):
        return [*rows[:800], *rows[801:1000], *rows[800:801], *rows[1000:]]

    with pytest.raises(
        UserError, match=r"fer2013\.csv, line \d+: emotion is the majority of the votes in \d+ of 2\d\d"
    ):
        index("ferplus", ferplus_csv(per=(150, 2, 2), order=shifted)[0], tmp_path)


def test_kaggles_fer2013_has_no_votes(tmp_path):
    files = {
        f"{split}/{name}/Training_{n}.jpg": b""
        for split in ("train", "test")
        for n, name in enumerate(["angry", "happy"])
    }
    with pytest.raises(
        UserError, match=r"FER2013's own labels \(angry, happy, \.\.\.\), .*use fer2013\.csv or icml_face_data"
    ):
        index("ferplus", files, tmp_path)


def test_label_csv_with_a_header(tmp_path):
    files = {}
    for folder in ferplus.FOLDERS:
        columns = ["Image name", "comment", *ferplus.COLUMNS[::-1]]
        row = (
            {"Image name": f"{folder}.png", "comment": "x"} | dict.fromkeys(ferplus.COLUMNS, "0") | {"sadness": "10.0"}
        )
        files |= {
            f"{folder}/label.csv": full(columns, [row]),
            f"{folder}/{folder}.png": b"",
            f"{folder}/other.png": b"",
        }
    table = index("ferplus", files, tmp_path)
    assert table["class_name"].tolist() == ["sadness"] * 3
    assert table.attrs["files"]["left_out"]["images that nothing names"]["files"] == 3
