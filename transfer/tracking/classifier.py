"""The model as MLflow loads it (models from code: MLflow copies this file, nothing is pickled).

    model = mlflow.pyfunc.load_model("models:/demo.demo_rafdb.full@val_selected")
    model.predict(pandas.DataFrame({"image": ["photo.jpg"]}))

A row of the column ``image`` is an aligned face (uint8 array, size x size x 3, RGB, with the size of the training's
aligned faces) or a photo: an array of any other size, the bytes of an image file, these as base64 text (which is what a
server gets), or the path of a file. The answer has the columns of ``transfer predict``: status, expression, p_<class>.
"""

import base64
import binascii
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd


class ExpressionClassifier(mlflow.pyfunc.PythonModel):
    """The network of one training, with detection and alignment for photos."""

    def load_context(self, context: Any) -> None:
        """Load the weights: those in the model, or the run's file that it names. Raises OSError, ValueError."""
        from transfer.evaluation.predict import load_model

        weights = context.artifacts.get("weights") or _referenced(context.model_config)
        self.model, self.about = load_model(Path(weights))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Probabilities of the expressions, one row per image."""
        from transfer.evaluation.predict import classify

        images = [_pixels_or_content(image) for image in model_input["image"]]
        size = self.about["faces"]["size"]
        aligned = [isinstance(image, np.ndarray) and image.shape == (size, size, 3) for image in images]
        parts = []
        with tempfile.TemporaryDirectory() as folder:
            faces = [row for row, yes in enumerate(aligned) if yes]
            photos = [row for row, yes in enumerate(aligned) if not yes]
            if faces:
                np.save(Path(folder) / "aligned.npy", np.stack([images[row] for row in faces]))
                parts.append(classify(self.model, self.about, [Path(folder) / "aligned.npy"]).set_axis(faces))
            if photos:
                files = [_file(images[row], Path(folder) / f"{row}.png") for row in photos]
                parts.append(classify(self.model, self.about, files).set_axis(photos))
        return pd.concat(parts).sort_index().drop(columns="image")


def _referenced(config: dict[str, Any]) -> Path:
    """The weights that a model without its own names; below the working directory, or that of the code."""
    import transfer

    roots = (Path.cwd(), Path(transfer.__file__).resolve().parents[1])
    found = [root / config["weights"] for root in roots if (root / config["weights"]).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{config['weights']} (SHA-256 {config['sha256']}): not here, and MLflow does not hold the weights of this "
            "run; work in the root of the repository, or take the registered model"
        )
    with open(found[0], "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != config["sha256"]:
        raise ValueError(
            f"{found[0]}: no longer the weights of this run (SHA-256 differs from {config['sha256']}): it was trained "
            "again; take the model of the newer run, or the registered one"
        )
    return found[0]


def _pixels_or_content(image: Any) -> np.ndarray | bytes | Path:
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if isinstance(image, str):
        if len(image) < 4096 and Path(image).is_file():
            return Path(image)
        try:
            return base64.b64decode(image, validate=True)
        except binascii.Error:
            raise ValueError(f"image {image[:80]!r}: neither a file nor base64 text") from None
    if isinstance(image, Path):
        return image
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(f"image: expected height x width x 3 values from 0 to 255, found {pixels.shape}")
    return pixels.astype(np.uint8)


def _file(image: np.ndarray | bytes | Path, path: Path) -> Path:
    """The image as a file, which is what ``transfer predict`` takes."""
    from PIL import Image

    if isinstance(image, Path):
        return image
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        Image.fromarray(image).save(path)
    return path


mlflow.models.set_model(ExpressionClassifier())
