import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from archives import FORMS, noise, pack

from transfer.datasets import registry
from transfer.datasets.archives import open_source
from transfer.datasets.counts import check_counts
from transfer.utils.errors import UserError

LIST = "basic/EmoLabel/list_patition_label.txt"
CLASSES = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
ROWS = [("train_00002", 7), ("train_00001", 5), ("test_0001", 1)]
POINTS = {
    "train_00002": [30, 40, 60, 41, 45, 60, 34, 80, 56, 81],
    "train_00001": [10, 20, 30, 22, 21, 33, 12, 44, 28, 45],
}


@pytest.fixture
def files():
    files = {LIST: "".join(f"{name}.jpg {label}\n" for name, label in ROWS).encode()}
    for i, (name, _) in enumerate(ROWS):
        files[f"basic/Image/original/{name}.jpg"] = noise(i, suffix="jpg")[0]
        files[f"basic/Image/aligned/{name}_aligned.jpg"] = noise(i, 10, 10, suffix="jpg")[0]
    for name, points in POINTS.items():
        files[f"basic/Annotation/manual/{name}_manu_attri.txt"] = annotation(points, (1, 0, 3))
    return files


def annotation(points, attributes):
    lines = [f"{x:.3f}\t{y:.3f}" for x, y in zip(points[::2], points[1::2], strict=True)]
    return "\n".join([*lines, *map(str, attributes), ""]).encode()


def index(files, tmp_path, form="folder", **options):
    with open_source(pack(files, form, tmp_path / "rafdb")) as source:
        return registry.get("rafdb").index(source, **options)


@pytest.mark.parametrize("form", FORMS)
def test_index(form, files, tmp_path):
    table = index(files, tmp_path, form)
    assert list(table.columns[:5]) == ["sample", "path", "split", "label", "class_name"]
    assert table["sample"].tolist() == [name for name, _ in ROWS]  # the order of the list
    assert table["path"].tolist() == [f"basic/Image/original/{name}.jpg" for name, _ in ROWS]
    assert table["split"].tolist() == ["train", "train", "test"]
    assert table["label"].tolist() == [6, 4, 0] and table["label"].dtype == np.int64
    assert table["class_name"].tolist() == ["neutral", "sadness", "surprise"]
    for row, (name, points) in enumerate(POINTS.items()):
        assert table.loc[row, registry.LANDMARKS].tolist() == points, name
    assert table.loc[2, registry.LANDMARKS].isna().all()
    assert table["gender"].tolist()[:2] == [1, 1] and table["race"].tolist()[:2] == [0, 0]
    assert table["age"].tolist()[:2] == [3, 3] and table["age"].isna().tolist() == [False, False, True]
    assert table.attrs["missing"] == 0 and table.attrs["dropped"] == {"images of basic/Image/aligned/": 3}


