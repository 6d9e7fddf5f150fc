import numpy as np
import pytest
from archives import FORMS, noise, pack

from transfer.datasets import registry
from transfer.datasets.affectnet import HEADER, five_landmarks
from transfer.datasets.source import open_source
from transfer.errors import UserError

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
    assert found["split"].tolist() == ["train"] * 3 + ["test"] * 2  # the validation part is what the field tests on
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
        (row("1/aa.jpg", 0, "1;2;3"), "facial_landmarks are not 68 points"),
        (row("1/aa.jpg", 0, TEXT + ";1;2"), "facial_landmarks are not 68 points"),
        (row("1/aa.jpg", 0, TEXT.replace("9", "x")), "facial_landmarks are not 68 points"),
        (row("1/aa.jpg", 0, valence="NULL"), "valence and arousal are 'NULL' and '0.5'; expected numbers"),
    ],
)
def test_malformed_row(bad, message, files, tmp_path):
    files["lists/validation.csv"] = (",".join(HEADER) + "\n" + bad).encode()
    with pytest.raises(UserError, match=rf"lists/validation\.csv, line 2: {message}"):
        index(files, tmp_path)


def test_row_without_landmarks():
    assert np.isnan(five_landmarks("", "")).all() and len(five_landmarks("", "")) == 10
    assert five_landmarks(TEXT, "").tolist() == FIVE


@pytest.mark.parametrize("file", ["lists/training.csv", "lists/validation.csv"])
def test_absent_list(file, files, tmp_path):
    del files[file]
    with pytest.raises(UserError, match=f"holds no {file[6:]}"):
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


def test_official_counts():
    parser = registry.get("affectnet")
    for classes, train, test in ((7, 283_901, 3_500), (8, 287_651, 4_000)):
        (counts,) = parser.official(classes=classes)
        assert (sum(counts["train"]), sum(counts["test"])) == (train, test)
        assert len(counts["train"]) == len(counts["test"]) == len(parser.classes(classes=classes)) == classes
    with pytest.raises(UserError, match="affectnet: option classes is 6; allowed: 7, 8"):
        parser.classes(classes=6)
