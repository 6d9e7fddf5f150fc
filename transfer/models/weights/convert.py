"""A weight file of others to safetensors with our names, once; beside it the report."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from transfer.models.weights.catalogue import IMPORTERS
from transfer.models.weights.importer import Importer
from transfer.models.weights.paddle_pickle import read_paddle
from transfer.models.weights.report import Report
from transfer.models.weights.safetensors_file import KEY
from transfer.models.weights.torch_file import read_torch
from transfer.models.weights.transfer_paddle import CLASSES
from transfer.models.weights.translate import translate
from transfer.params import FaceParams, ModelParams
from transfer.utils.code_digest import step_digest
from transfer.utils.errors import UserError
from transfer.utils.files import atomic, sha256, write_json


def convert(source: Path, importer: str, out: Path) -> Report:
    """Read ``source`` with the importer of this name, write ``out`` (safetensors) and the report beside it (.json).

    Raises UserError, naming file and tensor, for anything that is not exactly what the importer expects.
    """
    tensors, about, report = read(source, importer)
    with atomic(out) as part:
        save_file(tensors, part, {KEY: json.dumps(about)})
    content = {key: about[key] for key in ("importer", "source", "source_sha256", "code_digest")}
    write_json(out.with_suffix(".json"), content | {"sha256": sha256(out)} | report.to_json())
    return report


def read(source: Path, importer: str) -> tuple[dict[str, Tensor], dict[str, Any], Report]:
    """The tensors under our names, what the file says about itself from now on, and the report. Raises UserError."""
    chosen = IMPORTERS[importer]
    tensors = _tensors(source, chosen)
    try:
        ours, report = translate(chosen, tensors)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    about = {
        "importer": importer,
        "source": source.name,
        "source_sha256": sha256(source),
        "code_digest": step_digest("weights"),
        "fills": chosen.fills,
    }
    return ours, about | (_run(chosen, ours) if chosen.run else {}), report


def _tensors(source: Path, importer: Importer) -> dict[str, Tensor]:
    if importer.format == "torch":
        return read_torch(source)
    # astype copies, which torch wants to have its own memory, and puts the bytes into this machine's order.
    arrays = read_paddle(source)
    return {name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="))) for name, array in arrays.items()}


def _run(importer: Importer, ours: dict[str, Tensor]) -> dict[str, Any]:
    """What the model.safetensors of a run says, so that a whole model is evaluated and used like one of ours."""
    classes = len(ours["head.bias"])
    lanets = {name.split(".")[2] for name in ours if name.startswith("local_cnns.")}
    # Nothing is dropped in evaluation; the rates are left at 0, since B may be too small for MAD.
    model = ModelParams(name="transfer_base", num_lanets=len(lanets), mad=0, msad=0)
    return {
        "model": model.model_dump(mode="json"),
        "faces": FaceParams().model_dump(mode="json"),
        "classes": CLASSES if classes == len(CLASSES) else [f"class{label}" for label in range(classes)],
        "hflip_tta": False,
        **importer.run,
    }
