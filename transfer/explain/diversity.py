"""The paper's claim, measured: how diverse a run's LANet maps are, and how alike the heads of each block.

docs/attention.md says what the measures mean.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from transfer.evaluation.network import Faces, Network, load_network, read_faces, store_of
from transfer.explain.relevance import blocks_of, features, tokens, trace
from transfer.layout import Layout
from transfer.models.lanet import LocalCNNs
from transfer.models.transfer import TransFER
from transfer.params import Params
from transfer.runs.evaluations import note_evaluation
from transfer.runs.read import read_run
from transfer.training.batches import evaluation_batches
from transfer.utils.code_digest import step_digest
from transfer.utils.errors import UserError
from transfer.utils.files import write_json
from transfer.utils.progress import progress

_BATCH = 64


def overlap(maps: Tensor) -> Tensor:
    """Mean pairwise soft intersection over union (N,) of maps (N, B, h, w) >= 0: minima / maxima, 1 for 0 / 0."""
    first, second = _pairs(maps.flatten(2))
    both, either = torch.minimum(first, second).sum(dim=-1), torch.maximum(first, second).sum(dim=-1)
    return torch.where(either == 0, 1, both / either).mean(dim=1)


def cosine(vectors: Tensor) -> Tensor:
    """Mean pairwise cosine (N,) of vectors (N, B, K); 0 where a vector is 0."""
    first, second = _pairs(normalize(vectors, dim=-1))
    return (first * second).sum(dim=-1).mean(dim=1)


def correlation(maps: Tensor) -> Tensor:
    """Mean pairwise correlation (N,) over the cells of maps (N, B, h, w), from -1 to 1; 0 where a map is flat."""
    cells = maps.flatten(2)
    return cosine(cells - cells.mean(dim=-1, keepdim=True))


def _pairs(items: Tensor) -> tuple[Tensor, Tensor]:
    first, second = torch.triu_indices(items.shape[1], items.shape[1], offset=1)
    return items[:, first], items[:, second]


LANETS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "overlap": overlap,
    "cosine": lambda maps: cosine(maps.flatten(2)),
    "correlation": correlation,
}
HEADS: Mapping[str, Callable[[Tensor], Tensor]] = {  # of attention (N, heads, T, T): the class token's row, or all
    "class_cosine": lambda attention: cosine(attention[:, :, 0]),
    "class_correlation": lambda attention: correlation(attention[:, :, :1]),
    "all_cosine": lambda attention: cosine(attention.flatten(2)),
    "all_correlation": correlation,
}


@torch.no_grad()
def lanet_maps(model: TransFER, images: Tensor) -> Tensor:
    """The B maps before dropping, (N, B, h, w) in (0, 1). ValueError for a model in training mode."""
    found = features(model, images)
    if not isinstance(model.local_cnns, LocalCNNs):
        return found[:, :0]
    return model.local_cnns.attention_maps(found)


def resized(maps: Tensor, side: int) -> Tensor:
    """Maps (N, B, h, w) to (N, B, side, side), bilinear."""
    return interpolate(maps, (side, side), mode="bilinear", align_corners=False) if maps.shape[1] else maps


def transfer_only(model: nn.Module, weights: Path) -> TransFER:
    """``model``, which is a TransFER; UserError for another network."""
    if not isinstance(model, TransFER):
        raise UserError(f"{weights}: a {type(model).__name__}; attention is shown of TransFER models only")
    return model


def write_diversity(params: Params, layout: Layout, dataset: str, recipe: str, seed: int) -> dict[str, Any]:
    """Measure a run on its test faces, write diversity.json and return its content.

    Means over the faces: ``lanets`` (null with fewer than two), ``heads`` per block, and what was measured. Raises
    UserError for files that are missing or do not belong together, or another network than TransFER.
    """
    run, faces = read_run(params, layout, dataset, recipe, seed), read_faces(layout.data(dataset))
    network = load_network(run, params.run(dataset, recipe).train, "diversity", faces)
    content = {
        **run.identity,
        "split": "test",
        "n": len(faces.rows),
        "protocol": network.about["protocol"],
        "epoch": network.about["epoch"],
        **diversity(network, faces),
        "weights_sha256": run.environment["weights_sha256"],
        "code_digest": step_digest("diversity"),
    }
    path = layout.evaluation("attention", dataset, recipe, seed) / "diversity.json"
    write_json(path, content)
    note_evaluation(path, run, faces.data)
    return content


@torch.no_grad()
def diversity(network: Network, faces: Faces) -> dict[str, Any]:
    """num_lanets, num_heads, and means over the faces: ``lanets`` by measure, ``heads`` by measure a list by block."""
    model = transfer_only(network.model, network.run.weights)
    store = store_of(faces.store, network.about, faces.rows)
    maps: dict[str, list[Tensor]] = {name: [] for name in LANETS}
    heads: dict[str, list[Tensor]] = {name: [] for name in HEADS}
    blocks = blocks_of(model)
    with progress("measuring attention", len(faces.rows)) as report:
        for number, images in enumerate(evaluation_batches(store, faces.rows, network.device, _BATCH)):
            of_lanets, x = lanet_maps(model, images), tokens(model, images)
            if of_lanets.shape[1] > 1:
                for name, measure in LANETS.items():
                    maps[name].append(measure(of_lanets))
            attention = []
            for block in blocks:
                steps = trace(block, x)
                attention.append(steps.attention)
                x = steps.out
            for name, measure in HEADS.items():
                heads[name].append(torch.stack([measure(of_block) for of_block in attention], dim=1))
            report(min((number + 1) * _BATCH, len(faces.rows)))

    def means(found: dict[str, list[Tensor]]) -> dict[str, Any]:
        return {name: torch.cat(batches).double().mean(dim=0).tolist() for name, batches in found.items()}

    return {
        "num_lanets": of_lanets.shape[1],
        "num_heads": blocks[0].attn.num_heads,
        "lanets": means(maps) if maps["overlap"] else None,
        "heads": means(heads),
    }
