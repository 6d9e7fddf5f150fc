"""Imported weights into a model at the start of a run, with a report of every tensor."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import interpolate

from transfer.utils.errors import UserError

KEY = "transfer"
"""The one entry of our safetensors headers, a JSON object: safetensors writes several entries in random order."""
MAX_HEADER = 1 << 20


@dataclass(frozen=True)
class Loaded:
    """A tensor that was loaded: its name in the file and in the model, its shape, how it was changed."""

    source: str
    target: str
    shape: tuple[int, ...]
    change: str = ""


@dataclass
class Report:
    """What became of every tensor; missing in the file, or not wanted by the model, with the reason."""

    loaded: list[Loaded] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    not_wanted: dict[str, str] = field(default_factory=dict)

    def to_text(self) -> str:
        """A few lines: numbers of tensors by part and reason."""
        changes = Counter(item.change for item in self.loaded if item.change)
        parts = [_parts(item.target for item in self.loaded), *(f"{n} {change}" for change, n in changes.items())]
        lines = [f"  loaded {len(self.loaded)}: {', '.join(parts)}"]
        for what, tensors in (("missing", self.missing), ("not wanted", self.not_wanted)):
            for why, n in Counter(tensors.values()).items():
                lines.append(f"  {what} {n}: {_parts(name for name in tensors if tensors[name] == why)} ({why})")
        return "\n".join(lines)


def _parts(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names)) or "none"


def load_pretrained(model: nn.Module, files: Sequence[Path]) -> Report:
    """Put the tensors of ``files``, which ``transfer weights`` wrote, into ``model`` in place.

    The position embedding is resized to the model's grid. Raises UserError, and leaves the model as it was: a tensor
    missing in a file, of another shape, or unknown to the model for no known reason.
    """
    state = model.state_dict()
    found: dict[str, Tensor] = {}
    report = Report()
    for file in files:
        tensors, about = read_safetensors(file)
        fills = about.get("fills")
        if not isinstance(fills, list) or not all(isinstance(prefix, str) for prefix in fills):
            raise UserError(f"{file}: not imported weights; import them with transfer weights")
        for name, tensor in tensors.items():
            if name not in state:
                report.not_wanted[name] = _reason_left_out(file, name, state)
                continue
            tensor, change = _resized(tensor, state[name]) if name == "pos_embed" else (tensor, "")
            if tensor.shape != state[name].shape:
                raise UserError(
                    f"{file}: {name}: the model's shape is {shape_text(state[name])}, the file's {shape_text(tensor)}; "
                    "these weights are for another model or other classes"
                )
            found[name] = tensor
            report.loaded.append(Loaded(name, name, tuple(tensor.shape), change))
        absent = [name for name in state if name.startswith(tuple(fills)) and name not in tensors]
        if absent:
            raise UserError(f"{file}: {absent[0]} ({shape_text(state[absent[0]])}) missing, and {len(absent) - 1} more")
    report.missing = {name: "starts fresh" for name in state if name not in found}
    model.load_state_dict(found, strict=False)
    return report


def _reason_left_out(file: Path, name: str, state: dict[str, Tensor]) -> str:
    stages = {at[1] for key in state if (at := re.match(r"stem\.stages\.(\d+)\.", key))}
    stage = re.match(r"stem\.stages\.(\d+)\.", name)
    if stage and stage[1] not in stages:
        return f"the model's stem has {len(stages)} stages"
    if name.startswith("local_cnns.") and not any(key.startswith("local_cnns.") for key in state):
        return "the model has no Local CNNs"
    raise UserError(f"{file}: {name}: a tensor that the model does not have")


def _resized(tensor: Tensor, like: Tensor) -> tuple[Tensor, str]:
    # bilinear but for the class token's entry, as the authors' resize_pos_embed (mmcls/models/vit/layers.py)
    old, new = isqrt(tensor.shape[1] - 1), isqrt(like.shape[1] - 1)
    if old == new:
        return tensor, ""
    token, cells = tensor[:, :1], tensor[:, 1:]
    grid = cells.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, (new, new), mode="bilinear", align_corners=False)
    cells = grid.permute(0, 2, 3, 1).reshape(1, new * new, -1)
    return torch.cat([token, cells], dim=1), f"resized from {old}x{old} to {new}x{new}"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a file of this project by name, and its header. Raises UserError for any other or a damaged file."""
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {})[KEY]
            about = json.loads(text) if len(text) < MAX_HEADER else None
            if not isinstance(about, dict):
                raise ValueError(f"its header {KEY} is not an object of less than {MAX_HEADER:,} characters")
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (OSError, SafetensorError, LookupError, ValueError, RecursionError, TypeError) as error:
        raise UserError(f"{path}: not the model.safetensors of a run, nor imported weights ({error})") from None


def shape_text(tensor: Tensor) -> str:
    """Such as 768x256x1x1."""
    return "x".join(map(str, tensor.shape)) or "one number"