def test_index_survives_parquet(files, tmp_path):
    table = index(files, tmp_path)
    table.to_parquet(tmp_path / "index.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "index.parquet"), table)


def test_aligned_images_have_no_landmarks(files, tmp_path):
    table = index(files, tmp_path, images="aligned")
    assert table["path"][0] == "basic/Image/aligned/train_00002_aligned.jpg"
    assert not set(registry.LANDMARKS) & set(table.columns)
    assert table["age"][0] == 3


def test_without_annotations(files, tmp_path):
    bare = {name: content for name, content in files.items() if "Annotation" not in name}
    assert list(index(bare, tmp_path).columns) == ["sample", "path", "split", "label", "class_name"]


def test_left_is_the_smaller_x(files, tmp_path):
    for name, p in POINTS.items():
        mirrored = [*p[2:4], *p[0:2], *p[4:6], *p[8:10], *p[6:8]]
        files[f"basic/Annotation/manual/{name}_manu_attri.txt"] = annotation(mirrored, (1, 0, 3))
    table = index(files, tmp_path)
    assert table.loc[:1, registry.LANDMARKS].to_numpy().tolist() == list(POINTS.values())


@pytest.mark.parametrize(
    "line",
    ["train_00001.jpg", "train_00001.jpg 0", "train_00001.jpg 8", "train_00001.jpg five", "valid_1.jpg 3", "a b c"]
    + ["../../train_00001.jpg 3", "train_00001.jpg 12", "train_00001.png 3"],
)
def test_bad_line(line, files, tmp_path):
    files[LIST] = f"test_0001.jpg 1\n\n{line}\n".encode()
    with pytest.raises(UserError, match=r"list_patition_label\.txt, line 3: .*label from 1 to 7"):
        index(files, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"1 2\n" * 5, b"1 2\n" * 5 + b"a\n0\n1\n", b"nan 2\n" * 5 + b"0\n0\n1\n", b"\xff"]
)
def test_bad_annotation(content, files, tmp_path):
    files["basic/Annotation/manual/train_00001_manu_attri.txt"] = content
    with pytest.raises(UserError, match=r"train_00001_manu_attri\.txt"):
        index(files, tmp_path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ((3, 0, 0), r"line 6: gender is 3; expected 0 \(male\), 1 \(female\), 2 \(unsure\)"),
        ((0, -1, 0), r"line 7: race is -1; expected 0 \(Caucasian\)"),
        ((0, 0, 2.5), r"line 8: age is 2\.5; expected 0 \(0-3\), 1 \(4-19\)"),
        ((0, 0, 5), r"line 8: age is 5; expected .*4 \(70\+\)"),
    ],
)
def test_attribute_that_has_no_meaning(attributes, message, files, tmp_path):
    files["basic/Annotation/manual/train_00001_manu_attri.txt"] = annotation(POINTS["train_00001"], attributes)
    with pytest.raises(UserError, match=rf"train_00001_manu_attri\.txt, {message}"):
        index(files, tmp_path)


def test_absent_images(files, tmp_path):
    del files["basic/Image/original/train_00001.jpg"]
    message = (
        r"1 of 3 listed images are absent \(train 1 of 2, test 0 of 1\), "
        r"first basic/Image/original/train_00001\.jpg;"
    )
    with pytest.raises(UserError, match=message):
        index(files, tmp_path)
    table = index(files, tmp_path, missing="drop")
    assert table["sample"].tolist() == ["train_00002", "test_0001"] and table.index.tolist() == [0, 1]
    assert table.attrs["missing"] == 1


def test_image_listed_twice(files, tmp_path):
    files[LIST] += b"train_00001.jpg 4\n"
    with pytest.raises(UserError, match="1 images are listed twice, such as train_00001"):
        index(files, tmp_path)


def test_not_rafdb(tmp_path):
    with pytest.raises(UserError, match=r"holds no EmoLabel/list_patition_label\.txt"):
        index({"a.txt": b""}, tmp_path)


def test_official_counts():
    parser = registry.get("rafdb")
    (counts,) = parser.official()
    assert sum(counts["train"]) == 12_271 and sum(counts["test"]) == 3_068
    rows = [
        (split, label) for split, numbers in counts.items() for label, n in enumerate(numbers) for _ in range(n)
    ]  # fmt: skip
    check_counts(pd.DataFrame(rows, columns=["split", "label"]), parser.classes(), "official", parser.official())


def test_registry():
    parser = registry.get("rafdb")
    assert parser.classes() == parser.classes(images="aligned") == CLASSES
    assert parser.resolve({}) == {"images": "original"}
    with pytest.raises(UserError, match="rafdb: unknown option 'image'; allowed: images"):
        parser.resolve({"image": "aligned"})
    with pytest.raises(UserError, match="rafdb: option images is 'cropped'; allowed: original, aligned"):
        parser.classes(images="cropped")
    with pytest.raises(UserError, match="unknown dataset 'raf'; allowed: affectnet, csv, ferplus, image_folder, rafdb"):
        registry.get("raf")


def test_finding_a_parser_imports_nothing_heavy():
    code = (
        "import sys; from transfer.datasets import registry, subsets; from transfer.sources import table, fetch\n"
        "[registry.get(name) for name in ('rafdb', 'ferplus', 'affectnet')]\n"
        "sys.exit(repr({'torch', 'pandas', 'numpy', 'PIL', 'requests', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == "set()"
