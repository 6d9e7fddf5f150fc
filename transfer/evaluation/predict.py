"""Expressions of new images: the weights of a run on aligned faces or on photos."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from transfer.datasets.images import BrokenImage, decode
from transfer.faces.align import align_dataset
from transfer.faces.detect import detect
from transfer.layout import Layout
from transfer.models.registry import create_model
from transfer.models.weights import convert
from transfer.models.weights.safetensors_file import contents
from transfer.params import FaceParams, ModelParams, TrainParams
from transfer.runs.metrics import run_metrics
from transfer.runs.predictions import predictions_frame, write_predictions
from transfer.training.batches import FaceStore, evaluation_batches
from transfer.training.device import choose_device, choose_precision
from transfer.training.loop import outputs, predict
from transfer.utils.errors import UserError
from transfer.utils.files import atomic, sha256, write_json
from transfer.utils.progress import progress

PADDLE = (".pdiparams", ".pdparams")
"""Names of files in PaddlePaddle's format end so."""


def load_model(weights: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a weight file, in evaluation mode, and what the file says about itself.

    A run's model.safetensors, the authors' TransFER as ``transfer weights`` wrote it, or that itself (.pdiparams).
    Raises UserError for another file, or one whose tensors do not fit its own description.
    """
    tensors, about = _read(weights)
    model = create_model(ModelParams(**about["model"]), len(about["classes"]))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{weights}: its tensors do not fit the model that it names: {error}") from None
    return model.eval(), about


def _read(weights: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if weights.suffix in PADDLE:
        tensors, about, _ = convert.read(weights, "transfer_paddle")
        return tensors, about
    try:
        tensors, about = contents(weights)
        about = {"hflip_tta": about.get("hflip_tta", False)} | about  # its name in files of version 0.1.0
        if "fills" in about and "model" not in about:
            raise UserError(f"{weights}: only a part of a model, to begin a training with (model.pretrained)")
        ModelParams(**about["model"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:  # ValueError: no JSON, or other keys than ours
        raise UserError(f"{weights}: not the model.safetensors of a run ({error})") from None
    return tensors, about


def predict_files(weights: Path, images: Sequence[Path], out: Path) -> None:
    """Probabilities of the expressions in image files, or in one aligned store (.npy), as .csv or .parquet.

    Photos go through detection and alignment as the training data did; where no face is found the whole image is used
    and ``status`` says so. Columns: image, status, expression (the most probable), p_<class>. Raises UserError.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{out}: expected a name that ends in .csv or .parquet")
    absent = [str(path) for path in images if not path.is_file()]
    if absent:
        raise UserError(f"{absent[0]}: no such file")
    model, about = load_model(weights)
    table = classify(model, about, images)
    with atomic(out) as part:
        table.to_csv(part, index=False) if out.suffix == ".csv" else table.to_parquet(part, index=False)


def classify(model: nn.Module, about: Mapping[str, Any], images: Sequence[Path]) -> pd.DataFrame:
    """The table of :func:`predict_files` for a network and its description, both from :func:`load_model`."""
    device = choose_device("auto")
    model.to(device)
    with tempfile.TemporaryDirectory() as folder:
        if [path.suffix for path in images] == [".npy"]:
            store = images[0]
            rows = _faces_in(store)
            table = pd.DataFrame({"image": [f"{store.name}#{row}" for row in range(rows)], "status": "aligned"})
        else:
            store = Path(folder) / "aligned.npy"
            table = align_photos(images, store, FaceParams(**about["faces"]))[["image", "status"]]
        rows = np.arange(len(table))
        batches = evaluation_batches(FaceStore(store, about["model"]["img_size"], rows), rows, device)
        precision = choose_precision(TrainParams(), device)
        probabilities = predict(model, batches, precision, about["hflip_tta"])
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
    """Detect and align photos into ``store``; one row per photo: image, status ("found", "none"), n_faces.

    Of several faces the one nearest the centre by area is taken; where there is none, the whole image. Raises UserError
    for a file that is no image.
    """
    names = [str(path) for path in images]
    index = pd.DataFrame({"sample": names, "path": names, "split": "test", "label": 0, "class_name": ""})
    faces = detect(_decoded(images), names, **params.search())
    align_dataset(
        _decoded(images),
        index,
        faces,
        store,
        store.with_suffix(".parquet"),
        **params.model_dump(include={"template", "size", "margin"}),
        broken="stop",
    )
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
    logits, probabilities = _outputs(model, store, rows, train, about["hflip_tta"])
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
    model: nn.Module, store: FaceStore, rows: np.ndarray, train: TrainParams, hflip_tta: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities (N, C) float32; with ``hflip_tta`` the latter are averaged with the mirror image's."""
    device = choose_device(train.device)
    model.to(device, memory_format=torch.channels_last)
    batches = evaluation_batches(store, rows, device, batch_size=64)
    precision = "bf16" if train.precision == "bf16" else "fp32"
    logits, probabilities = [], []
    with progress("evaluating", len(rows)) as report:
        for of_images, of_classes in outputs(model, batches, precision, hflip_tta):
            logits.append(of_images)
            probabilities.append(of_classes)
            report(sum(map(len, logits)))
    return torch.cat(logits).numpy(), torch.cat(probabilities).numpy()
