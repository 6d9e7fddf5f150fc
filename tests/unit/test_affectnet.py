import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from archives import FORMS, noise, pack

from transfer.datasets import registry
from transfer.datasets.affectnet import CLASSES, HEADER, five_landmarks
from transfer.datasets.archives import open_source
from transfer.datasets.counts import compare, per_class
from transfer.utils.errors import UserError

POINTS = np.arange(136).reshape(68, 2)
TEXT = ";".join(map(str, POINTS.ravel()))
FIVE = [77, 78, 89, 90, 60, 61, 96, 97, 108, 109]  # means of points 36-41 and 42-47, then points 30, 48, 54
TRAIN = [("1/aa.jpg", 0), ("1/bb.jpg", 7), ("2/cc.jpg", 8), ("2/dd.jpg", 9), ("3/ee.png", 6), ("3/ff.jpg", 10)]
VALIDATION = [("4/gg.jpg", 5), ("4/hh.jpg", 7)]


def row(path, expression, points=TEXT, valence="-0.25"):
    return f"{path},1,2,30,40,{points},{expression},{valence},0.5"


def table(rows, header=True):
    return "\n".join([",".join(HEADER)] * header + [row(*values) for values in rows]).encode() + b"\n"


@pytest.fixture
def files():
    files = {"lists/training.csv": table(TRAIN), "lists/validation.csv": table(VALIDATION)}
    for i, (path, _) in enumerate(TRAIN + VALIDATION):
        files[f"images/Manually_Annotated_Images/{path}"] = noise(i, suffix="jpg")[0]
    return files


def index(files, tmp_path, form="folder", **options):
    tmp_path.mkdir(exist_ok=True)
    with open_source(pack(files, form, tmp_path / "affectnet")) as source:
        return registry.get("affectnet").index(source, **options)


@pytest.mark.parametrize("form", FORMS)
def test_eight_classes(form, files, tmp_path):
    found = index(files, tmp_path, form, classes=8)
    assert list(found.columns) == [
        *["sample", "path", "split", "label", "class_name", "valence", "arousal"],
        *registry.LANDMARKS,
    ]
    assert found["sample"].tolist() == ["1/aa", "1/bb", "3/ee", "4/gg", "4/hh"]
    assert found["path"][2] == "images/Manually_Annotated_Images/3/ee.png"
    assert found["split"].tolist() == ["train"] * 3 + ["test"] * 2  # the validation split is what the field tests on
    assert found["label"].tolist() == [0, 7, 6, 5, 7]
    assert found["class_name"].tolist() == ["neutral", "contempt", "anger", "disgust", "contempt"]
    assert (found["valence"] == -0.25).all() and (found["arousal"] == 0.5).all()
    assert (found[registry.LANDMARKS] == FIVE).all(axis=None)
    assert found.attrs["dropped"] == {"none": 1, "uncertain": 1, "no_face": 1}


def test_seven_classes_are_the_default(files, tmp_path):
    found = index(files, tmp_path)
    assert found["sample"].tolist() == ["1/aa", "3/ee", "4/gg"]
    assert found.attrs["dropped"] == {"contempt": 2, "none": 1, "uncertain": 1, "no_face": 1}


def test_files_without_header(files, tmp_path):
    files["lists/training.csv"] = table(TRAIN, header=False)
    assert len(index(files, tmp_path, classes=8)) == 5


