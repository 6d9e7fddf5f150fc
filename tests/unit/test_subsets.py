import shutil
from pathlib import Path

import pandas as pd
import pytest

from transfer.datasets.subsets import LISTS, find_subsets, list_files
from transfer.datasets.text import LISTS_FOLDER as FOLDER
from transfer.datasets.text import read_list
from transfer.params.datasets import DatasetDefinition
from transfer.utils.errors import UserError
from transfer.utils.files import sha256

SHARED = Path(__file__).parents[3] / "shared" / "raw"
HASHES = ["a" * 56, "0123456789abcdef" * 3 + "01234567", "f" * 56]

# One image of each list's format: (line, name, label)
LINES = {
    ("rafdb", "occlusion"): ("test_0003_aligned 3 4", "test_0003", 3),
    ("rafdb", "pose30"): ("0/test_0004_aligned.jpg", "test_0004", 0),
    ("rafdb", "pose45"): ("6/test_3060_aligned.jpg", "test_3060", 6),
    ("ferplus", "occlusion"): ("1_fer0034656.png 8 0", "fer0034656", 1),
    ("ferplus", "pose30"): ("4/fer0032228.jpg", "fer0032228", 4),
    ("ferplus", "pose45"): ("7/fer0032231.jpg", "fer0032231", 7),
    ("affectnet", "occlusion"): (f"val/5/{HASHES[0]}/", HASHES[0], 5),
    ("affectnet", "pose30"): (f"2/{HASHES[1]}.jpg", HASHES[1], 2),
    ("affectnet", "pose45"): (f"7/{HASHES[2]}/8.jpg", HASHES[2], 7),
}


def write(raw_dir, parser, subset, text):
    file = raw_dir / FOLDER / LISTS[parser][subset].file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    return file


def definition(parser, **options):
    return DatasetDefinition(parser=parser, archive=parser, options=options)


def index(rows):
    return pd.DataFrame(rows, columns=["sample", "split", "label"])


def test_every_list_has_a_case():
    assert set(LINES) == {(parser, subset) for parser, lists in LISTS.items() for subset in lists}
    for lists in LISTS.values():
        assert list(lists) == ["occlusion", "pose30", "pose45"]


@pytest.mark.parametrize(("parser", "subset"), LINES)
def test_formats(parser, subset, tmp_path):
    line, name, label = LINES[parser, subset]
    entry = LISTS[parser][subset]
    file = write(tmp_path, parser, subset, f"{line}\r\n\n  {line} \n{line}")
    assert read_list(file, entry) == [(name, label)] * 3
    assert write(tmp_path, parser, subset, f"{entry.example}\n") and len(read_list(file, entry)) == 1
    others = [other for (other_parser, _), (other, *_) in LINES.items() if other_parser != parser]
    for bad in [*others, line[1:], line[:-1], line + "x", line.replace("_", "-").replace("/", "-"), "x", f"9{line}"]:
        file.write_text(f"{line}\n{bad}\n")
        with pytest.raises(UserError, match=rf"{file.name}, line 2: .*; expected a line such as '") as error:
            read_list(file, entry)
        assert "\n" not in str(error.value)


def test_a_web_page_instead_of_a_list(tmp_path):
    file = write(tmp_path, "rafdb", "pose30", "<!DOCTYPE html><title>404</title>")
    with pytest.raises(UserError, match=r"val_raf_db_list\.txt: is an HTML page, not a text file"):
        read_list(file, LISTS["rafdb"]["pose30"])


def test_lists_that_are_there(tmp_path):
    assert list_files(tmp_path, definition("rafdb")) == {}
    pose = write(tmp_path, "rafdb", "pose45", "")
    occlusion = write(tmp_path, "affectnet", "occlusion", "")
    assert list_files(tmp_path, definition("rafdb", images="aligned")) == {"pose45": pose}
    assert list_files(tmp_path, definition("affectnet", classes=8)) == {"occlusion": occlusion}
    assert list_files(tmp_path, definition("affectnet", release="reduced")) == {}, "its images have other names"
    assert list_files(tmp_path, definition("holiday")) == {}
    drawn = DatasetDefinition(parser="rafdb", archive="demo_rafdb.zip", synthetic=1)
    assert list_files(tmp_path, drawn) == {}, "synthetic faces are not the people of the lists"


