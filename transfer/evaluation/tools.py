"""Tools that people use (transfer.models.tools) on a dataset's test faces, as they are and as our runs see them."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from transfer.datasets.archives import open_source
from transfer.datasets.images import stream_images
from transfer.evaluation.network import BATCH, batches_of, load_model, read_faces
from transfer.layout import Layout
from transfer.models.registry import count_macs
from transfer.models.tools import TOOLS
from transfer.params import Params
from transfer.runs.predictions import predictions_frame
from transfer.sources.table import archive_path, tools
from transfer.training.loop import outputs
from transfer.utils.errors import UserError, choices
from transfer.utils.files import atomic, sha256


def evaluate_tool(params: Params, layout: Layout, dataset: str, name: str, classes: list[str]) -> pd.DataFrame:
    """Write and return `Layout.tool`: predictions of the test faces with a column ``input``, fp32 on the CPU.

    "image" is the dataset's whole image, "aligned" the face that our runs see; the tool resizes either to its own side.
    A class that it does not know has probability 0; of a dataset without any that it knows there are no rows. ``attrs``
    describe the tool. Raises UserError: not fetched, not the
    package, no aligned faces.
    """
    packages, data = tools(params.raw_dir), layout.data(dataset)
    if name not in packages:
        missing = f"its package is not in {params.raw_dir}; run transfer fetch {name}"
        raise UserError(f"tool {name}: {missing if name in TOOLS else f'unknown; {choices(name, TOOLS)}'}")
    model, about = load_model(packages[name])
    faces, index = read_faces(data), data / "index.parquet"
    archive = archive_path(params, dataset)
    layout.chain.check_raw(index, [archive], params.raw_dir)
    paths = pd.read_parquet(index, columns=["sample", "path"]).set_index("sample")["path"]
    torch.set_num_threads(params.train.threads)
    known = [number for number, label in enumerate(about["classes"]) if label in classes]

    def frame(shown: str, batches: Iterable[tuple[Any, np.ndarray]]) -> pd.DataFrame:
        probabilities = np.zeros((len(faces.rows), len(classes)), np.float32)
        for rows, batch in batches:
            images = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2) / 255
            ((logits, _),) = outputs(model, iter([images]), "fp32", hflip_tta=False)
            columns = [classes.index(about["classes"][number]) for number in known]
            probabilities[np.ix_(rows, columns)] = logits[:, known].softmax(dim=1)
        return predictions_frame(
            faces.manifest["sample"].tolist(),
            faces.manifest["label"].tolist(),
            probabilities,
            classes,
            split="test",
            protocol=about["protocol"],
            epoch=about["epoch"],
        ).assign(input=shown)

    whole = _whole(archive, paths[faces.manifest["sample"]].tolist())
    order = np.arange(len(faces.rows))
    aligned = ((order[part], faces.pixels(order[part])) for part in batches_of(len(order)))
    frames: Any = [frame("image", whole), frame("aligned", aligned)]
    found: pd.DataFrame = pd.concat(frames, ignore_index=True)[: None if known else 0]
    found.attrs = {
        "tool": name,
        "package": packages[name].name,
        "package_sha256": sha256(packages[name]),
        "seen": about["seen"],
        "classes": about["classes"],
        "unknown_classes": [label for label in classes if label not in about["classes"]],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": count_macs(model, 48, "cpu"),
    }
    path = layout.tool(dataset, name)
    with atomic(path) as part:
        found.to_parquet(part, index=False)
    layout.chain.note([path], [index, *(data / f"{file}.parquet" for file in ("aligned", "split"))])
    return found


def _whole(archive: Path, paths: Sequence[str]) -> Iterator[tuple[list[int], np.ndarray]]:
    """Places in ``paths`` and their images, in batches of one size, in the order of the storage."""
    rows: list[int] = []
    images: list[np.ndarray] = []
    with open_source(archive) as source:
        for row, image, wrong in stream_images(source, paths):
            if image is None:
                raise UserError(f"{archive}: {paths[row]}: {wrong}; get the archive again")
            if images and (len(images) == BATCH or image.shape != images[0].shape):
                yield rows, np.stack(images)
                rows, images = [], []
            rows, images = [*rows, row], [*images, image]
    yield rows, np.stack(images)
