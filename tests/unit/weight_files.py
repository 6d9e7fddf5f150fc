"""Random tensors with the names and shapes of the real weight files, and the authors' network on plain tensors.

Written from the architecture, and apart from the importers: lists of names are not copied from them.
"""

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

Shape = tuple[int, ...]
WIDTH, HIDDEN, HEADS, DEPTH = 768, 2304, 8, 8
STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))


def _norm(name: str, channels: int, mean: str, variance: str) -> Iterator[tuple[str, Shape]]:
    yield from ((f"{name}.{part}", (channels,)) for part in ("weight", "bias", mean, variance))


def _ir(stages: int, mean: str, variance: str, slope: str) -> Iterator[tuple[str, Shape]]:
    """Input layer and units, counted through all stages."""
    yield "input_layer.0.weight", (64, 3, 3, 3)
    yield from _norm("input_layer.1", 64, mean, variance)
    yield f"input_layer.2.{slope}", (64,)
    inside, unit = 64, 0
    for width, count in STAGES[:stages]:
        for _ in range(count):
            name = f"body.{unit}"
            if inside != width:
                yield f"{name}.shortcut_layer.0.weight", (width, inside, 1, 1)
                yield from _norm(f"{name}.shortcut_layer.1", width, mean, variance)
            yield from _norm(f"{name}.res_layer.0", inside, mean, variance)
            yield f"{name}.res_layer.1.weight", (width, inside, 3, 3)
            yield f"{name}.res_layer.2.{slope}", (width,)
            yield f"{name}.res_layer.3.weight", (width, width, 3, 3)
            yield from _norm(f"{name}.res_layer.4", width, mean, variance)
            inside, unit = width, unit + 1


def _with_counters(shapes: dict[str, Shape]) -> dict[str, Shape]:
    """Torch's batch norm counts batches too."""
    counters = {name.replace("running_var", "num_batches_tracked"): () for name in shapes if "running_var" in name}
    return shapes | counters


def _vit(matrix: int) -> Iterator[tuple[str, Shape]]:
    """Class token, positions, blocks and last norm; ``matrix`` is 1 for weights (out, in), -1 for (in, out)."""
    yield "cls_token", (1, 1, WIDTH)
    yield "pos_embed", (1, 197, WIDTH)
    for block in range(DEPTH):
        for name, out, inside, bias in (
            ("attn.qkv", 3 * WIDTH, WIDTH, False),
            ("attn.proj", WIDTH, WIDTH, True),
            ("mlp.fc1", HIDDEN, WIDTH, True),
            ("mlp.fc2", WIDTH, HIDDEN, True),
        ):
            yield f"blocks.{block}.{name}.weight", (out, inside)[::matrix]
            if bias:
                yield f"blocks.{block}.{name}.bias", (out,)
        for name in ("norm1", "norm2"):
            yield from ((f"blocks.{block}.{name}.{part}", (WIDTH,)) for part in ("weight", "bias"))
    yield from ((f"norm.{part}", (WIDTH,)) for part in ("weight", "bias"))


def ir50_shapes() -> dict[str, Shape]:
    """face.evoLVe's IR-50."""
    shapes = dict(_ir(4, "running_mean", "running_var", "weight"))
    shapes |= dict(_norm("output_layer.0", 512, "running_mean", "running_var"))
    shapes |= {"output_layer.3.weight": (512, 512 * 49), "output_layer.3.bias": (512,)}
    return _with_counters(shapes | dict(_norm("output_layer.4", 512, "running_mean", "running_var")))


def vit_shapes() -> dict[str, Shape]:
    """timm's first ViT-S/16."""
    patch = {"patch_embed.proj.weight": (WIDTH, 3, 16, 16), "patch_embed.proj.bias": (WIDTH,)}
    return dict(_vit(1)) | patch | {"head.weight": (1000, WIDTH), "head.bias": (1000,)}


def paddle_shapes(slope: str = "_weight", lanets: int = 2, classes: int = 7) -> dict[str, Shape]:
    """The authors' TransFER in Paddle; ``slope`` is the name of a PReLU's parameter."""
    shapes = {f"extractor.{name}": shape for name, shape in _ir(3, "_mean", "_variance", slope)}
    for i in range(lanets):
        name = f"attention.las.{i}"
        shapes |= {f"{name}.LA_conv1.weight": (16, 256, 1, 1), f"{name}.LA_conv1.bias": (16,)}
        shapes |= {f"{name}.LA_conv2.weight": (1, 16, 1, 1), f"{name}.LA_conv2.bias": (1,)}
        shapes |= dict(_norm(f"{name}.bn1", 16, "_mean", "_variance"))
        shapes |= dict(_norm(f"{name}.bn2", 1, "_mean", "_variance"))
    shapes |= {"convert.proj.weight": (WIDTH, 256, 1, 1), "convert.proj.bias": (WIDTH,)}
    shapes |= {f"vit.{name}": shape for name, shape in _vit(-1)}
    return shapes | {"head.fc.weight": (WIDTH, classes), "head.fc.bias": (classes,)}


