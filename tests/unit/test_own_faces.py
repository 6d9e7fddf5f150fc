"""A user's own faces: one block of parameters, no parser. Synthetic faces of four classes, through the verb index."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archives import pack
from PIL import Image
from test_forms import full

from transfer.datasets.archives import open_source
from transfer.datasets.images import stream_images
from transfer.datasets.registry import LANDMARKS
from transfer.datasets.synthetic.render import render_face

ROOT = Path(__file__).parents[2]
CLASSES = {"calm": "neutral", "joy": "happiness", "shock": "surprise", "wrath": "anger"}
DATA = Path("results/own/data/faces")


@pytest.fixture(scope="module")
def drawn():
    """Two training faces and a test face of each class: path -> png, class, landmarks."""
    faces = {}
    for label, expression in CLASSES.items():
        for number, split in enumerate(("train", "train", "test")):
            face = render_face(np.random.default_rng(number), expression, 0.9, 64)
            buffer = io.BytesIO()
            Image.fromarray(face.image).save(buffer, "PNG")
            faces[f"{split}/{label}/{number}.png"] = buffer.getvalue(), label, face.landmarks.ravel()
    return faces


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    for name in ("default.yaml", "reported.yaml"):
        (tmp_path / "params" / name).write_bytes((ROOT / "params" / name).read_bytes())
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def index(transfer):
    def run(files, parser, form="folder", options="", extra=""):
        Path("own.yaml").write_text(
            "experiment: own\ndatasets: [faces]\nrecipes: [baseline]\nbaseline: baseline\ndataset_definitions:\n"
            f"  faces: {{parser: {parser}, archive: faces, "
            f"options: {{classes: [{', '.join(CLASSES)}]{options}}}{extra}}}\n"
        )
        Path("data/raw").mkdir(parents=True, exist_ok=True)
        pack(files, form, Path("data/raw/faces"))
        return transfer("index", "--dataset", "faces", "--params", "own.yaml")

    return run


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_image_folder(form, index, drawn):
    code, out, err = index({f"mine/{path}": face[0] for path, face in drawn.items()}, "image_folder", form)
    assert (code, out, err) == (0, "faces: 8 train, 4 test; left out: 0 missing\n", "")
    table = pd.read_parquet(DATA / "index.parquet")
    assert table["class_name"].tolist() == [drawn[path.removeprefix("mine/")][1] for path in table["path"]]
    assert table["label"].tolist() == [list(CLASSES).index(name) for name in table["class_name"]]
    assert table["sample"][0] == "test/calm/2" and table["split"][0] == "test"
    assert json.loads((DATA / "index.json").read_text())["counts"]["test"] == dict.fromkeys(CLASSES, 1)
    with open_source(next(Path("data/raw").glob("faces*"))) as source:
        images = {place: image for place, image, _ in stream_images(source, table["path"].tolist())}
    for place, path in enumerate(table["path"]):
        assert (images[place] == np.array(Image.open(io.BytesIO(drawn[path.removeprefix("mine/")][0])))).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train/rage/0.png": b"x"},
            "class folders are calm, joy, rage, shock, wrath, and option classes is calm, joy,",
        ),
        (
            {"train/wrath/0.png": None, "train/wrath/1.png": None, "test/wrath/2.png": None},
            "class folders are calm, joy, shock, and",
        ),
        ({"test/joy/2.png": None}, "class 'joy' has no test image; check the archive"),
        ({"train/joy/0.png": None, "train/joy/1.png": None}, "class 'joy' has no training image"),
        ({"copy/train/joy/0.png": b"x"}, "class folders in 2 places"),
    ],
)
def test_folders_that_do_not_fit(change, message, index, drawn):
    files = {path: face[0] for path, face in drawn.items()} | change
    code, out, err = index({path: content for path, content in files.items() if content is not None}, "image_folder")
    assert code == 1 and err.count("\n") == 1 and message in err and "data/raw/faces" in err


def listed(drawn, votes=True, **change):
    rows = []
    for number, (path, (_, label, points)) in enumerate(drawn.items()):
        row = {"path": f"faces/{path}", "label": label, "split": path.split("/")[0]}
        row |= dict(zip(LANDMARKS, points, strict=True)) if number else dict.fromkeys(LANDMARKS, "")
        row |= {f"vote_{name}": 7 if name == label else 1 for name in CLASSES} if votes else {}
        rows.append(row | (change if number == 1 else {}))
    columns = list(rows[0])
    files = {f"faces/{path}": face[0] for path, face in drawn.items()}
    return {f"set/{path}": content for path, content in files.items()} | {"set/labels.csv": full(columns, rows)}


def test_csv(index, drawn):
    code, out, err = index(listed(drawn), "csv", extra=", faces: {landmarks: supplied}, train: {targets: soft_labels}")
    assert (code, out, err) == (0, "faces: 8 train, 4 test; left out: 0 missing\n", "")
    table = pd.read_parquet(DATA / "index.parquet")
    assert table["path"].tolist() == [f"set/faces/{path}" for path in drawn]
    assert table["class_name"].tolist() == [label for _, label, _ in drawn.values()]
    assert np.allclose(table[LANDMARKS][1:], [points for *_, points in list(drawn.values())[1:]])
    assert table[LANDMARKS].iloc[0].isna().all()
    assert (table[[f"vote_{name}" for name in CLASSES]].max(axis=1) == 7).all()


def test_csv_to_table(index, drawn, transfer):
    """Landmarks and votes of the csv reach the aligned faces and the training; a file that the csv repeats is said."""
    from transfer.faces.align import similarity, template, warp

    settings = (
        ", faces: {landmarks: supplied}, train: {targets: soft_labels, epochs: 1, batch_size: 4, warmup_epochs: 0},"
        " model: {name: transfer_tiny, img_size: 32}"
    )
    assert index(listed(drawn), "csv", extra=settings)[0] == 0
    chosen = ["--params", "own.yaml", "--set", "tracking=false", "--set", "seeds=[0]"]
    for verb in ("detect", "align", "inspect", "sample"):
        code, out, err = transfer(verb, "--dataset", "faces", *chosen)
        assert code == 0, (verb, out, err)
    report = json.loads((DATA / "faces.json").read_text())
    assert (report["counts"]["whole"], report["counts"]["misplaced"]) == (1, 0)
    store, manifest = np.load(DATA / "aligned.npy"), pd.read_parquet(DATA / "aligned.parquet")
    for face, sample, label in zip(store[1:], manifest["sample"][1:], manifest["class_name"][1:], strict=True):
        content, name, points = drawn[f"{sample.removeprefix('faces/')}.png"]
        matrix = similarity(points.reshape(1, 5, 2), template(112))[0]
        assert name == label and (face == warp(np.array(Image.open(io.BytesIO(content))), matrix, 112)).all()
    split = pd.read_parquet(DATA / "split.parquet")
    assert split["split"].value_counts().to_dict() == {"train": 4, "val": 4, "test": 4}
    for verb in ("train", "evaluate"):
        code, out, err = transfer(verb, "--dataset", "faces", "--recipe", "baseline", "--seed", "0", *chosen)
        assert code == 0, (verb, out, err)
    code, out, err = transfer("table", "--name", "table1", *chosen)
    assert code == 0, (out, err)
    table = pd.read_csv("results/own/table1.csv")
    assert set(table["dataset"]) == {"faces"} and set(table["protocol"]) == {"last", "val_selected", "test_selected"}
    assert table["accuracy"].isin([0, 25, 50, 75, 100]).all()


def test_csv_of_another_name_without_more(index, drawn):
    files = listed(drawn, votes=False)
    files["set/mine.csv"] = b"path,label,split\n" + b"".join(
        f"faces/{path},{label},{path.split('/')[0]}\n".encode() for path, (_, label, _) in drawn.items()
    )
    assert index(files, "csv", options=", file: mine.csv")[0] == 0
    assert list(pd.read_parquet(DATA / "index.parquet")) == ["sample", "path", "split", "label", "class_name"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"path": "../../secret.png"},
            "labels.csv, line 3: path '../../secret.png' leaves the folder of set/labels.csv",
        ),
        ({"path": "/etc/passwd"}, "line 3: path '/etc/passwd' leaves the folder"),
        ({"path": "C:\\face.png"}, "leaves the folder"),
        (
            {"path": "faces/none.png"},
            "1 of 12 listed images are absent (train 1 of 8, test 0 of 4), first set/faces/none.png",
        ),
        (
            {"path": "faces/none/train/calm/0.png"},
            "1 of 12 listed images are absent (train 1 of 8, test 0 of 4), first set/faces/none/train/calm/0.png",
        ),
        ({"path": "faces/train/calm/1"}, "but set/faces/train/calm/1.png is there"),
        (
            {"path": ".\\faces\\train\\calm\\0.png"},
            "line 3: path '.\\\\faces\\\\train\\\\calm\\\\0.png' is that of line 2 too",
        ),
        ({"path": "faces/train/calm/0.png", "label": "joy"}, "line 3: path 'faces/train/calm/0.png' is that of line 2"),
        ({"label": "rage"}, "line 3: label is 'rage'; expected one of calm, joy, shock, wrath (option classes)"),
        ({"label": "1" * 5000}, "line 3: label is '1111"),
        ({"split": "dev"}, "line 3: split is 'dev'; expected train, val, test"),
        ({"vote_joy": "x"}, "line 3: vote_joy is 'x'; expected a whole number"),
        ({"vote_joy": "0.5"}, "line 3: vote_joy is '0.5'; expected a whole number of people"),
        ({f"vote_{name}": 0 for name in CLASSES}, "line 3: nobody has voted"),
        ({"landmark_3_y": ""}, "line 3: some landmark columns are empty and others are not; fill all 10 or none"),
        ({"landmark_2_x": "left"}, "line 3: landmark_2_x is 'left'; expected pixels"),
    ],
)
def test_csv_rows_that_do_not_fit(change, message, index, drawn):
    code, out, err = index(listed(drawn, **change), "csv")
    assert code == 1 and err.count("\n") == 1 and message in err and "data/raw/faces" in err and len(err) < 600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda points: points[[1, 0, 2, 4, 3]], "landmark_0 lies to the right of landmark_1"),
        (
            lambda points: points[:, ::-1],
            "the eyes (landmark_0, landmark_1) lie below the mouth; are x and y exchanged",
        ),
        (lambda points: points / 64, "the eyes are less than 2 pixels apart; landmarks are pixels"),
    ],
)
def test_landmarks_of_another_kind(change, message, index, drawn):
    faces = {
        path: (content, label, change(points.reshape(5, 2)).ravel()) for path, (content, label, points) in drawn.items()
    }
    code, _, err = index(listed(faces), "csv")
    assert code == 1 and message in err and "set/labels.csv" in err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"landmark_4_y", b"other", "line 1: the header has landmark_0_x and no landmark_4_y; give all 10 or none"),
        (b"landmark_4_y", b"landmark_5_y", "column 'landmark_5_y' is none of landmark_0_x, ..., landmark_4_y"),
        (b"vote_joy", b"other", "the header has vote_calm and no vote_joy; give all 4 or none"),
        (b"vote_joy", b"vote_bliss", "column 'vote_bliss' is none of vote_calm, ..., vote_wrath"),
        (b"split", b"Split", "expected the header path,label,split, found 'path,label,Split"),
        (b"split", b"label", "(split is missing)"),
        (b",", b"|", "line 1: expected the header path,label,split, found 'path|label|split|"),
        (b"joy", b"j\xe9y", "not a UTF-8 csv file"),
        (b"path,", b"PK\3\4", "is a zip archive, not a text file"),
    ],
)
def test_csv_files_that_do_not_fit(old, new, message, index, drawn):
    files = listed(drawn)
    files["set/labels.csv"] = files["set/labels.csv"].replace(old, new)
    code, _, err = index(files, "csv")
    assert code == 1 and err.count("\n") == 1 and message in err and "set/labels.csv" in err


@pytest.mark.parametrize("rows", [b"", b"path,label,split\n", b"path,label,split\n,,\n \n"])
def test_a_csv_without_rows(rows, index, drawn):
    assert "set/labels.csv has no row below its header" in index(listed(drawn) | {"set/labels.csv": rows}, "csv")[2]


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text.replace(",", ";"),
        lambda text: text.replace("\n", "\r\n").encode("utf-16"),
        lambda text: text.replace(",", " , ") + ",,\n   \n",
        lambda text: "\ufeff" + text.replace("/", "\\"),
        lambda text: "\n".join(f"{n},{line}" if line else line for n, line in enumerate(text.split("\n"))),
        lambda text: text.replace(",7,", ",7.0,"),
    ],
)
def test_csv_files_of_other_programs(form, index, drawn):
    files = listed(drawn)
    assert index(files, "csv")[0] == 0
    expected = pd.read_parquet(DATA / "index.parquet")
    changed = form(files["set/labels.csv"].decode().replace("\r\n", "\n"))
    files["set/labels.csv"] = changed if isinstance(changed, bytes) else changed.encode()
    assert index(files, "csv")[0] == 0
    pd.testing.assert_frame_equal(pd.read_parquet(DATA / "index.parquet"), expected)


def test_votes_that_contradict_the_labels(index, drawn):
    files = listed(drawn, vote_calm=0)
    noted = "1 another class than label has the most votes, 1 another number of votes than in most rows"
    assert noted in index(files, "csv")[1]
    files["set/labels.csv"] = files["set/labels.csv"].replace(b"vote_joy,vote_shock", b"vote_shock,vote_joy")
    assert "in 7 of 12 rows another class than label has the most votes" in index(files, "csv")[2]


@pytest.mark.parametrize("classes", ["[calm]", "[calm, calm]", "calm", "['../x', y]", "[]"])
def test_classes_are_names(classes, transfer, index, drawn):
    index({}, "image_folder")
    value = f"dataset_definitions.faces.options.classes={classes}"
    code, out, err = transfer("index", "--dataset", "faces", "--params", "own.yaml", "--set", value)
    assert code == 1 and err.count("\n") == 1 and "option classes is" in err
