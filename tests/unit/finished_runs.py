"""Two trainings of an epoch on random faces, and a second dataset whose test faces are theirs in another order."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from tiny_training import CLASSES, tiny_dataset, tiny_params

from transfer.layout import Layout
from transfer.params import Params
from transfer.training.run import train

# The second dataset: other numbers, a class that the training does not know, and one of its classes missing.
OTHER_CLASSES = ["neutral", "contempt", "happy"]
WHOLE = 2  # test faces of the first dataset in which no face was found


def params_of_two(**changes) -> Params:
    """Parameters with the datasets faces and others, each of an archive of its own."""
    definitions = {
        "faces": {"parser": "rafdb", "archive": "one"},
        "others": {"parser": "affectnet", "archive": "two.zip"},
    }
    changes = {"faces": {"size": 32}, "train": {"epochs": 1, "lr": 0.1, "hflip_tta": True}} | changes
    return tiny_params(**{"datasets": ["faces", "others"], "dataset_definitions": definitions} | changes)


def two_datasets(results: Path) -> Layout:
    """The folders of both datasets, and finished trainings of baseline and full on the first."""
    layout = tiny_dataset(results)
    data = layout.data("faces")
    aligned = pd.read_parquet(data / "aligned.parquet")
    aligned["status"] = "found"
    aligned.loc[aligned.index[aligned["split"] == "test"][:WHOLE], "status"] = "none"
    aligned.to_parquet(data / "aligned.parquet", index=False)
    for recipe in ("baseline", "full"):
        train(params_of_two(), "faces", recipe, 0, layout)
    write_others(layout)
    return layout


def write_others(layout: Layout) -> None:
    """The test faces of the first dataset from last to first; who is sad there is of contempt here."""
    pixels = np.load(layout.data("faces") / "aligned.npy")
    manifest = pd.read_parquet(layout.data("faces") / "aligned.parquet")
    rows = np.flatnonzero(manifest["split"] == "test")[::-1]
    names = [{"sad": "contempt"}.get(name, name) for name in manifest["class_name"].iloc[rows]]
    frame = pd.DataFrame(
        {
            "sample": [f"other{row:03}" for row in rows],
            "split": "test",
            "label": [OTHER_CLASSES.index(name) for name in names],
            "class_name": names,
            "status": "found",
            "sha256": [hashlib.sha256(pixels[row].tobytes()).hexdigest() for row in rows],
            "source_sha256": "",
        }
    )
    data = layout.data("others")
    data.mkdir()
    np.save(data / "aligned.npy", pixels[rows])
    frame.to_parquet(data / "aligned.parquet", index=False)
    frame[["sample", "split", "label"]].assign(row=range(len(rows))).to_parquet(data / "split.parquet", index=False)


__all__ = ["CLASSES", "OTHER_CLASSES", "WHOLE", "params_of_two", "two_datasets"]
