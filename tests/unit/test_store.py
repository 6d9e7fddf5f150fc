"""Writing and reading the aligned store: the right rows, in little memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from transfer.faces.store import store_writer

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
READ = """
import numpy as np, torch
from pathlib import Path
from transfer.bench.memory import resident
from transfer.faces.store import store_writer
from transfer.training.batches import FaceStore
torch.set_num_threads(1)
path, rows, side = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with store_writer(path, rows, 112):
    pass
order = np.random.default_rng(0).permutation(rows)
FaceStore(path, side, order[:256]).faces(order[:256])
before = resident("VmHWM")["VmHWM"]
store = FaceStore(path, side, order)
for start in range(0, rows, 128):
    store.faces(order[start : start + 128])
"""
WRITE = """
import numpy as np, pandas as pd
from transfer.bench.memory import resident
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
before = resident("VmHWM")["VmHWM"]
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
    ending = 'print(before / 1e6, resident("VmHWM")["VmHWM"] / 1e6, Path(sys.argv[1]).stat().st_size / 1e6)'
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys\nfrom pathlib import Path\n{script}\n{ending}",
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