def test_oddities_are_counted(tmp_path):
    lines = [
        "test_0001_aligned 3 4",
        "test_0002_aligned 1 0",  # listed twice, as another kind of occlusion
        "test_0002_aligned 1 2",
        "test_0003_aligned 5 0",  # sadness (4) in the index
        "test_0003_aligned 5 1",
        "test_0009_aligned 0 0",  # no such image
        "test_0008_aligned 0 0",
    ]
    files = {
        "occlusion": write(tmp_path, "rafdb", "occlusion", "\r\n".join(lines)),
        "pose30": write(tmp_path, "rafdb", "pose30", "3/test_0001_aligned.jpg\n"),
        "pose45": write(tmp_path, "rafdb", "pose45", "0/test_0010_aligned.jpg\n"),
    }
    rows = [("train_00001", "train", 3), ("test_0001", "test", 3), ("test_0002", "test", 1), ("test_0003", "test", 4)]
    table, report = find_subsets(index([*rows, ("test_0004", "test", 1), ("test_0008", "train", 0)]), "rafdb", 7, files)
    assert list(table.itertuples(index=False, name=None)) == [
        ("test_0001", "occlusion"),
        ("test_0002", "occlusion"),
        ("test_0003", "occlusion"),
        ("test_0001", "pose30"),
    ]
    assert list(report) == ["occlusion", "pose30", "pose45"]
    assert report["occlusion"] == {
        "file": "rafdb_occlusion_list.txt",
        "sha256": sha256(files["occlusion"]),
        "rows": 7,
        "unique": 5,
        "listed_twice": ["test_0002", "test_0003"],
        "other_class": 0,
        "absent": 2,
        "absent_first": ["test_0009", "test_0008"],
        "label_differs": 1,
        "label_differs_first": ["test_0003"],
        "matched": 3,
    }
    assert report["pose45"]["matched"] == 0 and report["pose45"]["absent"] == 1


def test_affectnet_has_folders_and_may_have_no_contempt(tmp_path):
    lines = [f"val/{label}/{name}/" for label, name in zip((0, 7, 3), HASHES, strict=True)]
    files = {"occlusion": write(tmp_path, "affectnet", "occlusion", "\n".join(lines))}
    rows = index([(f"12/{HASHES[0]}", "test", 0), (f"3/{HASHES[2]}", "train", 3)])
    table, report = find_subsets(rows, "affectnet", 7, files)
    assert table["sample"].tolist() == [f"12/{HASHES[0]}"]
    counts = report["occlusion"]
    assert (counts["other_class"], counts["absent"], counts["absent_first"]) == (1, 1, [HASHES[2]])
    _, report = find_subsets(rows, "affectnet", 8, files)
    assert (report["occlusion"]["other_class"], report["occlusion"]["absent"]) == (0, 2)


def test_a_name_that_several_class_folders_have(tmp_path):
    names = [f"val/{label}/{HASHES[0]}" for label in (0, 1)] + [f"val/2/{HASHES[1]}"]
    lines = [f"val/0/{HASHES[0]}/", f"val/2/{HASHES[1]}/"]
    files = {"occlusion": write(tmp_path, "affectnet", "occlusion", "\n".join(lines))}
    table, report = find_subsets(index([(name, "test", n) for n, name in enumerate(names)]), "affectnet", 7, files)
    assert table["sample"].tolist() == names[2:] and report["occlusion"]["absent_first"] == [HASHES[0]]


def test_no_lists(tmp_path):
    table, report = find_subsets(index([("a", "test", 0)]), "rafdb", 7, {})
    assert report == {} and list(table.columns) == ["sample", "subset"]


@pytest.mark.skipif(not (SHARED / FOLDER).is_dir(), reason="the RAN authors' lists are not here")
def test_the_real_lists(tmp_path):
    """Rows and unique names of all nine, and their labels per class where known; see docs/data.md."""
    shutil.copytree(SHARED / FOLDER, tmp_path / FOLDER)
    expected = {
        "rafdb": {"occlusion": (735, 734), "pose30": (1247, 1247), "pose45": (558, 558)},
        "ferplus": {"occlusion": (605, 605), "pose30": (1170, 1170), "pose45": (633, 633)},
        "affectnet": {"occlusion": (683, 683), "pose30": (1949, 1944), "pose45": (985, 983)},
    }
    for parser, counts in expected.items():
        files = list_files(tmp_path, definition(parser))
        _, report = find_subsets(index([("nobody", "test", 0)]), parser, 8, files)
        assert {subset: (entry["rows"], entry["unique"]) for subset, entry in report.items()} == counts
        labels = {}
        for subset, file in files.items():
            for name, label in read_list(file, LISTS[parser][subset]):
                assert labels.setdefault(name, label) == label, "the three lists agree on an image's label"
    rafdb = list_files(tmp_path, definition("rafdb"))
    occluded = read_list(rafdb["occlusion"], LISTS["rafdb"]["occlusion"])
    assert [sum(label == i for _, label in occluded) for i in range(7)] == [72, 35, 47, 236, 122, 31, 192]
    turned = read_list(rafdb["pose30"], LISTS["rafdb"]["pose30"])
    assert [sum(label == i for _, label in turned) for i in range(7)] == [149, 38, 78, 446, 179, 75, 282]
    _, report = find_subsets(index([("nobody", "test", 0)]), "rafdb", 7, rafdb)
    assert report["occlusion"]["listed_twice"] == ["test_2464"]