@pytest.mark.parametrize("expression", ["11", "-1", "", "happy", "1.5"])
def test_label_out_of_range(expression, files, tmp_path):
    files["lists/training.csv"] = table([("1/aa.jpg", 0), ("1/bb.jpg", expression)])
    message = rf"lists/training\.csv, line 3: expression is '{expression}'; expected a whole number from 0 to 10"
    with pytest.raises(UserError, match=message):
        index(files, tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("1/aa.jpg,1,2,30,40,1,0,0", "8 columns; expected 9: subDirectory_filePath,"),
        (row("1/aa.jpg", 0, "1;2;3"), "facial_landmarks: expected 68 points"),
        (row("1/aa.jpg", 0, TEXT + ";1;2"), "facial_landmarks: expected 68 points"),
        (row("1/aa.jpg", 0, TEXT.replace("9", "x")), "facial_landmarks: expected 68 points"),
        (row("1/aa.jpg", 0, valence="NULL"), "valence: 'NULL'; expected a number"),
    ],
)
def test_malformed_row(bad, message, files, tmp_path):
    files["lists/validation.csv"] = (",".join(HEADER) + "\n" + bad).encode()
    with pytest.raises(UserError, match=rf"lists/validation\.csv, line 2: {message}"):
        index(files, tmp_path)


def test_row_without_landmarks():
    assert five_landmarks(TEXT, "").tolist() == FIVE


@pytest.mark.parametrize("file", ["lists/training.csv", "lists/validation.csv"])
def test_absent_list(file, files, tmp_path):
    del files[file]
    with pytest.raises(UserError, match="holds no (training.csv, )?validation.csv|holds no training.csv"):
        index(files, tmp_path)


def test_image_folder(files, tmp_path):
    lists = {name: content for name, content in files.items() if name.startswith("lists")}
    with pytest.raises(UserError, match="expected one folder Manually_Annotated_Images/, found none"):
        index(lists, tmp_path)
    top = lists | {"Manually_Annotated_Images/1/aa.jpg": b""}
    assert index(top, tmp_path, missing="drop")["path"].tolist() == ["Manually_Annotated_Images/1/aa.jpg"]
    with pytest.raises(UserError, match=r"found \['Manually_Annotated_Images/', 'images/Manually_Annotated_Images/'\]"):
        index(top | files, tmp_path)


def test_absent_images(files, tmp_path):
    del files["images/Manually_Annotated_Images/1/aa.jpg"]
    message = r"1 of 3 listed images are absent \(train 1 of 2, test 0 of 1\), " r"first .*1/aa\.jpg;"
    with pytest.raises(UserError, match=message):
        index(files, tmp_path)
    found = index(files, tmp_path, missing="drop")
    assert found.attrs["missing"] == 1 and found["sample"].tolist() == ["3/ee", "4/gg"]


def test_repeated_rows_are_left_out_and_kept_in_view(files, tmp_path):
    rows = [
        *TRAIN,
        ("1/aa.jpg", 0),  # again
        ("1/aa.jpg", 0),  # and again
        ("5/ii.jpg", 3),
        ("5/ii.jpg", 1),  # another label
        ("5/jj.jpg", 2),
        ("5/jj.jpg", 9),  # another label, of no class
        ("4/gg.jpg", 4),  # is in the validation split
    ]
    files["lists/training.csv"] = table(rows)
    for name in ("5/ii.jpg", "5/jj.jpg"):
        files[f"images/Manually_Annotated_Images/{name}"] = b""
    found = index(files, tmp_path, classes=8)
    assert found["sample"].tolist() == ["1/aa", "1/bb", "3/ee", "4/gg", "4/hh"]
    top = "images/Manually_Annotated_Images/"
    again, different = "rows that list an image again", "rows of images with different labels"
    tested = "rows of training images that are in the test split"
    assert found.attrs["repeated"] == [
        {"sample": "1/aa", "path": top + "1/aa.jpg", "split": "train", "label": 0, "why": again},
        {"sample": "1/aa", "path": top + "1/aa.jpg", "split": "train", "label": 0, "why": again},
        {"sample": "5/ii", "path": top + "5/ii.jpg", "split": "train", "label": 3, "why": different},
        {"sample": "5/ii", "path": top + "5/ii.jpg", "split": "train", "label": 1, "why": different},
        {"sample": "5/jj", "path": top + "5/jj.jpg", "split": "train", "label": 2, "why": different},
        {"sample": "4/gg", "path": top + "4/gg.jpg", "split": "train", "label": 4, "why": tested},
    ]
    counts = {"train": [3, 1, 1, 1, 1, 0, 1, 1], "test": [0, 0, 0, 0, 0, 1, 0, 1]}
    table_ = compare_with_repeats(found, counts)
    assert (table_["difference"] == 0).all(), "official counts are those of the rows"
    json.dumps(found.attrs)


