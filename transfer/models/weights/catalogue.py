"""The importers by name, and which of them reads which source of params/sources.yaml. No torch here."""

from collections.abc import Sequence

from transfer.models.weights.face_evolve import IR50
from transfer.models.weights.importer import Importer
from transfer.models.weights.timm_vit import VIT_SMALL
from transfer.models.weights.transfer_paddle import TRANSFER_PADDLE
from transfer.utils.errors import choices

IMPORTERS: dict[str, Importer] = {
    "face_evolve_ir50": IR50,
    "timm_vit_small": VIT_SMALL,
    "transfer_paddle": TRANSFER_PADDLE,
}

OF_SOURCE = {
    "ir50_ms1m": "face_evolve_ir50",
    "vit_small_p16_224": "timm_vit_small",
    "transfer_paddle": "transfer_paddle",
}


def problem(model: str, pretrained: Sequence[str]) -> str | None:
    """What is wrong with weights for ``model``, as far as it can be said without the files; None where nothing is."""
    for position, name in enumerate(pretrained):
        if name not in OF_SOURCE:
            return f"unknown weights {name!r}; {choices(name, OF_SOURCE)}"
        importer = IMPORTERS[OF_SOURCE[name]]
        if model not in importer.models:
            return f"{name} fits {', '.join(importer.models)}, and model.name is {model}; change one of them"
        for other in pretrained[:position]:
            if _overlap(importer.fills, IMPORTERS[OF_SOURCE[other]].fills):
                return f"{other} and {name} set the same tensors of the model; name one of them"
    return None


def _overlap(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return any(one.startswith(other) or other.startswith(one) for one in some for other in others)
