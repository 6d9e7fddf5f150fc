"""Expressions of new images: the weights of a run on aligned faces or on photos."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from torch import Tensor, nn

from transfer.datasets.images import BrokenImage, decode
from transfer.errors import UserError
from transfer.faces.align import align_dataset
from transfer.faces.detect import detect
from transfer.files import atomic
from transfer.models.weights import convert
from transfer.models.weights.safetensors_file import contents
from transfer.params import FaceParams, ModelParams, TrainParams
from transfer.training.batches import FaceStore, evaluation_batches
from transfer.training.device import choose_device, choose_precision
from transfer.training.loop import predict
from transfer.training.run import create_model

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
        probabilities = predict(model, batches, precision, about["flip_views"])
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