def compare_with_repeats(found, counts):
    """As `check_counts` compares, which wants images of every class."""
    here = per_class(found, CLASSES)
    for row in found.attrs["repeated"]:
        here[row["split"]][CLASSES[row["label"]]] += 1
    return compare(here, counts, CLASSES)


def npy(value):
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value))
    return buffer.getvalue()


def arrays_release(top="", text=True):
    """Faces 0 to 2 to train on and 0 to 1 to test on, with the codes 0, 7, 8 and 5, 7."""
    files = {}
    for folder, codes in (("train_set", (0, 7, 8)), ("val_set", (5, 7))):
        for number, code in enumerate(codes):
            stem = f"{top}{folder}/annotations/{number}"
            files[f"{top}{folder}/images/{number}.jpg"] = noise(number, suffix="jpg")[0]
            files[f"{stem}_exp.npy"] = npy(str(code) if text else code)
            files[f"{stem}_val.npy"] = npy("-0.25" if text else -0.25)
            files[f"{stem}_aro.npy"] = npy("0.5" if text else np.float32(0.5))
            files[f"{stem}_lnd.npy"] = npy(POINTS.ravel().astype(float) if text else POINTS)
    return files


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", [True, False])
def test_reduced_release(form, text, tmp_path):
    found = index(arrays_release("top/", text), tmp_path, form, classes=8, release="reduced")
    assert found["sample"].tolist() == ["train_set/0", "train_set/1", "val_set/0", "val_set/1"]
    assert found["path"].tolist()[1:3] == ["top/train_set/images/1.jpg", "top/val_set/images/0.jpg"]
    assert found["split"].tolist() == ["train", "train", "test", "test"]
    assert found["label"].tolist() == [0, 7, 5, 7] and found["label"].dtype == np.int64
    assert (found["valence"] == -0.25).all() and (found["arousal"] == 0.5).all()
    assert (found[registry.LANDMARKS] == FIVE).all(axis=None)
    assert found.attrs["dropped"] == {"none": 1} and found.attrs["layout"] == "release reduced"
    seven = index(arrays_release("top/", text), tmp_path / "7", classes=7, release="reduced")
    assert seven["label"].tolist() == [0, 5] and seven.attrs["dropped"] == {"contempt": 2, "none": 1}


def test_reduced_release_with_less(tmp_path):
    files = arrays_release()
    for kind in ("val", "aro", "lnd"):
        del files[f"train_set/annotations/1_{kind}.npy"]
    del files["train_set/annotations/0_exp.npy"]
    found = index(files, tmp_path, classes=8, release="reduced")
    assert found["sample"].tolist() == ["train_set/1", "val_set/0", "val_set/1"]
    assert found.loc[0, ["valence", "arousal", *registry.LANDMARKS]].isna().all()
    del files["val_set/images/1.jpg"]
    with pytest.raises(UserError, match=r"1 of 3 .* absent \(train 0 of 1, test 1 of 2\), first val_set"):
        index(files, tmp_path / "2", classes=8, release="reduced")


