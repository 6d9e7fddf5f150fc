"""The paper's claim, measured: how diverse a training's LANet maps are, and how alike the heads of each block.

Formulas in `transfer.explain.similarity`, their meaning in docs/attention.md.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from transfer.digest import step_digest
from transfer.explain import walk
from transfer.explain.finished import EvaluationFaces, load_finished, load_test_faces
from transfer.explain.maps import lanet_maps
from transfer.explain.similarity import correlation, cosine, overlap
from transfer.files import write_json
from transfer.layout import Layout
from transfer.models.transfer import TransFER
from transfer.params import TrainParams
from transfer.progress import progress
from transfer.training.batches import evaluation_batches
from transfer.training.device import choose_device

BATCH = 64

LANETS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "overlap": overlap,
    "cosine": lambda maps: cosine(maps.flatten(2)),
    "correlation": correlation,
}
"""Of the LANets' maps (N, B, h, w)."""

HEADS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "class_cosine": lambda attention: cosine(attention[:, :, 0]),
    "class_correlation": lambda attention: correlation(attention[:, :, :1]),
    "all_cosine": lambda attention: cosine(attention.flatten(2)),
    "all_correlation": correlation,
}
"""Of a block's attention (N, heads, T, T): of the class token's row, and of all rows together."""


def write_diversity(layout: Layout, dataset: str, recipe: str, seed: int, train: TrainParams) -> dict[str, Any]:
    """Measure a training on its test faces and write diversity.json; returns what that says.

    Means over the faces: ``lanets`` (null with fewer than two), ``heads`` per block, and what was measured. Raises
    UserError as `load_finished` does.
    """
    faces = load_test_faces(layout, dataset)
    run = load_finished(layout, dataset, recipe, seed, faces)
    torch.set_num_threads(train.threads)
    content = {
        "experiment": layout.experiment,
        "dataset": dataset,
        "recipe": recipe,
        "seed": seed,
        "split": "test",
        "n": len(faces.rows),
        "protocol": run.about["protocol"],
        "epoch": run.about["epoch"],
        **diversity(run.model.to(choose_device(train.device)), faces),
        "weights_sha256": run.weights_sha256,
        "code_digest": step_digest("diversity"),
    }
    write_json(layout.evaluation("attention", dataset, recipe, seed) / "diversity.json", content)
    return content


@torch.no_grad()
def diversity(model: TransFER, faces: EvaluationFaces) -> dict[str, Any]:
    """num_lanets, num_heads, and means over the faces: ``lanets`` by measure, ``heads`` by measure a list by block."""
    device = next(model.parameters()).device
    store = faces.opened(model.default_cfg["input_size"][1], faces.rows)
    maps: dict[str, list[Tensor]] = {name: [] for name in LANETS}
    heads: dict[str, list[Tensor]] = {name: [] for name in HEADS}
    with progress("measuring attention", len(faces.rows)) as report:
        for number, images in enumerate(evaluation_batches(store, faces.rows, device, BATCH)):
            of_lanets, x = lanet_maps(model, images), walk.tokens(model, images)
            if of_lanets.shape[1] > 1:
                for name, measure in LANETS.items():
                    maps[name].append(measure(of_lanets))
            blocks = []
            for block in model.blocks:
                steps = walk.through_block(block, x)
                blocks.append([measure(steps.attention) for measure in HEADS.values()])
                x = steps.out
            for name, by_block in zip(HEADS, zip(*blocks, strict=True), strict=True):
                heads[name].append(torch.stack(by_block, dim=1))
            report(min((number + 1) * BATCH, len(faces.rows)))
    return {
        "num_lanets": of_lanets.shape[1],
        "num_heads": model.blocks[0].attn.num_heads,
        "lanets": {name: _mean(values) for name, values in maps.items()} if maps["overlap"] else None,
        "heads": {name: _mean(values) for name, values in heads.items()},
    }


def _mean(batches: list[Tensor]) -> Any:
    """Mean over the faces of all batches (n, ...), as numbers."""
    return torch.cat(batches).double().mean(dim=0).tolist()
