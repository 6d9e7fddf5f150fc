"""One photo: its face, what a training takes it for, and where it looks."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transfer.datasets.images import BrokenImage, decode
from transfer.errors import UserError
from transfer.explain.faces import Explained, explain
from transfer.explain.finished import load_explainable
from transfer.params import FaceParams
from transfer.training.batches import FaceStore, evaluation_batches
from transfer.training.device import choose_device
from transfer.training.loop import predict
from transfer.training.predict import align_photos


class Photo(NamedTuple):
    """What was found in a photo."""

    n_faces: int
    """Faces that the detection found; with 0, or an aligned photo, the whole image is looked at."""
    classes: list[str]
    probabilities: np.ndarray
    """(C,) in the order of ``classes``."""
    explained: Explained
    """Of the one face, for the most probable class."""
    run: str
    """The training: experiment/dataset/recipe/seed."""


def explain_photo(image: Path, weights: Path, aligned: bool = False) -> Photo:
    """Detect and align as the training's faces were (``aligned``: take the image as it is), predict and explain.

    Raises UserError: not an image, not the weights of a TransFER, or no face where the training left such images out.
    """
    if not image.is_file():
        raise UserError(f"{image}: no such file")
    try:
        decode(image.read_bytes())
    except BrokenImage:
        raise UserError(f"{image}: not an image that can be read; expected a photo, such as .jpg or .png") from None
    model, about = load_explainable(weights)
    params = FaceParams(**about["faces"])
    if aligned:
        params = params.model_copy(update={"template": "none", "margin": 0.0})
    device = choose_device("auto")
    model.to(device)
    rows = np.arange(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "aligned.npy"
        n_faces = int(align_photos([image], path, params)["n_faces"].iloc[0])
        if n_faces == 0 and params.no_face == "drop" and not aligned:
            raise UserError(
                f"{image}: no face found, and the training left such images out (faces.no_face: drop); give a larger "
                "or clearer face, or --aligned if the image is one already"
            )
        store = FaceStore(path, about["model"]["img_size"], rows)
        probabilities = predict(model, evaluation_batches(store, rows, device), "fp32", about["flip_views"])[0]
        found = explain(model, store, rows, [int(probabilities.argmax())])
    return Photo(n_faces, about["classes"], probabilities, found, about.get("run", weights.name))
