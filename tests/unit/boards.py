"""A small task in a folder of its own, and entries to join it with."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from finished_runs import CLASSES

from transfer.layout import Layout
from transfer.leaderboard import entries, tasks

FACES = 120


class Place:
    """A working folder with the task `small`, and the results of its experiment below."""

    def __init__(self, root: Path, layout: Layout) -> None:
        self.root, self.layout = root, layout
        self.folder = root / entries.FOLDER
        self.folder.mkdir(parents=True)
        index = pd.read_parquet(layout.data("faces") / "index.parquet")
        classes = sorted(index["class_name"].unique(), reverse=True)
        change = {"version": 1, "date": "2026-01-01", "text": "first"}
        self.task = tasks.Task.model_validate(
            {"title": "Small <b>task</b>", "version": 1, "dataset": "faces", "labels": "one", "classes": classes}
            | {"changelog": [change]}
        )
        truth = tasks.read_truth("small", self.task, layout)
        self.task = self.task.model_copy(update={"faces": len(truth.samples), "digest": truth.digest(classes)})
        (root / tasks.FOLDER).mkdir(parents=True)
        tasks.write_task(root / tasks.FOLDER / "small.yaml", self.task)
        self.truth = truth

    def predictions(self, seed: int = 0, accuracy: float = 0.8) -> pd.DataFrame:
        """Probabilities of all faces, of which about ``accuracy`` are right."""
        rng = np.random.default_rng(seed)
        classes, n = len(self.task.classes), len(self.truth.samples)
        called = np.where(rng.random(n) < accuracy, self.truth.labels, rng.integers(0, classes, n))
        found = 0.6 * np.eye(classes)[called] + 0.4 * rng.dirichlet(np.ones(classes), n)
        frame = pd.DataFrame(found, columns=[f"p_{name}" for name in self.task.classes])
        frame.insert(0, "sample", self.truth.samples)
        return frame

    def join(self, name: str = "mine", tables: list[pd.DataFrame] | None = None, **changes) -> Path:
        """A faultless entry with two seeds, but for ``changes``; a value None leaves the field out."""
        folder = self.folder / name
        folder.mkdir()
        tables = [self.predictions(1), self.predictions(2)] if tables is None else tables
        runs = []
        for seed, table in enumerate(tables):
            file = folder / f"seed{seed}.csv"
            table.to_csv(file, index=False)
            runs.append({"seed": seed, "file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()})
        content = {
            **{"title": "Mine", "tier": "verified", "task": "small@1", "date": "2026-01-02", "authors": ["Somebody"]},
            **{"contact": "me", "licence_of_predictions": "CC0-1.0", "model": {"architecture": "linear"}},
            **{"weights": "random", "training_data": ["faces"], "tuning_data": [], "saw_test": "no"},
            **{"protocol": "last", "runs": runs, "single_run": "", "attempts": 1, "method": "guessing"},
        } | changes
        given = {key: value for key, value in content.items() if value is not None}
        (folder / "entry.yaml").write_text(yaml.safe_dump(given))
        return folder


@pytest.fixture(scope="session")
def tested_faces(tmp_path_factory) -> Layout:
    """The index of FACES test faces and half as many training faces."""
    layout = Layout("tiny", tmp_path_factory.mktemp("tested") / "results")
    rng = np.random.default_rng(3)
    total = FACES + FACES // 2
    labels = rng.permutation(np.arange(total) % len(CLASSES))
    index = pd.DataFrame({"sample": [f"face{i:03}" for i in range(total)], "label": labels})
    index["split"] = ["test"] * FACES + ["train"] * (FACES // 2)
    index["class_name"] = [CLASSES[label] for label in labels]
    layout.data("faces").mkdir(parents=True)
    index.sample(frac=1, random_state=0).to_parquet(layout.data("faces") / "index.parquet", index=False)
    return layout


@pytest.fixture
def place(tested_faces, tmp_path, monkeypatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, tested_faces)
