"""The aligned store: its rows, its memory, its check, and the digests of the test faces."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from transfer.faces.store import (
    EVALUATION_COLUMNS,
    check_store,
    digest_test_faces,
    evaluation_faces,
    store_writer,
)
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def test_it_is_a_numpy_file_whose_rows_come_in_any_order(tmp_path):
    faces = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    with store_writer(tmp_path / "store.npy", 6, 8) as store:
        for row in (4, 0, 5, 2, 1):
            store[row] = faces[row]
    faces[3] = 0
    np.save(tmp_path / "expected.npy", faces)
    assert (tmp_path / "store.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert np.array_equal(np.load(tmp_path / "store.npy", mmap_mode="r"), faces)


def test_another_shape_or_type_is_refused(tmp_path):
    with store_writer(tmp_path / "store.npy", 2, 8) as store:
        for face in (np.zeros((9, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3))):
            with pytest.raises(ValueError, match=r"a row of the store is uint8 \(8, 8, 3\), not"):
                store[0] = face


# What a process of its own runs: the peak of its memory, in MB, before and after.
PEAK = """
def peak():
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
"""
READ = """
import numpy as np, torch
from pathlib import Path
from transfer.faces.store import store_writer
from transfer.training.batches import FaceStore
torch.set_num_threads(1)
path, rows, side = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with store_writer(path, rows, 112):
    pass
order = np.random.default_rng(0).permutation(rows)
FaceStore(path, side, order[:256]).faces(order[:256])
before = peak()
store = FaceStore(path, side, order)
for start in range(0, rows, 128):
    store.faces(order[start : start + 128])
"""
WRITE = """
import numpy as np, pandas as pd
from transfer.faces.align import align_dataset
from transfer.faces.align import BOX_COLUMNS, LANDMARK_COLUMNS
rows = int(sys.argv[2])
index = pd.DataFrame({"sample": np.arange(rows).astype(str), "split": "train", "label": 0, "class_name": "x"})
index["path"] = index["sample"]
faces = pd.DataFrame(np.nan, range(rows), LANDMARK_COLUMNS + BOX_COLUMNS).assign(status="none", n_faces=0)
image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
def run(n):
    images = ((i, image, "") for i in range(n))
    path = sys.argv[1]
    align_dataset(images, index[:n], faces[:n], path, path + ".parquet", size=224, template="none")
run(8)
before = peak()
run(rows)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("script", "arguments", "megabytes"),
    [
        (READ, ("20000", "112"), 753),  # in memory at a time: 64 MB of faces, and what the kernel maps around them
        (READ, ("20000", "104"), 649),  # more than is held in memory after resizing
        (WRITE, ("2000",), 301),
    ],
)
def test_memory_does_not_grow_with_the_store(tmp_path, script, arguments, megabytes):
    ending = "print(before / 1e6, peak() / 1e6, Path(sys.argv[1]).stat().st_size / 1e6)"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys\nfrom pathlib import Path\n{PEAK}{script}\n{ending}",
            tmp_path / "s.npy",
            *arguments,
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    before, peak, size = map(float, done.stdout.split())
    assert size >= megabytes * 0.99
    assert peak - before < size / 2, f"{peak - before:.0f} MB more for a store of {size:.0f} MB"


@pytest.fixture
def aligned(tmp_path):
    """Manifest and path of a store of five faces: two to train on, one to validate on, two to test on."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "aligned.npy", pixels)
    table = pd.DataFrame(
        {
            "sample": ["t1", "b", "v", "t2", "a"],
            "split": ["train", "test", "val", "train", "test"],
            "label": [0, 0, 0, 1, 1],
            "class_name": ["x", "x", "x", "y", "y"],
            "sha256": [hashlib.sha256(face.tobytes()).hexdigest() for face in pixels],
            "source_sha256": list("12345"),
        }
    )
    return table, tmp_path / "aligned.npy"


def test_the_manifest_lists_what_is_never_trained_on(aligned):
    table, _ = aligned
    listed = evaluation_faces(table)
    assert listed.columns.tolist() == EVALUATION_COLUMNS
    assert listed[["sample", "split", "source_sha256"]].values.tolist() == [
        ["a", "test", "5"],
        ["b", "test", "2"],
        ["v", "val", "3"],
    ]


def test_the_digest_by_its_definition(aligned):
    table, _ = aligned
    hashes = table.set_index("sample")["sha256"]
    lines = f"a 1 {hashes['a']}\nb 0 {hashes['b']}\n"
    found = digest_test_faces(table)
    assert found["images"] == 2
    assert found["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert found["source_sha256"] == hashlib.sha256(b"a 1 5\nb 0 2\n").hexdigest()


def test_the_digest_changes_with_test_faces_alone(aligned):
    table, _ = aligned
    before = digest_test_faces(table)
    assert digest_test_faces(table.iloc[::-1]) == before, "order"
    training = table.copy()
    training.loc[table["split"] != "test", ["label", "sha256", "source_sha256"]] = [7, "0", "0"]
    assert digest_test_faces(training) == before
    for column, value in (("sample", "c"), ("label", 3), ("sha256", "0")):
        changed = table.copy()
        changed.loc[1, column] = value
        assert digest_test_faces(changed)["sha256"] != before["sha256"], column
    changed = table.copy()
    changed.loc[1, "sha256"] = "0"
    assert digest_test_faces(changed)["source_sha256"] == before["source_sha256"]


def test_an_untouched_store_passes(aligned):
    table, path = aligned
    check_store(path, table)


def test_one_changed_byte_of_a_test_face_is_found(aligned):
    table, path = aligned
    content = bytearray(path.read_bytes())
    content[-(32 * 32 * 3) - 1] ^= 1  # the last byte of a training face is not looked at
    path.write_bytes(content)
    check_store(path, table)
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"aligned\.npy, row 4 \(a\): not the face that was aligned; make it again"):
        check_store(path, table)


def test_a_store_of_another_alignment(aligned):
    table, path = aligned
    np.save(path, np.load(path)[:4])
    with pytest.raises(UserError, match=r"holds uint8 \(4, 32, 32, 3\), but its manifest lists 5 faces"):
        check_store(path, table)


@pytest.mark.parametrize("length", [0, 10, 1000])
def test_a_truncated_store(aligned, length):
    table, path = aligned
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"aligned\.npy: not an aligned store .*; make it again") as caught:
        check_store(path, table)
    assert "\n" not in str(caught.value)


def test_a_manifest_of_an_older_version(aligned):
    table, path = aligned
    with pytest.raises(UserError, match=r"aligned\.parquet: no column source_sha256; make it again"):
        check_store(path, table.drop(columns="source_sha256"))
