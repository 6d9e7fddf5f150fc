"""The registered model, as code that MLflow copies and runs; nothing is pickled.

    model = mlflow.pyfunc.load_model("models:/demo.demo_rafdb.full@val_selected")
    model.predict(pandas.DataFrame({"image": ["photo.jpg"]}))

A row of the column ``image`` is an aligned face (uint8 array, size x size x 3, RGB, of the size that the model was
trained with) or a photo: an array of another size, the path of a file, its bytes, or these as base64 text (as sent to a
server). The result has the columns of ``transfer predict``: status, expression, p_<class>.
"""

import base64
import binascii
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel


class ExpressionClassifier(PythonModel):
    """The network of a run, with detection and alignment of photos."""

    def load_context(self, context: Any) -> None:
        """Load the model's weights."""
        from transfer.evaluation.network import load_model

        self.model, self.about = load_model(Path(context.artifacts["weights"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Probabilities of the expressions, one row per image. Raises ValueError for anything but an image."""
        from transfer.evaluation.predict import classify

        images = [_decoded(image) for image in model_input["image"]]
        side = self.about["faces"]["size"]
        aligned = {row: image for row, image in enumerate(images) if isinstance(image, np.ndarray)}
        aligned = {row: image for row, image in aligned.items() if image.shape == (side, side, 3)}
        photos = [row for row in range(len(images)) if row not in aligned]
        tables = []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if aligned:
                np.save(folder / "aligned.npy", np.stack(list(aligned.values())))
                tables.append(classify(self.model, self.about, [folder / "aligned.npy"]).set_axis(list(aligned)))
            if photos:
                files = [_file(images[row], folder / f"{row}.png") for row in photos]
                tables.append(classify(self.model, self.about, files).set_axis(photos))
        return pd.concat(tables).sort_index().drop(columns="image")


def _decoded(image: Any) -> np.ndarray | bytes | Path:
    if isinstance(image, bytes | bytearray | Path):
        return image if isinstance(image, Path) else bytes(image)
    if isinstance(image, str):
        if len(image) < 4096 and Path(image).is_file():
            return Path(image)
        try:
            return base64.b64decode("".join(image.split()), validate=True)
        except binascii.Error:
            raise ValueError(f"image {image[:80]!r}: neither a file nor base64 text") from None
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(f"image: expected height x width x 3 values from 0 to 255, found {pixels.shape}")
    return pixels.astype(np.uint8)


def _file(image: np.ndarray | bytes | Path, path: Path) -> Path:
    """The image as a file, at ``path`` unless it is one, for ``classify``."""
    from PIL import Image

    if isinstance(image, Path):
        return image
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        Image.fromarray(image).save(path)
    return path


mlflow.models.set_model(ExpressionClassifier())
