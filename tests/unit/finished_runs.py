"""Four runs of one epoch on random faces, and a second dataset with the same test faces in another order."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_training import CLASSES, tiny_dataset, tiny_params

from transfer.layout import Layout
from transfer.params import Params

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


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Layout:
    """The folders of both datasets, and baseline and full on the first with two seeds each; only to be read."""
    from transfer.training.run import train  # for seconds, which only these tests have to spend

    layout = tiny_dataset(tmp_path_factory.mktemp("finished") / "results")
    data = layout.data("faces")
    aligned = pd.read_parquet(data / "aligned.parquet")
    aligned["status"] = "found"
    aligned.loc[aligned.index[aligned["split"] == "test"][:WHOLE], "status"] = "none"
    aligned.to_parquet(data / "aligned.parquet", index=False)
    params = params_of_two()
    for recipe in params.recipes:
        for seed in params.seeds:
            train(params, "faces", recipe, seed, layout)
    write_others(layout)
    return layout


@pytest.fixture
def layout(finished, tmp_path) -> Layout:
    """A copy of ``finished`` that a test may change."""
    # Without the chain of digests, which would refuse any edit before the check that a test is about.
    shutil.copytree(finished.results, tmp_path / "results", ignore=shutil.ignore_patterns("chain"))
    return Layout("tiny", tmp_path / "results")


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


def edited(weights: Path, path: Path, **changes) -> Path:
    """A copy of the weights with changes in their description."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(weights, "pt") as file:
        about = json.loads(file.metadata()["transfer"])
    save_file(load_file(weights), path, {"transfer": json.dumps(about | changes)})
    return path


__all__ = ["CLASSES", "OTHER_CLASSES", "WHOLE", "edited", "finished", "layout", "params_of_two"]