class Code:
    def __reduce__(self):
        return (Path("ran").touch, ())


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("exp", npy(["0", "1"]), "2 values; expected one expression"),
        ("exp", npy("11"), "expression is '11'; expected a whole number from 0 to 10"),
        ("exp", npy("happy"), "expression is 'happy'; expected a whole number"),
        ("exp", npy(1.5), "expression is '1.5'; expected a whole number"),
        ("exp", npy("1")[:-2], "not a numpy array"),
        ("exp", b"", "not a numpy array"),
        ("exp", b"<html>", "not a numpy array"),
        ("exp", npy(np.array([Code()], dtype=object)), "not a numpy array without pickled objects"),
        ("exp", pickle.dumps(Code()), "not a numpy array without pickled objects"),
        ("val", npy("NULL"), "expected a number"),
        ("aro", npy([1.0, 2.0]), "2 values; expected one number"),
        ("lnd", npy(np.zeros(134)), r"expected 68 points .*, 136 numbers, found \(134,\)"),
        ("lnd", npy(np.full(136, "x")), "expected 68 points .*, 136 numbers"),
        ("lnd", npy(POINTS.astype(float)).replace(b"(68, 2)", b"(69, 2)"), "not a numpy array"),
    ],
)
def test_reduced_release_with_bad_arrays(kind, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = arrays_release() | {f"train_set/annotations/1_{kind}.npy": content}
    with pytest.raises(UserError, match=rf"affectnet: train_set/annotations/1_{kind}\.npy: .*{message}") as error:
        index(files, tmp_path, classes=8, release="reduced")
    assert "\n" not in str(error.value) and not Path("ran").exists()


CLASS_FOLDERS = {"classes": ("train_class/class00{}", "val_class/class00{}", 1), "numbers": ("train/{}", "val/{}", 0)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("naming", CLASS_FOLDERS)
def test_folders_release(form, naming, tmp_path):
    *folders, first = CLASS_FOLDERS[naming]
    files = {"sample/readme.txt": b"", "sample/train-sample-affectnet.csv": b""}
    for folder in folders:
        for code in range(8):
            name = f"sample/{folder.format(code + first)}/image{code}.jpg"
            files[name] = name.encode()
    found = index(files, tmp_path, form, classes=8, release="folders")
    assert found["split"].tolist() == ["train"] * 8 + ["test"] * 8
    assert found["label"].tolist() == [*range(8), *range(8)]
    assert found["sample"].tolist()[7:9] == [
        f"{folders[0]}/image7".format(7 + first),
        f"{folders[1]}/image0".format(first),
    ]
    assert found["path"][9] == f"sample/{folders[1].format(1 + first)}/image1.jpg"
    seven = index(files, tmp_path / "7", form, classes=7, release="folders")
    assert len(seven) == 14 and seven.attrs["dropped"] == {"contempt": 2}


def test_other_release_than_the_option_says(files, tmp_path):
    cases = [
        (files, "reduced", r"holds training\.csv, .*, not train_set/ .*: set options: \{release: full\}"),
        (arrays_release(), "full", r"holds train_set/ .*, not training\.csv, .*: set options: \{release: reduced\}"),
        ({"val/3/a.jpg": b""}, "full", r"holds train_class/.*, not training\.csv.*: set options: \{release: folders\}"),
        ({"a.jpg": b""}, "reduced", r"holds no train_set/ and val_set/ .*; check that it is the right"),
    ]
    for number, (content, release, message) in enumerate(cases):
        with pytest.raises(UserError, match=message):
            index(content, tmp_path / str(number), release=release)


def test_official_counts():
    parser = registry.get("affectnet")
    for classes, train, full, reduced in ((7, 283_901, 3_500, 3_500), (8, 287_651, 4_000, 3_999)):
        for release, test in (("full", full), ("reduced", reduced)):
            (counts,) = parser.official(classes=classes, release=release)
            assert (sum(counts["train"]), sum(counts["test"])) == (train, test)
            assert len(counts["train"]) == len(counts["test"]) == len(parser.classes(classes=classes)) == classes
    assert parser.official(classes=8, release="folders") == [{"train": 37_553, "test": 4_000}]
    assert parser.official(classes=7, release="folders") == [], "not known"
    with pytest.raises(UserError, match="affectnet: option classes is 6; allowed: 7, 8"):
        parser.classes(classes=6)
