"""A folder of random faces as the steps before the training leave it, and parameters to train on it in a moment."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from transfer.layout import Layout
from transfer.params import Params

CLASSES = ["happy", "sad", "neutral"]
COUNTS = {"train": (10, 7, 5), "val": (3, 3, 3), "test": (4, 3, 3)}
OUTPUTS = ("model.safetensors", "history.csv", "predictions.parquet", "env.json")


def tiny_params(**changes) -> Params:
    """Parameters with the recipes baseline and full; ``train`` and ``model`` among the changes are added to."""
    train = {"epochs": 3, "batch_size": 8, "lr": 0.02, "precision": "fp32", "device": "cpu"} | changes.pop("train", {})
    model = {"name": "transfer_tiny", "img_size": 16} | changes.pop("model", {})
    values = {
        "experiment": "tiny",
        "datasets": ["faces"],
        "recipes": ["baseline", "full"],
        "seeds": [0, 1],
        "tracking": False,
        "dataset_definitions": {"faces": {"parser": "rafdb", "archive": "none.zip"}},
        "recipe_definitions": {"baseline": {"local_cnns": False}, "full": {"mad": True, "msad": True}},
    }
    return Params.model_validate(values | {"train": train, "model": model} | changes)


def tiny_dataset(results: Path, *, votes: bool = False, side: int = 32) -> Layout:
    """Random faces tinted by class, so that there is something to learn; every fifth one has another's tint."""
    layout = Layout("tiny", results)
    data = layout.data("faces")
    data.mkdir(parents=True)
    rng = np.random.default_rng(5)
    rows = [(split, label) for split, counts in COUNTS.items() for label, n in enumerate(counts) for _ in range(n)]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    split, labels = (np.array(column) for column in zip(*rows, strict=True))
    pixels = rng.integers(0, 200, (len(rows), side, side, 3))
    for i, label in enumerate(labels):
        pixels[i, :, :, (label + (i % 5 == 0)) % 3] += 55
    pixels = pixels.astype(np.uint8)
    np.save(data / "aligned.npy", pixels)
    samples = [f"face{i:03}" for i in range(len(rows))]
    common = {"sample": samples, "split": split, "label": labels}
    names = [CLASSES[label] for label in labels]
    hashes = {
        "sha256": [hashlib.sha256(face.tobytes()).hexdigest() for face in pixels],
        "source_sha256": [hashlib.sha256(sample.encode()).hexdigest() for sample in samples],
    }
    pd.DataFrame(common | {"class_name": names} | hashes).to_parquet(data / "aligned.parquet", index=False)
    pd.DataFrame(common | {"row": np.arange(len(rows))}).to_parquet(data / "split.parquet", index=False)
    index = pd.DataFrame(common | {"path": samples, "class_name": names})
    if votes:
        for label, name in enumerate(CLASSES):
            index[f"vote_{name}"] = np.where(labels == label, 6, rng.integers(0, 4, len(rows)))
        index["vote_unknown"] = 1
        index = index.iloc[::-1]  # the index has an order, and rows, of its own
    index.to_parquet(data / "index.parquet", index=False)
    plan = [row for row in range(len(rows)) if split[row] == "train" for _ in range(1 + (labels[row] == 2))]
    np.save(layout.plan("faces", "full"), np.array(plan))
    return layout


def contents(layout: Layout, recipe: str, seed: int = 0) -> dict[str, bytes]:
    """The bytes of a run's outputs that the seed decides."""
    return {name: (layout.run("faces", recipe, seed) / name).read_bytes() for name in OUTPUTS[:3]}