def random_tensors(shapes: dict[str, Shape], seed: int = 0) -> dict[str, np.ndarray]:
    """Numbers such that what flows through the network keeps its size, and every tensor has an influence."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: Shape) -> np.ndarray:
        numbers = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("num_batches_tracked"):
            return np.array(120, np.int64)
        if name.endswith(("_variance", "running_var")):
            return 0.5 + np.abs(numbers) / 2
        if len(shape) == 4:
            return numbers * np.float32(np.prod(shape[1:]) ** -0.5)
        if len(shape) == 2:
            return numbers * np.float32(WIDTH**-0.5)
        is_gain = len(shape) == 1 and name.endswith("weight")
        return (1 if is_gain else 0) + np.float32(0.2) * numbers

    return {name: draw(name, shape) for name, shape in shapes.items()}


def write_torch(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A state dict as torch.save writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    return path


def write_paddle(path: Path, tensors: dict[str, np.ndarray], protocol: int = 4) -> Path:
    """A state dict as paddle.save writes it, with its table of names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {name: f"parameter_{i}" for i, name in enumerate(tensors)}
    path.write_bytes(pickle.dumps({**tensors, "StructuredToParameterName@@": table}, protocol=protocol))
    return path


def authors_logits(arrays: dict[str, np.ndarray], images: torch.Tensor, lanets: int = 2) -> torch.Tensor:
    """The authors' TransFER in evaluation mode (Paddle/ppcls/arch/backbone/model_zoo), on Paddle's names and layout.

    ``images`` (N, 3, 112, 112), normalised; logits (N, classes).
    """
    p = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        channels = (None, slice(None), None, None)
        mean, variance = p[f"{name}._mean"][channels], p[f"{name}._variance"][channels]
        return (x - mean) / torch.sqrt(variance + 1e-5) * p[f"{name}.weight"][channels] + p[f"{name}.bias"][channels]

    def prelu(x: torch.Tensor, name: str) -> torch.Tensor:
        slope = p.get(f"{name}._weight", p.get(f"{name}.weight"))[None, :, None, None]
        return torch.where(x > 0, x, slope * x)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ p[f"{name}.weight"] + p.get(f"{name}.bias", 0)

    def layer_norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    x = F.conv2d(images, p["extractor.input_layer.0.weight"], padding=1)
    x = prelu(norm(x, "extractor.input_layer.1"), "extractor.input_layer.2")
    for unit in range(3 + 4 + 14):
        name, stride = f"extractor.body.{unit}", 2 if unit in (0, 3, 7) else 1
        shortcut = x[:, :, ::stride, ::stride]
        if f"{name}.shortcut_layer.0.weight" in p:
            shortcut = norm(F.conv2d(shortcut, p[f"{name}.shortcut_layer.0.weight"]), f"{name}.shortcut_layer.1")
        y = F.conv2d(norm(x, f"{name}.res_layer.0"), p[f"{name}.res_layer.1.weight"], padding=1)
        y = F.conv2d(prelu(y, f"{name}.res_layer.2"), p[f"{name}.res_layer.3.weight"], stride=stride, padding=1)
        x = norm(y, f"{name}.res_layer.4") + shortcut

    if lanets:
        maps = []
        for i in range(lanets):
            name = f"attention.las.{i}"
            y = F.conv2d(x, p[f"{name}.LA_conv1.weight"], p[f"{name}.LA_conv1.bias"])
            y = F.relu(norm(y, f"{name}.bn1"))
            y = F.conv2d(y, p[f"{name}.LA_conv2.weight"], p[f"{name}.LA_conv2.bias"])
            maps.append(torch.sigmoid(norm(y, f"{name}.bn2")))
        x = x * torch.cat(maps, dim=1).max(dim=1, keepdim=True).values
    x = F.conv2d(x, p["convert.proj.weight"], p["convert.proj.bias"]).flatten(2).transpose(1, 2)

    n = len(images)
    x = torch.cat([p["vit.cls_token"].expand(n, -1, -1), x], dim=1) + p["vit.pos_embed"]
    for block in range(DEPTH):
        name = f"vit.blocks.{block}"
        qkv = linear(layer_norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        q, k, v = qkv.reshape(n, 197, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * 96**-0.5).softmax(-1)
        x = x + linear((attention @ v).transpose(1, 2).reshape(n, 197, WIDTH), f"{name}.attn.proj")
        y = linear(layer_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
        x = x + linear(y, f"{name}.mlp.fc2")
    return linear(layer_norm(x, "vit.norm")[:, 0], "head.fc")
