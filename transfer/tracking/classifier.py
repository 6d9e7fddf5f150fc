"""The registered model, as code that MLflow copies and runs; nothing is pickled.

    model = mlflow.pyfunc.load_model("models:/demo.demo_rafdb.full@val_selected")
    model.predict(pandas.DataFrame({"image": ["photo.jpg"]}))

A row of the column ``image`` is an aligned face (uint8 array, size x size x 3, RGB, of the size that the model was
trained with) or a photo: an array of another size, the path of a file, its bytes, or these as base64 text (as sent to a
server). The result is that of ``transfer predict --csv``; its ``image`` is the row of the image.
"""

import base64
import binascii
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
        from transfer import load

        self.model = load(context.artifacts["weights"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A row per face, and one for each image without any. Raises ValueError for anything but an image."""
        from transfer.predict.results import Results

        found = [self._picture(row, image) for row, image in enumerate(model_input["image"])]
        frame = Results((photo for _, photo in self.model.stream(found)), self.model.classes).frame()
        return frame.assign(image=frame["image"].astype(int))

    def _picture(self, row: int, image: Any) -> Any:
        from transfer.predict.pictures import checked

        if isinstance(image, Path) or (isinstance(image, str) and len(image) < 4096 and Path(image).is_file()):
            return checked(str(row), Path(image).read_bytes())
        if isinstance(image, str | bytes | bytearray):
            return checked(str(row), _decoded(image))
        pixels, side = _pixels(image), self.model.faces.size
        return checked(str(row), pixels)._replace(aligned=pixels.shape == (side, side, 3))


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
