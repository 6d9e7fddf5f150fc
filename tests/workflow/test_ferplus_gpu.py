"""params/ferplus-gpu.yaml at its smallest: its network, faces and training, on few synthetic faces and a CPU."""

import json
import shutil

import pandas as pd
import pytest
from repository import Repository

pytestmark = pytest.mark.workflow

# What a machine without a GPU and without FERPlus needs otherwise; all else is the file's own.
SMALL = """
datasets: [demo_ferplus]
dataset_definitions: {demo_ferplus: {synthetic_scale: 0.1}}
recipes: [base]
baseline: base
seeds: [0]
train: {device: cpu, epochs: 1, batch_size: 16, threads: 1}
recipe_definitions: {base: {train: {compile: false}}}
"""


def test_the_configuration_for_a_gpu_trains(sources, tmp_path):
    root = shutil.copytree(sources, tmp_path / "repository")
    (root / "small.yaml").write_text(SMALL)
    repository = Repository(root, "--configfile", "params/ferplus-gpu.yaml", "small.yaml")
    done = repository.snakemake()
    assert done.returncode == 0, done.stdout
    table = pd.read_csv(root / "results/table1.csv")
    assert list(table["protocol"]) == ["last", "val_selected", "test_selected"] and (table["n_faces"] == 29).all()
    env = json.loads((root / "results/ferplus-gpu/runs/demo_ferplus/base/seed0/env.json").read_text())
    assert (env["params"]["model"]["name"], env["params"]["model"]["img_size"]) == ("transfer_base", 112)
    assert (env["params"]["train"]["ema"], env["params"]["train"]["targets"]) == (0.999, "soft_labels")


def test_the_whole_of_it_is_planned(sources, tmp_path):
    root = shutil.copytree(sources, tmp_path / "repository")
    (root / "data/raw").mkdir(parents=True)
    (root / "data/raw/ferplus.tar.gz").touch()
    jobs = Repository(root, "--configfile", "params/ferplus-gpu.yaml").scheduled("tables")
    assert (jobs["train_model"], jobs["evaluate_robustness"], jobs["make_table"]) == (21, 21, 7)
