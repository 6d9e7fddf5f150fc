"""The embedded default from a bare checkout to the table, at its smallest size."""

import json
import random

import numpy as np
import pandas as pd
import pytest

from transfer.datasets import registry
from transfer.layout import Layout

pytestmark = pytest.mark.workflow

COLUMNS = (
    "experiment,dataset,recipe,local_cnns,mad,msad,protocol,n_seeds,accuracy,accuracy_std,ci95_low,ci95_high,"
    "mean_class_accuracy,delta_vs_baseline,p_value,reported_accuracy,reported_source,"
    "n_faces,delta_ci95_low,delta_ci95_high,p_holm,effect_size,effect,"
    "model,loss,backbone,parameters,macs,pretrained"
)
DATASETS = {"demo_rafdb": ("rafdb", 7), "demo_ferplus": ("ferplus", 8), "demo_affectnet": ("affectnet", 8)}
RECIPES, SEEDS, PROTOCOLS = ("baseline", "full"), (0, 1), ("last", "val_selected", "test_selected")


def test_table(finished):
    repository, _ = finished
    text = (repository.root / "results/table1.csv").read_text()
    assert text == (repository.root / "results/smallest/table1.csv").read_text()
    assert text.splitlines()[0] == COLUMNS
    table = pd.read_csv(repository.root / "results/table1.csv")
    rows = [(d, r, p) for d in DATASETS for r in RECIPES for p in PROTOCOLS]
    assert list(table[["dataset", "recipe", "protocol"]].itertuples(index=False, name=None)) == rows
    assert (table["experiment"] == "smallest").all()
    assert (table["n_seeds"] == 2).all()
    assert table["accuracy"].between(0, 100).all()
    assert table["reported_accuracy"].isna().all(), "synthetic faces have no published numbers"
    full = table[table["recipe"] == "full"].groupby("dataset")[["local_cnns", "mad", "msad"]].first()
    assert full.loc["demo_rafdb"].tolist() == [2, 0.6, 0.3]
    assert full.loc["demo_affectnet"].tolist() == [2, 0.2, 0.6], "the dataset's own rates"
    markdown = (repository.root / "results/smallest/table1.md").read_text()
    assert markdown.count("Synthetic faces: not a result on") == 3


def test_every_file_of_the_contract_is_there_and_agrees_with_the_table(finished):
    repository, _ = finished
    table = pd.read_csv(repository.root / "results/table1.csv").set_index(["dataset", "recipe", "protocol"])
    markdown = (repository.root / "results/table1.md").read_text()
    for dataset, (parser, n_classes) in DATASETS.items():
        options = {"affectnet": {"classes": 8}}.get(parser, {})
        names = registry.get(parser).classes(**options)
        assert len(names) == n_classes
        data = repository.root / "results/smallest/data" / dataset
        assert sorted(path.name for path in data.iterdir()) == sorted(
            ["index.parquet", "index.json", "faces.parquet", "aligned.npy", "aligned.parquet", "evaluation.csv"]
            + ["faces.html", "faces.json"]
            + ["split.parquet", "plan_full.npy", "plan_sqrt.npy", "plan_none.npy"]
        )
        split = pd.read_parquet(data / "split.parquet")
        report = json.loads((data / "faces.json").read_text())
        test_faces = report["evaluation"]
        assert test_faces["images"] == (split["split"] == "test").sum()
        assert (pd.read_csv(data / "evaluation.csv")["split"] == "test").sum() == test_faces["images"]
        assert f"test faces {test_faces['sha256'][:12]}" in markdown
        assert np.load(data / "aligned.npy", mmap_mode="r").shape == (len(split), 112, 112, 3)
        for recipe in RECIPES:
            accuracies = {protocol: [] for protocol in PROTOCOLS}
            for seed in SEEDS:
                run = repository.root / "results/smallest/runs" / dataset / recipe / f"seed{seed}"
                assert sorted(path.name for path in run.iterdir()) == [
                    "env.json",
                    "history.csv",
                    "metrics.json",
                    "model.safetensors",
                    "predictions.parquet",
                ]
                assert json.loads((run / "env.json").read_text())["evaluation"] == test_faces
                predictions = pd.read_parquet(run / "predictions.parquet")
                assert set(predictions["protocol"]) == set(PROTOCOLS)
                probabilities = predictions[[f"p_{name}" for name in names]].to_numpy()
                assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
                metrics = json.loads((run / "metrics.json").read_text())
                for protocol in PROTOCOLS:
                    part = (predictions["protocol"] == protocol) & (predictions["split"] == "test")
                    assert part.sum() == (split["split"] == "test").sum()
                    right = probabilities[part].argmax(axis=1) == predictions.loc[part, "label"]
                    assert metrics["protocols"][protocol]["splits"]["test"]["accuracy"] == pytest.approx(right.mean())
                    accuracies[protocol].append(right.mean())
            for protocol in PROTOCOLS:
                mean = 100 * np.mean(accuracies[protocol])
                assert table.loc[(dataset, recipe, protocol), "accuracy"] == pytest.approx(mean, abs=0.0051)


def test_nothing_is_left_over(finished):
    repository, _ = finished
    results = repository.root / "results"
    assert not [path for path in results.rglob("*") if ".part" in path.name]
    assert not [path for path in (results / "smallest/state").rglob("*") if path.is_file()], "no resume state"
    assert {path.name for path in results.iterdir()} == {"smallest", "table1.csv", "table1.md"}


def test_missing_conda_is_said_in_one_line(finished):
    lines = [line for line in finished[1].splitlines() if "conda is not on PATH" in line]
    assert lines == ["conda is not on PATH: the jobs run in the current environment"]


def test_verify_names_every_file_of_which_a_bit_flips(copy, monkeypatch):
    monkeypatch.chdir(copy.root)
    layout, rng, files = Layout("smallest"), random.Random(0), 0
    assert layout.chain.verify("data/raw") == ([], [])
    for path in sorted(layout.root.rglob("*")):
        part = path.relative_to(layout.root).parts[0]
        if path.is_file() and path.stat().st_size and part not in ("logs", "benchmarks", "chain", "state"):
            before = path.read_bytes()
            after = bytearray(before)
            after[rng.randrange(len(after))] ^= 1 << rng.randrange(8)
            path.write_bytes(after)
            assert f"{path}: not what was written" in "\n".join(layout.chain.verify("data/raw")[0])
            path.write_bytes(before)
            files += 1
    assert files > 80
