"""Any weight file on a dataset's test split: predictions with logits, and metrics."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from transfer.errors import UserError
from transfer.evaluation.metrics import run_metrics
from transfer.evaluation.predictions import predictions_frame, write_predictions
from transfer.files import sha256, write_json
from transfer.layout import Layout
from transfer.params import TrainParams
from transfer.progress import progress
from transfer.training.batches import FaceStore, evaluation_batches
from transfer.training.device import choose_device
from transfer.training.loop import outputs
from transfer.training.predict import load_model


def evaluate_weights(
    weights: Path, layout: Layout, dataset: str, classes: list[str], train: TrainParams
) -> dict[str, Any]:
    """Read ``weights`` (see ``load_model``) and the dataset's folder; write predictions.parquet and metrics.json.

    predictions.parquet is that of a run with a column logit_<class> for each class: the network's output for the face
    itself. fp32 where ``train.precision`` is auto, so that the logits are those of the framework that trained them.
    Raises UserError: not a weight file, other classes than the dataset's ``classes``, no aligned faces.
    """
    model, about = load_model(weights)
    if about["classes"] != classes:
        found, expected = ", ".join(about["classes"]), ", ".join(classes)
        raise UserError(f"{weights}: classes are {found}; {dataset} has {expected}, in this order")
    digest = sha256(weights)
    data, folder = layout.data(dataset), layout.evaluated(weights, digest, dataset)
    for name in ("aligned.npy", "aligned.parquet", "split.parquet"):
        if not (data / name).exists():
            raise UserError(f"{data / name}: not there; make it with: snakemake --cores all {data}/split.parquet")
    aligned = pd.read_parquet(data / "aligned.parquet", columns=["sample", "label"])
    split = pd.read_parquet(data / "split.parquet").query("split == 'test'").sort_values("row")
    rows = split["row"].to_numpy()
    if not len(rows):
        raise UserError(f"{data / 'split.parquet'}: no test images")
    torch.set_num_threads(train.threads)
    store = FaceStore(data / "aligned.npy", about["model"]["img_size"], rows)
    logits, probabilities = _outputs(model, store, rows, train, about["flip_views"])
    frame = predictions_frame(
        aligned["sample"].to_numpy()[rows],
        aligned["label"].to_numpy()[rows],
        probabilities,
        classes,
        split="test",
        protocol=about["protocol"],
        epoch=about["epoch"],
    )
    logit_columns = pd.DataFrame(logits, columns=[f"logit_{name}" for name in classes])
    frame = pd.concat([frame, logit_columns], axis=1)
    write_predictions(folder / "predictions.parquet", frame)
    subsets = data / "subsets.parquet"
    content = {
        "experiment": layout.experiment,
        "dataset": dataset,
        "weights": weights.name,
        "weights_sha256": digest,
        "classes": classes,
        **run_metrics(frame, classes, pd.read_parquet(subsets) if subsets.exists() else None),
        "predictions_sha256": sha256(folder / "predictions.parquet"),
    }
    write_json(folder / "metrics.json", content)
    return content


def _outputs(
    model: nn.Module, store: FaceStore, rows: np.ndarray, train: TrainParams, flip_views: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities (N, C) float32; with ``flip_views`` the latter are averaged with the mirror image's."""
    device = choose_device(train.device)
    model.to(device, memory_format=torch.channels_last)
    batches = evaluation_batches(store, rows, device, batch_size=64)
    precision = "bf16" if train.precision == "bf16" else "fp32"
    logits, probabilities = [], []
    with progress("evaluating", len(rows)) as report:
        for of_images, of_classes in outputs(model, batches, precision, flip_views):
            logits.append(of_images)
            probabilities.append(of_classes)
            report(sum(map(len, logits)))
    return torch.cat(logits).numpy(), torch.cat(probabilities).numpy()
