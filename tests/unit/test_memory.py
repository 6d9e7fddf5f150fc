"""A training on a dataset of AffectNet's size stays within 2 GB."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from transfer.faces.store import store_writer
from transfer.layout import Layout

ROOT = Path(__file__).parents[2]
TRAIN = (74874, 134415, 25459, 14090, 6378, 3803, 24882)  # AffectNet with seven classes (docs/data.md)
TEST = 500
STEPS, BATCHES = 5, 200

# What a process of its own runs: some steps of the training itself, then batches without the network.
RUN = """
import json, sys
from pathlib import Path
from tiny_training import tiny_params
from transfer.bench.train import peak_resident
from transfer.layout import Layout
from transfer.training.batches import training_batches
from transfer.training.listeners import Listener
from transfer.training import run
from transfer.training.run import fit
params = tiny_params(model={"img_size": 112}, train={"batch_size": 16})
results, steps, batches = Path(sys.argv[1]), *map(int, sys.argv[2:])
before = peak_resident()

class Enough(Exception):
    pass

class Remember(Listener):
    def on_start(self, run):
        self.run = run

done, listener = [], Remember()
def some_steps(network, optimizer, made, meter, hyper, precision, after_step, *rest):
    def on_batch(images):
        done.append(images)
        if len(done) == steps:
            raise Enough
    return train_epoch(network, optimizer, made, meter, hyper, precision, on_batch, *rest)

train_epoch, run.train_epoch = run.train_epoch, some_steps
try:
    fit(params, "faces", "full", 0, Layout("tiny", results), listeners=[listener])
except Enough:
    pass
data = listener.run.data
trained = peak_resident()
made = training_batches(
    data.store, data.targets, data.plan, data.batch_size, params.train.augment, 1, 2, listener.run.device,
)
for _, (images, *_) in zip(range(batches), made):
    done.append(len(images))
print(json.dumps({"images": sum(done), "steps": data.steps, "before": before, "trained": trained,
                  "peak": peak_resident()}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_training_on_a_store_of_affectnets_size(tmp_path):
    layout = Layout("tiny", tmp_path)
    data = layout.data("faces")
    data.mkdir(parents=True)
    labels = np.repeat(np.arange(7), np.array(TRAIN) + TEST)
    rng = np.random.default_rng(0)
    rng.shuffle(labels)
    split = np.full(len(labels), "train", object)
    for label in range(7):
        rows = np.flatnonzero(labels == label)
        split[rows[:TEST]] = "test"
        split[rows[TEST : TEST + TRAIN[label] // 10]] = "val"
    with store_writer(data / "aligned.npy", len(labels), 112):
        pass  # sparse: all its length, and no disk
    black = hashlib.sha256(bytes(112 * 112 * 3)).hexdigest()
    names = [f"Manually_Annotated_Images/{row % 1300}/{row:064x}.jpg" for row in range(len(labels))]
    common = {"sample": names, "split": split, "label": labels}
    hashes = {"sha256": black, "source_sha256": [f"{row:064x}" for row in range(len(labels))]}
    classes = np.array([f"class{label}" for label in range(7)])[labels]
    pd.DataFrame(common | {"class_name": classes} | hashes).to_parquet(data / "aligned.parquet", index=False)
    pd.DataFrame(common | {"row": np.arange(len(labels))}).to_parquet(data / "split.parquet", index=False)
    chosen = [np.flatnonzero((labels == label) & (split == "train")) for label in range(7)]
    largest = max(map(len, chosen))
    np.save(layout.plan("faces", "full"), np.concatenate([np.resize(rows, largest) for rows in chosen]))

    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path, str(STEPS), str(BATCHES)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/unit")]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (data / "aligned.npy").stat().st_size > 10e9
    assert found["steps"] == largest * 7 // 16 and found["images"] == 16 * (STEPS + BATCHES)
    assert found["peak"] < 2e9, found
