"""Which weights can be imported, and what they fit. Every dry run imports this module: no torch here."""

import os
from collections.abc import Sequence
from pathlib import Path

from transfer.utils.errors import UserError, choices

PACKAGED = Path(__file__).with_name("ferplus.safetensors")
"""The model that comes along, made by ``transfer package RUN``; its card lies beside it."""

OF_SOURCE = {
    "ir50_ms1m": "face_evolve_ir50",
    "vit_small_p16_224": "timm_vit_small",
    "transfer_paddle": "transfer_paddle",
}
"""Source in params/sources.yaml to the importer that reads its file."""
OWN = "ferplus"
"""The model that comes along, in ``model.pretrained``, and its importer."""

FILLS: dict[str, tuple[str, ...]] = {
    "face_evolve_ir50": ("stem.",),
    "timm_vit_small": ("cls_token", "pos_embed", "blocks.", "norm."),
    "transfer_paddle": ("",),
    OWN: ("stem.", "local_cnns.", "proj.", "cls_token", "pos_embed", "blocks.", "norm."),
}
"""Importer to the prefixes of the model's tensors that it sets."""

MODEL = "transfer_base"
"""The model whose sizes all of these weights have."""
FITS = {
    "ir50_ms1m": (MODEL, "apvit", "ir50", "dan_ir50", "dcs"),
    "vit_small_p16_224": (MODEL, "apvit"),
    "transfer_paddle": (MODEL,),
    OWN: ("transfer_medium",),
}
"""Source to the models that have the tensors which it sets."""


def problem(model: str, pretrained: Sequence[str]) -> str | None:
    """What is wrong with the weights ``pretrained`` for ``model``, as far as can be told without the files; or None."""
    for position, name in enumerate(pretrained):
        if name not in FITS:
            return f"unknown weights {name!r}; {choices(name, FITS)}"
        if model not in FITS[name]:
            return f"{name} fits {' or '.join(FITS[name])}, and model.name is {model}; change one of them"
        for other in pretrained[:position]:
            prefixes = FILLS[importer(name)], FILLS[importer(other)]
            if any(one.startswith(two) or two.startswith(one) for one in prefixes[0] for two in prefixes[1]):
                return f"{other} and {name} set the same tensors of the model; choose one of them"
    return None


def importer(name: str) -> str:
    """The importer of weights that ``model.pretrained`` names."""
    return OF_SOURCE.get(name, name)


def find_weights(source: "str | os.PathLike[str] | None" = None) -> Path:
    """The weight file of ``source``, a file or a run's folder; of None the model that comes along. Raises UserError."""
    path = PACKAGED if source is None else Path(source)
    if path.is_dir():
        path /= "model.safetensors"
    if path.is_file():
        return path
    if source is None:
        remedy = "make it with transfer package RUN, or name a run: transfer.load(RUN), transfer predict --model RUN"
        raise UserError(f"no model comes with this copy of the project; {remedy}")
    raise UserError(f"{path}: no such file; give the folder of a finished run, or its model.safetensors")
