"""The network of a weight file or a finished run, and the aligned test faces that it is shown."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from transfer.faces.store import check_store, digest_test_faces
from transfer.models.registry import create_model, input_of
from transfer.models.weights import importers
from transfer.models.weights.load import read_safetensors
from transfer.params import FaceParams, ModelParams, TrainParams
from transfer.params.base import Protocol
from transfer.runs.predictions import predictions_frame
from transfer.runs.read import Run
from transfer.training.batches import FaceStore, normalize, resized
from transfer.training.device import claim_device
from transfer.training.loop import predict
from transfer.utils.chain import Chain
from transfer.utils.errors import UserError, remake

PADDLE = (".pdiparams", ".pdparams")
"""Suffixes of PaddlePaddle's weight files."""
PACKAGES = (".whl", ".tgz")
"""Suffixes of the packages of tools (transfer.models.tools)."""
BATCH = 256
"""Faces per batch, as in the evaluation after an epoch: other batches may give other last digits."""


Label = Annotated[str, Field(pattern=r"^[\w ./-]{0,200}$")]


class Header(BaseModel):
    """What a weight file says of itself, as far as it is used."""

    model: ModelParams
    faces: FaceParams
    classes: Annotated[list[Label], Field(min_length=1, max_length=1000)]
    hflip_tta: bool
    protocol: Protocol
    epoch: int
    run: Label = ""


def load_model(weights: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a weight file, in evaluation mode, and the file's description of itself.

    A run's model.safetensors, the authors' TransFER as ``transfer weights`` wrote it, or their own file (.pdiparams),
    or the package of a tool (.whl, .tgz).
    Raises UserError for another file, or one whose tensors do not fit its description.
    """
    if weights.suffix in PADDLE:
        tensors, about, _ = importers.read(weights, "transfer_paddle")
    elif weights.suffix in PACKAGES:
        from transfer.models.tools import read_tool

        tensors, about = read_tool(weights)
    else:
        tensors, about = read_safetensors(weights)
        about = {"hflip_tta": about.get("flip_views", False)} | about  # its name in files of version 0.1.0
        if "fills" in about and "model" not in about:
            raise UserError(f"{weights}: only a part of a model, to begin a run with (model.pretrained)")
    try:
        header = Header.model_validate(about | {"model": _with_args(about.get("model"))})
        about["model"] = header.model.model_dump() | input_of(header.model)
        model = create_model(header.model, len(header.classes))
    except ValueError as error:  # of pydantic: other keys than ours
        raise UserError(f"{weights}: not the model.safetensors of a run ({' '.join(str(error).split())})") from None
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{weights}: its tensors do not fit the model that it names: {error}") from None
    return model.eval(), about


def _with_args(model: Any) -> Any:
    """A model's parameters; files of version 0.1.0 have its arguments beside the other keys."""
    if not isinstance(model, dict) or "args" in model:
        return model
    own = ModelParams.model_fields.keys() & model.keys()
    return {key: model[key] for key in own} | {"args": {key: model[key] for key in model.keys() - own}}


def store_of(path: Path, about: Mapping[str, Any], rows: np.ndarray) -> FaceStore:
    """An aligned store, as the network of this description (`load_model`) is fed it."""
    return FaceStore(path, rows=rows, **{key: about["model"][key] for key in ("img_size", "mean", "std")})


@dataclass(frozen=True)
class Faces:
    """The test faces of a dataset in the order of the aligned store: their manifest, and their ``rows`` there."""

    data: Path
    manifest: pd.DataFrame
    rows: np.ndarray
    digest: dict[str, Any]

    @property
    def store(self) -> Path:
        """The aligned store."""
        return self.data / "aligned.npy"

    def pixels(self, chosen: np.ndarray) -> np.ndarray:
        """The faces of these places in the manifest, (n, side, side, 3) uint8."""
        pixels: np.ndarray = np.load(self.store, mmap_mode="r")[self.rows[chosen]]
        return pixels


def read_faces(data: Path) -> Faces:
    """The test faces in a dataset's folder. Raises UserError: a file is missing, or the store not the manifest's."""
    for name in ("aligned.npy", "aligned.parquet", "split.parquet"):
        if not (data / name).exists():
            raise UserError(f"{data / name}: missing; {remake(data / 'split.parquet')}")
    Chain(data.parents[1]).check(*(data / name for name in ("aligned.npy", "aligned.parquet", "split.parquet")))
    aligned, split = pd.read_parquet(data / "aligned.parquet"), pd.read_parquet(data / "split.parquet")
    check_store(data / "aligned.npy", aligned)
    rows = split.loc[split["split"] == "test", "row"].sort_values().to_numpy()
    if not len(rows):
        raise UserError(f"{data / 'split.parquet'}: no test images")
    return Faces(data, aligned.iloc[rows].reset_index(drop=True), rows, digest_test_faces(aligned))


@dataclass(frozen=True)
class Network:
    """The network of a finished run, in evaluation mode on its device; ``about`` is the weights' own description."""

    run: Run
    model: nn.Module
    about: dict[str, Any]
    device: torch.device

    def images(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """The network's input for batches of faces (n, side, side, 3) uint8 of any side."""
        side, mean, std = (self.about["model"][key] for key in ("img_size", "mean", "std"))
        for faces in batches:
            shown = np.ascontiguousarray(faces if faces.shape[1] == side else resized(faces, side))
            images = torch.from_numpy(shown).to(self.device).permute(0, 3, 1, 2).float().div_(255)
            yield normalize(images, mean, std)

    def frame(self, samples: np.ndarray, labels: np.ndarray, batches: Iterable[np.ndarray]) -> pd.DataFrame:
        """The predictions of faces (n, side, side, 3) uint8 of any side, as rows of predictions.parquet without split.

        As after an epoch: in the run's precision, and bit-equal on its machine for the same batches.
        """
        return predictions_frame(
            samples.tolist(),
            labels.tolist(),
            predict(self.model, self.images(batches), self.run.environment["precision"], self.about["hflip_tta"]),
            self.run.classes,
            split="test",
            protocol=self.about["protocol"],
            epoch=self.about["epoch"],
        ).drop(columns="split")


def load_network(run: Run, train: TrainParams, job: str, faces: Faces | None = None) -> Network:
    """The network of ``run``. Raises UserError: weights missing or of another run, or tested on other ``faces``."""
    if faces is not None and run.environment.get("evaluation") != faces.digest:
        raise UserError(
            f"{run.directory / 'env.json'}: tested on other faces than those in {faces.store}; train again: "
            f"snakemake --cores all --forcerun train_model {run.directory / 'model.safetensors'}"
        )
    model, about = load_model(run.weights)
    if about["run"] != run.name:
        raise UserError(f"{run.weights}: of the run {about['run']}; delete it and {run.again}")
    if about["classes"] != run.classes:
        raise UserError(f"{run.weights}: classes are not those of predictions.parquet; delete both and {run.again}")
    torch.set_num_threads(train.threads)
    device = claim_device(train, f"{job} of {run.name}")
    return Network(run, model.to(device, memory_format=torch.channels_last), about, device)  # type: ignore[call-overload]


def batches_of(faces: int) -> list[slice]:
    """Slices of at most `BATCH` faces."""
    return [slice(start, min(start + BATCH, faces)) for start in range(0, faces, BATCH)]
