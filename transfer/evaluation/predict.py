"""The evaluation of a weight file on a dataset's test faces."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from transfer.evaluation.network import load_model, read_faces, store_of
from transfer.layout import Layout
from transfer.params import TrainParams
from transfer.runs.metrics import run_metrics
from transfer.runs.predictions import parquet_columns, predictions_frame, write_predictions
from transfer.training.batches import evaluation_batches
from transfer.training.device import choose_device
from transfer.training.loop import outputs
from transfer.utils.errors import UserError
from transfer.utils.files import sha256, write_json
from transfer.utils.progress import progress


def evaluate_weights(
    weights: Path, layout: Layout, dataset: str, classes: list[str], train: TrainParams
) -> dict[str, Any]:
    """Evaluate ``weights`` (see `load_model`) on a dataset; write predictions.parquet and metrics.json.

    predictions.parquet is that of a run with a column logit_<class> for each class: the network's output for the face
    itself. fp32 where ``train.precision`` is auto, so that the logits are those of the framework that trained them.
    A class that the network does not know has probability 0 and logit -inf. Raises UserError: not a weight file, a
    class that is not among the dataset's ``classes``, no aligned faces.
    """
    model, about = load_model(weights)
    if unknown := [name for name in about["classes"] if name not in classes]:
        raise UserError(f"{weights}: knows {', '.join(unknown)}; {dataset} has only {', '.join(classes)}")
    digest, faces = sha256(weights), read_faces(layout.data(dataset))
    torch.set_num_threads(train.threads)
    device = choose_device(train.device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    store = store_of(faces.store, about, faces.rows)
    batches = evaluation_batches(store, faces.rows, device, batch_size=64)
    precision = "bf16" if train.precision == "bf16" else "fp32"
    found = []
    with progress("evaluating", len(faces.rows)) as report:
        for batch in outputs(model, batches, precision, about["hflip_tta"]):
            found.append(batch)
            report(sum(len(logits) for logits, _ in found))
    own = [torch.cat(parts).numpy() for parts in zip(*found, strict=True)]
    logits, probabilities = (np.full((len(faces.rows), len(classes)), value, np.float32) for value in (-np.inf, 0))
    places = [classes.index(name) for name in about["classes"]]
    logits[:, places], probabilities[:, places] = own
    frame = predictions_frame(
        faces.manifest["sample"].tolist(),
        faces.manifest["label"].tolist(),
        probabilities,
        classes,
        split="test",
        protocol=about["protocol"],
        epoch=about["epoch"],
    )
    frame = pd.concat([frame, pd.DataFrame(logits, columns=[f"logit_{name}" for name in classes])], axis=1)
    path, subsets = layout.evaluated(weights, digest, dataset) / "predictions.parquet", faces.data / "subsets.parquet"
    write_predictions(path, frame)
    content = {
        "experiment": layout.experiment,
        "dataset": dataset,
        "weights": weights.name,
        "weights_sha256": digest,
        "classes": classes,
        "unknown_classes": [name for name in classes if name not in about["classes"]],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **run_metrics(frame, parquet_columns(subsets) if subsets.exists() else None),
        "predictions_sha256": sha256(path),
    }
    write_json(path.with_name("metrics.json"), content)
    return content
