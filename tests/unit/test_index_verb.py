"""From a small archive to D/index.parquet, D/index.json and D/subsets.parquet, through the command line."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from archives import encrypted_zip_bytes, zip_bytes

from transfer import cli
from transfer.datasets.rafdb import CLASSES
from transfer.datasets.text import LISTS_FOLDER as FOLDER

ROOT = Path(__file__).parents[2]
DATA = Path("results/small/data/rafdb")
PARAMS = """
experiment: small
datasets: [rafdb]
dataset_definitions:
  rafdb: {expect: {train: [2, 1, 1, 1, 1, 1, 1], test: 7}}
"""


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    (tmp_path / "params/default.yaml").write_bytes((ROOT / "params/default.yaml").read_bytes())
    (tmp_path / "small.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def transfer(monkeypatch, capsys):
    """Run a verb on rafdb in this process: exit code, stdout, stderr."""

    def run(verb, *arguments):
        monkeypatch.setattr(sys, "argv", ["transfer", verb, "--dataset", "rafdb", "--params", "small.yaml", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return (end.value.code or 0, *capsys.readouterr())

    return run


def images(train):
    """Two training faces of surprise and one of each other class, where ``train`` is 8; one test face of each class."""
    labels = {f"train_{number:05d}": max(number, 1) for number in range(train)}
    labels |= {f"test_{number:04d}": number for number in range(1, 8)}
    return labels


def as_distributed(labels, password=b"secret"):
    """RAF-DB as its authors give it: encrypted zips inside."""
    pictures = {f"original/{name}.jpg": b"picture" for name in labels}
    aligned = {f"{name}_aligned.jpg": b"picture" for name in labels}
    lines = "".join(f"{name}.jpg {label}\n" for name, label in labels.items())
    return {
        "basic/EmoLabel/list_patition_label.txt": lines.encode(),
        "basic/Image/original.zip": encrypted_zip_bytes(pictures, password),
        "basic/Image/aligned.zip": encrypted_zip_bytes(aligned, password),
    }


@pytest.fixture
def archive():
    raw = Path("data/raw")
    raw.mkdir(parents=True)
    (raw / "rafdb.zip").write_bytes(zip_bytes(as_distributed(images(8))))
    (raw / "rafdb.zip.password").write_text("secret\n")
    return raw / "rafdb.zip"


def test_index_and_its_summary(transfer, archive):
    code, out, err = transfer("index")
    assert (code, err) == (0, "")
    assert out == "rafdb: 8 train, 7 test; left out: 15 images of basic/Image/aligned/, 0 missing\n"
    index = pd.read_parquet(DATA / "index.parquet")
    assert len(index) == 15 and index["path"][0] == "basic/Image/original/train_00000.jpg"
    summary = json.loads((DATA / "index.json").read_text())
    assert summary == {
        "dataset": "rafdb",
        "archive": "rafdb.zip",
        "parser": "rafdb",
        "options": {"images": "original"},
        "layout": None,
        "counts": {
            "train": {name: 2 if name == "surprise" else 1 for name in CLASSES},
            "test": dict.fromkeys(CLASSES, 1),
        },
        "expect": {"train": [2, 1, 1, 1, 1, 1, 1], "test": 7},
        "left_out": {"images of basic/Image/aligned/": 15, "missing": 0},
        "files": {
            "total": 33,
            "indexed": 15,
            "read": 3,
            "left_out": {
                "images of basic/Image/aligned/": {
                    "files": 15,
                    "first": [f"basic/Image/aligned/test_000{n}_aligned.jpg" for n in (1, 2, 3)],
                }
            },
            "damaged": {},
        },
        "noted": {},
        "repeated": [],
    }
    assert "secret" not in (DATA / "index.json").read_text()


def test_aligned_images_of_the_same_archive(transfer, archive):
    assert transfer("index", "--set", "dataset_definitions.rafdb.options={images: aligned}")[0] == 0
    index = pd.read_parquet(DATA / "index.parquet")
    assert index["path"][0] == "basic/Image/aligned/train_00000_aligned.jpg"


def test_wrong_password_is_one_line(transfer, archive):
    archive.with_name("rafdb.zip.password").write_text("guess")
    code, out, err = transfer("index")
    assert (code, out) == (1, "")
    assert err.startswith(
        "error: data/raw/rafdb.zip/basic/Image/original.zip: wrong password (data/raw/rafdb.zip.password)"
    )
    assert err.count("\n") == 1
    assert not DATA.exists()


def test_other_counts_are_a_table_a_file_and_one_line(transfer, archive):
    archive.write_bytes(zip_bytes(as_distributed(images(8) | {"train_00099": 5, "train_00098": 2})))
    code, out, err = transfer("index")
    assert code == 1
    assert err == (
        "error: dataset rafdb (data/raw/rafdb.zip): image counts differ in 2 of 8 cells, first train fear: expected 1, "
        "found 2; complete the archive, or set expect to your counts, or to any "
        "(table: results/small/data/rafdb/counts.csv)\n"
    )
    lines = out.splitlines()
    assert lines[0].split() == ["split", "class", "expected", "found", "difference"]
    assert lines[2].split() == ["train", "fear", "1", "2", "+1", "<--"]
    assert lines[8].split() == ["test", "all", "7", "7"]
    table = pd.read_csv(DATA / "counts.csv")
    assert table["difference"].tolist() == [0, 1, 0, 0, 1, 0, 0, 0]
    assert not (DATA / "index.parquet").exists() and not (DATA / "index.json").exists()
    assert transfer("index", "--set", "dataset_definitions.rafdb.expect=any")[0] == 0
    assert not (DATA / "counts.csv").exists(), "of an earlier run"


def test_half_of_the_images(transfer, archive):
    files = as_distributed(images(8))
    files["basic/Image/original.zip"] = zip_bytes({f"train_{n:05d}.jpg": b"picture" for n in range(5)})
    archive.write_bytes(zip_bytes(files))
    code, out, err = transfer("index")
    assert (code, out) == (1, "")
    assert (
        "10 of 15 listed images are absent (train 3 of 8, test 7 of 7), first basic/Image/original/train_00005.jpg, "
        in err
    )
    assert err.count("\n") == 1


def test_subsets(transfer, archive):
    transfer("index")
    code, out, err = transfer("subsets")
    assert (code, err) == (0, "")
    assert out == "rafdb: no subsets, since data/raw/challenge_lists has no lists for it\n"
    lists = archive.parent / FOLDER / "RAF_DB_dir"
    lists.mkdir(parents=True)
    (lists / "rafdb_occlusion_list.txt").write_bytes(b"test_0003_aligned 2 4\r\ntest_0009_aligned 2 4\r\n")
    (lists / "val_raf_db_list_45.txt").write_bytes(b"0/test_0001_aligned.jpg\n")
    code, out, err = transfer("subsets")
    assert (code, out, err) == (0, "rafdb: occlusion 1 of 2, pose45 1 of 1\n", "")
    table = pd.read_parquet(DATA / "subsets.parquet")
    assert table.to_dict("list") == {"sample": ["test_0003", "test_0001"], "subset": ["occlusion", "pose45"]}
    report = json.loads((DATA / "subsets.json").read_text())
    assert list(report) == ["occlusion", "pose45"] and report["occlusion"]["absent_first"] == ["test_0009"]
    (lists / "val_raf_db_list_45.txt").write_bytes(b"0/test_0099_aligned.jpg\n")
    out = transfer("subsets")[1]
    assert out == "rafdb: occlusion 1 of 2, pose45 0 of 1; warning: no test image is in pose45\n"
