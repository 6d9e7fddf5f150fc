"""Expressions in new images, and the evaluation of a weight file on a dataset's test faces."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from transfer.datasets.images import BrokenImage, decode
from transfer.evaluation.network import load_model, read_faces, store_of
from transfer.faces.align import align_dataset
from transfer.faces.detect import detect
from transfer.layout import Layout
from transfer.params import FaceParams, TrainParams
from transfer.runs.metrics import run_metrics
from transfer.runs.predictions import parquet_columns, predictions_frame, write_predictions
from transfer.training.batches import evaluation_batches
from transfer.training.device import choose_device, choose_precision
from transfer.training.loop import outputs, predict
from transfer.utils.errors import UserError
from transfer.utils.files import atomic, sha256, write_json
from transfer.utils.progress import progress


def predict_files(weights: Path, images: Sequence[Path], out: Path) -> None:
    """Probabilities of the expressions in image files, or in one aligned store (.npy), as .csv or .parquet.

    Photos are detected and aligned as the run's faces were; where no face is found the whole image is used and
    ``status`` is "none". Columns: image, status, expression (the most probable), p_<class>. Raises UserError.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{out}: expected a name that ends in .csv or .parquet")
    for path in images:
        if not path.is_file():
            raise UserError(f"{path}: {'a folder; give its images' if path.is_dir() else 'no such file'}")
    model, about = load_model(weights)
    table = classify(model, about, images)
    with atomic(out) as part:
        table.to_csv(part, index=False) if out.suffix == ".csv" else table.to_parquet(part, index=False)


def classify(model: nn.Module, about: Mapping[str, Any], images: Sequence[Path]) -> pd.DataFrame:
    """The table of `predict_files` for a network and its description, both from `load_model`."""
    device = choose_device("auto")
    model.to(device)
    with tempfile.TemporaryDirectory() as folder:
        if [path.suffix for path in images] == [".npy"]:
            store = images[0]
            names = [f"{store.name}#{row}" for row in range(_faces_in(store))]
            table = pd.DataFrame({"image": names, "status": "aligned"})
        else:
            store = Path(folder) / "aligned.npy"
            table = align_photos(images, store, FaceParams(**about["faces"]))[["image", "status"]]
        rows = np.arange(len(table))
        batches = evaluation_batches(store_of(store, about, rows), rows, device)
        probabilities = predict(model, batches, choose_precision(TrainParams(), device), about["hflip_tta"])
    table["expression"] = np.array(about["classes"])[probabilities.argmax(axis=1)]
    for column, name in enumerate(about["classes"]):
        table[f"p_{name}"] = probabilities[:, column]
    return table


def _faces_in(store: Path) -> int:
    try:
        pixels = np.load(store, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{store}: not an aligned store ({error})") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (pixels.shape[1], pixels.shape[1], 3):
        raise UserError(f"{store}: expected uint8 (faces, size, size, 3), found {pixels.dtype} {pixels.shape}")
    return len(pixels)


def align_photos(images: Sequence[Path], store: Path, params: FaceParams) -> pd.DataFrame:
    """Detect and align photos into ``store``; returns image, status ("found", "none"), n_faces. Raises UserError."""
    names = [str(path) for path in images]
    index = pd.DataFrame({"sample": names, "path": names, "split": "test", "label": 0, "class_name": ""})
    faces = detect(_decoded(images), names, **params.search())
    geometry = params.model_dump(include={"template", "size", "margin"})
    manifest = store.with_suffix(".parquet")
    align_dataset(_decoded(images), index, faces, store, manifest, **geometry, broken="stop")
    return pd.DataFrame({"image": names, "status": faces["status"], "n_faces": faces["n_faces"]})


def _decoded(images: Sequence[Path]) -> Iterator[tuple[int, np.ndarray | None, str]]:
    for position, path in enumerate(images):
        try:
            yield position, decode(path.read_bytes()), ""
        except BrokenImage as error:
            yield position, None, str(error)


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
