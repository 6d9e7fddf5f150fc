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
        from PIL import Image

        from transfer.evaluation.predict import classify

        side, faces, photos, tables = self.about["faces"]["size"], {}, {}, []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for row, image in enumerate(model_input["image"]):
                photos[row] = folder / f"{row}.png"
                if isinstance(image, Path) or (isinstance(image, str) and len(image) < 4096 and Path(image).is_file()):
                    photos[row] = Path(image)
                elif isinstance(image, str | bytes | bytearray):
                    photos[row].write_bytes(_decoded(image))
                elif (pixels := _pixels(image)).shape == (side, side, 3):
                    faces[row] = pixels
                    del photos[row]
                else:
                    Image.fromarray(pixels).save(photos[row])
            if faces:
                np.save(folder / "aligned.npy", np.stack(list(faces.values())))
                tables.append(classify(self.model, self.about, [folder / "aligned.npy"]).set_axis(list(faces)))
            if photos:
                tables.append(classify(self.model, self.about, list(photos.values())).set_axis(list(photos)))
        return pd.concat(tables).sort_index().drop(columns="image")


def _decoded(image: str | bytes | bytearray) -> bytes:
    if not isinstance(image, str):
        return bytes(image)
    try:
        return base64.b64decode("".join(image.split()), validate=True)
    except binascii.Error:
        raise ValueError(f"image {image[:80]!r}: neither a file nor base64 text") from None


def _pixels(image: Any) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(f"image: expected height x width x 3 values from 0 to 255, found {pixels.shape}")
    return pixels.astype(np.uint8)


mlflow.models.set_model(ExpressionClassifier())
