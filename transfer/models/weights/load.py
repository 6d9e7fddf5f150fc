"""Imported weights into a model at the start of its training."""

import re
from collections.abc import Sequence
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from transfer.models.weights.report import Loaded, Report
from transfer.models.weights.safetensors_file import read_safetensors
from transfer.utils.errors import UserError


def load_pretrained(model: nn.Module, files: Sequence[Path]) -> Report:
    """Put the tensors of ``files``, which ``transfer weights`` wrote, into ``model`` in place; return what was done.

    The position embedding is resized where the model's grid is another one. Tensors that no file has keep their values.
    Raises UserError: two files set one tensor, a tensor of the model's part is missing in the file, has another shape,
    or is one that the model does not have for no known reason. The model is unchanged then.
    """
    state = model.state_dict()
    found: dict[str, tuple[Path, Tensor]] = {}
    report = Report()
    for file in files:
        tensors, about = read_safetensors(file)
        if "fills" not in about:
            raise UserError(f"{file}: not weights that transfer weights imported; expected one of these")
        for name, tensor in tensors.items():
            if name in found:
                raise UserError(f"{file}: sets {name}, which {found[name][0]} sets too; use one of them")
            why = None if name in state else _left_out(name, state)
            if why:
                report.not_wanted[name] = why
                continue
            if name not in state:
                raise UserError(f"{file}: {name}: a tensor that the model does not have")
            tensor, change = _resized(tensor, state[name]) if name == "pos_embed" else (tensor, "")
            if tensor.shape != state[name].shape:
                raise UserError(
                    f"{file}: {name}: the model's shape is {_text(state[name])}, the file's {_text(tensor)}; "
                    "these weights are for another model or other classes"
                )
            found[name] = file, tensor
            report.loaded.append(Loaded(name, name, tuple(tensor.shape), change))
        absent = [name for name in state if name.startswith(tuple(about["fills"])) and name not in tensors]
        if absent:
            raise UserError(f"{file}: {absent[0]} ({_text(state[absent[0]])}) missing, and {len(absent) - 1} more")
    report.missing = {name: "starts fresh" for name in state if name not in found}
    model.load_state_dict({name: tensor for name, (_, tensor) in found.items()}, strict=False)
    return report


def _left_out(name: str, state: dict[str, Tensor]) -> str | None:
    """Why a model may do without a tensor of the file; None where it may not."""
    stages = {at[1] for key in state if (at := re.match(r"stem\.stages\.(\d+)\.", key))}
    stage = re.match(r"stem\.stages\.(\d+)\.", name)
    if stage and stage[1] not in stages:
        return f"the model's stem has {len(stages)} stages"
    if name.startswith("local_cnns.") and not any(key.startswith("local_cnns.") for key in state):
        return "the model has no Local CNNs"
    return None


def _resized(tensor: Tensor, like: Tensor) -> tuple[Tensor, str]:
    """Position embedding (1, 1 + cells, dim) on the grid of ``like``, bilinear; the class token's stays.

    As the authors' resize_pos_embed (mmcls/models/vit/layers.py).
    """
    old, new = isqrt(tensor.shape[1] - 1), isqrt(like.shape[1] - 1)
    if old == new:
        return tensor, ""
    token, cells = tensor[:, :1], tensor[:, 1:]
    grid = cells.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, (new, new), mode="bilinear", align_corners=False)
    cells = grid.permute(0, 2, 3, 1).reshape(1, new * new, -1)
    return torch.cat([token, cells], dim=1), f"resized from {old}x{old} to {new}x{new}"


def _text(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
