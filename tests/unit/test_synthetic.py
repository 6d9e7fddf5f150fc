import csv
import io
import tarfile
import zipfile

import numpy as np
import pytest
from facenet_pytorch import MTCNN
from PIL import Image

from transfer.datasets import registry
from transfer.datasets.archives import open_source
from transfer.datasets.synthetic.anatomy import build_geometry, points68, sample_actions, sample_identity
from transfer.datasets.synthetic.archives import CLASSES, default_counts, write_archive
from transfer.datasets.synthetic.render import EXPRESSIONS, Pose, render_face

SUFFIX = {"rafdb": "zip", "ferplus": "tar.gz", "affectnet": "zip"}
KINDS = list(SUFFIX)
SCALE = 0.1


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    paths = {kind: folder / f"{kind}.{SUFFIX[kind]}" for kind in KINDS}
    for kind, path in paths.items():
        write_archive(kind, path, seed=7, scale=SCALE)
    return paths


def members(path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def expected(kind, split):
    return default_counts(kind, SCALE)[split]


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_gives_the_same_bytes(kind, tmp_path):
    counts = {split: dict.fromkeys(("anger", "fear"), 1) for split in default_counts(kind)}
    contents = []
    for name, seed in (("one", 3), ("other_name", 3), ("third", 4)):
        path = tmp_path / f"{name}.{SUFFIX[kind]}"
        write_archive(kind, path, seed=seed, counts=counts)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    assert len(list(tmp_path.iterdir())) == 3  # nothing temporary is left


@pytest.mark.parametrize("kind", KINDS)
def test_default_counts_mirror_the_real_imbalance(kind):
    official = registry.get(kind).official(**({"classes": 8} if kind == "affectnet" else {}))[0]
    for split, counts in default_counts(kind).items():
        images, real = np.array(list(counts.values())), np.array(official[split])
        assert list(counts) == CLASSES[kind]
        assert 100 <= images.sum() <= 1000
        assert images.min() >= 10
        common = images[real / real.sum() > 0.1] / real[real / real.sum() > 0.1]  # the floor is for the rare ones
        assert common.max() / common.min() < 1.1


@pytest.mark.parametrize("kind", KINDS)
def test_readme_says_what_the_faces_are(archives, kind):
    files = members(archives[kind])
    (text,) = [content.decode() for name, content in files.items() if name.endswith("README.txt")]
    assert "Drawn faces" in text


def test_rafdb_layout(archives):
    files = members(archives["rafdb"])
    rows = [line.split() for line in files["basic/EmoLabel/list_patition_label.txt"].decode().splitlines()]
    for split in ("train", "test"):
        labels = [int(label) for name, label in rows if name.startswith(split)]
        counts = dict(zip(CLASSES["rafdb"], np.bincount(labels, minlength=8)[1:].tolist(), strict=True))
        assert counts == expected("rafdb", split)
    assert rows[0][0] == "train_00001.jpg"
    for name, _ in rows:
        stem = name.removesuffix(".jpg")
        original = Image.open(io.BytesIO(files[f"basic/Image/original/{name}"]))
        aligned = Image.open(io.BytesIO(files[f"basic/Image/aligned/{stem}_aligned.jpg"]))
        assert aligned.size == (100, 100)
        lines = files[f"basic/Annotation/manual/{stem}_manu_attri.txt"].decode().splitlines()
        points = np.array([line.split("\t") for line in lines[:5]], float)
        assert_landmarks(points, original.size[0])
        gender, race, age = map(int, lines[5:])
        assert gender in (0, 1) and race in (0, 1, 2) and age in range(5)
    assert len(files) == 3 * len(rows) + 2


def test_ferplus_layout(archives):
    files = members(archives["ferplus"])
    names = set()
    for split, folder in (("train", "FER2013Train"), ("val", "FER2013Valid"), ("test", "FER2013Test")):
        table = files[f"ferplus/{folder}/label.csv"].decode()
        assert table.count("\r\n") == len(table.splitlines())
        rows = list(csv.reader(io.StringIO(table)))
        votes = np.array([row[2:] for row in rows], int)
        assert votes.shape[1] == 10
        assert (votes.sum(1) == 10).all()
        assert {row[1] for row in rows} == {"(0, 0, 48, 48)"}
        for row in rows:
            image = Image.open(io.BytesIO(files[f"ferplus/{folder}/{row[0]}"]))
            assert (image.mode, image.size) == ("L", (48, 48))
        names.update(row[0] for row in rows)
        total = sum(expected("ferplus", split).values())
        assert len(rows) == total + max(1, total // 60) + max(1, total // 150)  # and those that the rules drop
    assert len(names) == len(files) - 4


def test_ferplus_votes_mostly_agree_with_the_class(tmp_path):
    path = tmp_path / "ferplus.tar.gz"
    write_archive("ferplus", path, seed=1, counts={"train": {"fear": 100}, "val": {"anger": 1}, "test": {"anger": 1}})
    rows = list(csv.reader(io.StringIO(members(path)["ferplus/FER2013Train/label.csv"].decode())))[:100]
    votes = np.array([row[2:] for row in rows], int)
    agree = (votes.argmax(1) == CLASSES["ferplus"].index("fear")).mean()
    assert agree > 0.85
    assert (votes.max(1) < 10).mean() > 0.3  # but they are not all of one mind


def test_affectnet_layout(archives):
    files = members(archives["affectnet"])
    for split, file in (("train", "training.csv"), ("test", "validation.csv")):
        rows = list(csv.DictReader(io.StringIO(files[file].decode())))
        codes = np.bincount([int(row["expression"]) for row in rows], minlength=11)
        assert dict(zip(CLASSES["affectnet"], codes[:8].tolist(), strict=True)) == expected("affectnet", split)
        assert (codes[8:] > 0).all() == (split == "train")
        for row in rows:
            size = Image.open(io.BytesIO(files[f"Manually_Annotated_Images/{row['subDirectory_filePath']}"])).size[0]
            points = np.array(row["facial_landmarks"].split(";"), float).reshape(68, 2)
            assert_landmarks(five_of(points), size)
            x, y, w, h = (int(row[f"face_{key}"]) for key in ("x", "y", "width", "height"))
            assert 0 <= x < x + w <= size and 0 <= y < y + h <= size
            if int(row["expression"]) < 8:
                assert -1 <= float(row["valence"]) <= 1 and -1 <= float(row["arousal"]) <= 1
        valence = {row["expression"]: float(row["valence"]) for row in rows}
        assert valence["1"] > 0 > valence["2"]  # happiness, sadness


@pytest.mark.parametrize(
    ("kind", "options", "may_drop"),
    [
        ("rafdb", {}, 0),
        ("rafdb", {"images": "aligned"}, 0),
        ("ferplus", {"rule": "majority"}, 0.12),
        ("affectnet", {"classes": 8}, 0),
    ],
)
def test_the_parsers_read_them(archives, kind, options, may_drop):
    with open_source(archives[kind]) as source:
        index = registry.get(kind).index(source, **options)
    for split, counts in default_counts(kind, SCALE).items():
        found = index[index["split"] == split]["class_name"].value_counts()
        assert set(found.index) <= set(counts)
        assert (1 - may_drop) * sum(counts.values()) <= found.sum() <= sum(counts.values())


def test_landmarks_are_where_the_pose_puts_them():
    pose = Pose(yaw=0.0, pitch=0.0, turn=50j, place=100 + 80j)  # a quarter turn, 50 pixels a unit
    assert pose.forward(np.array([[0.0, 0.45], [1.0, 0.45]])) == pytest.approx(np.array([[100, 80], [100, 130]]))


def test_expressions_differ_as_in_real_faces():
    means = {}
    for expression in EXPRESSIONS:
        shapes = []
        for seed in range(60):
            rng = np.random.default_rng(seed)  # the same 60 people with every expression
            who = sample_identity(rng)
            shapes.append(points68(build_geometry(rng, who, sample_actions(rng, expression, 0.9))))
        means[expression] = np.mean(shapes, axis=0)

    def y(expression, *points):
        return means[expression][list(points), 1].mean()

    def height(expression, upper, lower):
        return y(expression, lower) - y(expression, upper)

    def mouth_width(expression):
        return means[expression][54, 0] - means[expression][48, 0]

    # y runs down
    assert y("happiness", 48, 54) < y("neutral", 48, 54) - 0.05 < y("sadness", 48, 54) - 0.1
    assert y("surprise", 19, 24) < y("neutral", 19, 24) - 0.05  # outer half of the brows
    assert y("anger", 21, 22) > y("neutral", 21, 22) + 0.05 > y("fear", 21, 22) + 0.1  # inner ends
    assert y("sadness", 21, 22) < y("neutral", 21, 22) - 0.05
    assert height("surprise", 62, 66) > 3 * height("happiness", 62, 66) > 0
    assert height("fear", 37, 41) > 1.2 * height("neutral", 37, 41) > 1.2 * height("disgust", 37, 41)
    assert mouth_width("fear") > mouth_width("neutral") + 0.05 > mouth_width("surprise") + 0.05
    assert y("disgust", 51) < y("neutral", 51) - 0.05  # upper lip
    assert y("disgust", 30) < y("neutral", 30) - 0.02  # nose
    contempt = [abs(p[48, 1] - p[54, 1]) for p in one_sided("contempt")]
    happiness = [abs(p[48, 1] - p[54, 1]) for p in one_sided("happiness")]
    assert np.mean(contempt) > 3 * np.mean(happiness)


def one_sided(expression):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        who = sample_identity(rng)
        yield points68(build_geometry(rng, who, sample_actions(rng, expression, 0.9)))


def test_intensity_scales_the_expression():
    def corner(intensity):
        ys = []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            who = sample_identity(rng)
            ys.append(build_geometry(rng, who, sample_actions(rng, "happiness", intensity)).lips["inner_up"][0, 1])
        return np.mean(ys)

    assert corner(1.0) < corner(0.5) < corner(0.1)


def test_dark_pixels_are_the_pupils():
    # Landmarks and picture agree: the eye centre is darker than the cheek below it.
    darker = 0
    for seed in range(20):
        face = render_face(np.random.default_rng(seed), "surprise", 1.0, 160)
        (x, y), (_, nose_y) = face.landmarks[0], face.landmarks[2]
        patch = face.image[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].mean()
        cheek = face.image[round(nose_y) - 2 : round(nose_y) + 3, round(x) - 2 : round(x) + 3].mean()
        darker += patch < cheek
    assert darker >= 17  # closed, covered and mirrored eyes are few


@pytest.mark.parametrize("kind", KINDS)
def test_mtcnn_finds_the_faces(archives, kind):
    with open_source(archives[kind]) as source:
        index = registry.get(kind).index(source)
        chosen = index.iloc[:40]
        contents = dict(source.stream(chosen["path"]))
    detector, found, errors = MTCNN(), 0, []
    for row in chosen.to_dict("records"):
        image = Image.open(io.BytesIO(contents[row["path"]])).convert("RGB")
        factor = 3 if image.width < 96 else 1
        image = image.resize((factor * image.width, factor * image.height), Image.Resampling.BICUBIC)
        boxes, _, points = detector.detect(image, landmarks=True)
        found += boxes is not None
        if boxes is not None and "landmark_0_x" in row:
            true = np.array([[row[f"landmark_{i}_{axis}"] for axis in "xy"] for i in range(5)])
            distance = np.linalg.norm(true[1] - true[0])
            errors.append(np.linalg.norm(np.asarray(points[0], float) - true, axis=1).mean() / distance)
    assert found >= 0.95 * len(chosen)
    if kind != "ferplus":
        assert np.median(errors) < 0.12  # of the distance between the eyes


def five_of(points):
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def assert_landmarks(points, size):
    assert points.shape == (5, 2)
    assert ((points >= 0) & (points < size)).all()
    left_eye, right_eye, nose, left_mouth, right_mouth = points
    assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < min(left_mouth[1], right_mouth[1])
    assert left_eye[1] < nose[1] < max(left_mouth[1], right_mouth[1])
