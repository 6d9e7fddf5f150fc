"""The data of a run: which rows of the aligned store it trains on and predicts, with labels and training targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyarrow.parquet import read_metadata

from transfer.faces.store import check_store, digest_test_faces
from transfer.layout import Layout
from transfer.models.registry import input_of
from transfer.params import RunParams, digest
from transfer.training.batches import FaceStore
from transfer.utils.errors import UserError
from transfer.utils.files import sha256


@dataclass(frozen=True)
class RunData:
    """Arrays are indexed by row of the aligned store; rows of a split that was not asked for are unknown (-1, NaN)."""

    rows: dict[str, np.ndarray]
    """Rows of each split."""
    labels: np.ndarray
    samples: np.ndarray
    targets: torch.Tensor
    """(rows,) class numbers, or (rows, classes) soft labels."""
    plan: np.ndarray
    """Training rows of one epoch; upsampling repeats rows."""
    classes: list[str]
    store: FaceStore
    test_faces: dict[str, Any]
    """What env.json says of the test images: their number and digest."""
    batch_size: int

    @property
    def steps(self) -> int:
        """Steps per epoch; a last batch that is not full is left out."""
        return len(self.plan) // self.batch_size


def load_data(settings: RunParams, dataset: str, layout: Layout, splits: Sequence[str]) -> RunData:
    """Read the training split and ``splits``; rows of other splits are neither kept nor read.

    Raises UserError for a class without training images, an empty split, a damaged aligned store, and soft labels
    that the dataset does not have.
    """
    data, plan_file = layout.data(dataset), layout.plan(dataset, settings.sampling.upsample)
    layout.chain.check(*training_files(settings, dataset, layout))
    split = pd.read_parquet(data / "split.parquet", filters=[("split", "in", ["train", *splits])]).sort_values("row")
    manifest = data / "aligned.parquet"
    aligned = pd.read_parquet(manifest, filters=[("sample", "in", set(split["sample"]))])
    aligned = aligned.set_index(split["row"].to_numpy())  # both are in the order of the store
    check_store(data / "aligned.npy", aligned, int(read_metadata(manifest).num_rows))
    names = aligned.groupby("label")["class_name"].first()
    classes = [names.get(label, f"label {label}") for label in range(names.index.max() + 1)]
    rows = {name: split.loc[split["split"] == name, "row"].to_numpy() for name in ("train", *splits)}
    all_rows = range(split["row"].max() + 1)
    samples = aligned["sample"].reindex(all_rows).to_numpy()
    labels = aligned["label"].reindex(all_rows, fill_value=-1).to_numpy()
    plan = np.load(plan_file)
    if absent := set(range(len(classes))) - set(labels[plan]):
        listed = ", ".join(classes[label] for label in sorted(absent))
        raise UserError(f"{plan_file}: no training image of {listed}; every class needs at least one")
    for name in splits:
        if not len(rows[name]):
            raise UserError(f"{data / 'split.parquet'}: no {name} images; every protocol needs some")
    soft = settings.train.targets == "soft_labels"
    return RunData(
        rows=rows,
        labels=labels,
        samples=samples,
        targets=_soft_labels(dataset, data, rows, samples, classes) if soft else torch.tensor(labels),
        plan=plan,
        classes=classes,
        store=FaceStore(data / "aligned.npy", rows=split["row"].to_numpy(), **input_of(settings.model)),
        test_faces=digest_test_faces(aligned),
        batch_size=min(settings.train.batch_size, len(plan)),
    )


def training_files(settings: RunParams, dataset: str, layout: Layout) -> list[Path]:
    """The files of a dataset that decide what a run trains on: the store, its manifest, the split, the plan, votes."""
    data = layout.data(dataset)
    files = [data / name for name in ("aligned.npy", "aligned.parquet", "split.parquet")]
    files += [layout.plan(dataset, settings.sampling.upsample)]
    return files + ([data / "index.parquet"] if settings.train.targets == "soft_labels" else [])


def data_digest(settings: RunParams, dataset: str, layout: Layout) -> str:
    """Digest of the files that decide what a run trains on; that of the store is the manifest's."""
    return digest([sha256(file) for file in training_files(settings, dataset, layout)[1:]])


def _soft_labels(
    dataset: str, data: Path, rows: dict[str, np.ndarray], samples: np.ndarray, classes: list[str]
) -> torch.Tensor:
    """The shares of the annotators' votes among ``classes``, (rows, classes)."""
    index = pd.read_parquet(data / "index.parquet").set_index("sample")
    columns = [f"vote_{name}" for name in classes]
    if not set(columns) <= set(index.columns):
        raise UserError(f"train.targets: {dataset} has no votes; use label")
    known = np.concatenate(list(rows.values()))
    votes = np.full((len(samples), len(columns)), np.nan, np.float32)
    votes[known] = index.loc[samples[known], columns].to_numpy(np.float32)
    return torch.from_numpy(votes / votes.sum(axis=1, keepdims=True))
