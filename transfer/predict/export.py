"""ONNX: the network with its normalisation inside, checked against torch before the file is there."""

import contextlib
import io
import json
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from transfer.datasets.synthetic.render import EXPRESSIONS, render_face
from transfer.predict.model import Model
from transfer.training.batches import normalize, resized
from transfer.utils.errors import UserError
from transfer.utils.files import atomic, sha256

MOST = 1e-4
"""Largest difference of a probability that is let pass."""
INPUT, OUTPUT = "faces", "probabilities"
CHECKED = 64


class _FromPixels(nn.Module):
    """Aligned faces (N, side, side, 3) uint8 to class probabilities (N, C), as `Model.probabilities` in float32."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network, self.flip = model.network, model.about["hflip_tta"]
        self.mean, self.std = (model.about["model"][key] for key in ("mean", "std"))

    def forward(self, faces: Tensor) -> Tensor:
        images = normalize(faces.permute(0, 3, 1, 2).float() / 255, self.mean, self.std)
        views = [images, images.flip(3)] if self.flip else [images]
        return torch.stack([self.network(view).softmax(dim=-1) for view in views]).mean(dim=0)


def export_onnx(model: Model, out: Path, faces: np.ndarray | None = None) -> float:
    """Write ``out`` for onnxruntime, and return the largest difference of a probability to torch's.

    Input ``faces`` (N, side, side, 3) uint8, aligned; output ``probabilities`` (N, C). Metadata: classes, protocol,
    run, weights_sha256, side, and how a face is aligned (JSON). Compared on ``faces`` (N, S, S, 3), or drawn ones.
    Raises UserError: the packages of the extra ``export`` are missing, or a difference above 1e-4; nothing is written.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise UserError(f"export needs {error.name}; pip install 'transfer-fer[export]'") from None
    side = model.about["model"]["img_size"]
    faces = drawn(side) if faces is None else np.array(faces[:CHECKED])
    pixels = torch.from_numpy(faces if faces.shape[1] == side else resized(faces, side))
    network = _FromPixels(model).cpu().eval()
    model.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.inference_mode():
        expected = network(pixels).numpy()
    with atomic(out) as part:
        _write(network, pixels, part)
        written = onnx.load(part)
        onnx.helper.set_model_props(written, _metadata(model))
        onnx.save(written, part)
        session = onnxruntime.InferenceSession(part.read_bytes(), providers=["CPUExecutionProvider"])
        [found] = session.run([OUTPUT], {INPUT: pixels.numpy()})
        difference = float(np.abs(found - expected).max())
        if not difference <= MOST:
            raise UserError(f"{out}: differs from torch by {difference:.1e}, more than {MOST:.0e}; not written")
    model.network.to(model.device)
    return difference


def _write(network: nn.Module, pixels: Tensor, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter tells of its steps
        torch.onnx.export(
            network,
            (pixels[:2],),
            str(path),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _metadata(model: Model) -> dict[str, str]:
    about = model.about
    values = {
        "classes": about["classes"],
        "protocol": about["protocol"],
        "run": about.get("run", ""),
        "weights_sha256": sha256(model.weights),
        "side": about["model"]["img_size"],
        "faces": model.faces.model_dump(mode="json"),
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def drawn(side: int) -> np.ndarray:
    """Drawn faces (N, side, side, 3) uint8 of every expression."""
    names = [name for name in EXPRESSIONS for _ in range(4)]
    return np.stack([render_face(np.random.default_rng(k), name, 0.8, side).image for k, name in enumerate(names)])
