"""The paper's claim, measured: how diverse a training's LANet maps are, and how alike the heads of each block.

Formulas in `transfer.explain.diversity`, their meaning in docs/attention.md.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from transfer.evaluation.statistics import summary
from transfer.explain import relevance as walk
from transfer.explain.finished import EvaluationFaces, load_finished, load_test_faces
from transfer.explain.relevance import features
from transfer.layout import Layout
from transfer.models.lanet import LocalCNNs
from transfer.models.transfer import TransFER
from transfer.params import TrainParams
from transfer.training.batches import evaluation_batches
from transfer.training.device import choose_device
from transfer.utils.code_digest import step_digest
from transfer.utils.errors import UserError
from transfer.utils.files import write_json
from transfer.utils.progress import progress


def overlap(maps: Tensor) -> Tensor:
    """Mean pairwise soft intersection over union (N,) of non-negative maps (N, B, h, w): sum of minima / sum of maxima.

    1: all maps are the same; 0: no cell belongs to two of them. Two maps that are 0 everywhere are the same.
    """
    first, second = _pairs(maps.flatten(2))
    both, either = torch.minimum(first, second).sum(dim=-1), torch.maximum(first, second).sum(dim=-1)
    return torch.where(either == 0, 1, both / either).mean(dim=1)


def cosine(vectors: Tensor) -> Tensor:
    """Mean pairwise cosine (N,) of vectors (N, B, K); 0 where a vector is 0."""
    first, second = _pairs(normalize(vectors, dim=-1))
    return (first * second).sum(dim=-1).mean(dim=1)


def correlation(maps: Tensor) -> Tensor:
    """Mean pairwise correlation (N,) over the cells of maps (N, B, h, w), from -1 to 1; 0 where a map is flat.

    Unlike the other two it does not see how high a map is, only where it is higher.
    """
    cells = maps.flatten(2)
    return cosine(cells - cells.mean(dim=-1, keepdim=True))


def _pairs(items: Tensor) -> tuple[Tensor, Tensor]:
    """(N, B, K) to the first and the second of each pair, (N, pairs, K) each."""
    first, second = torch.triu_indices(items.shape[1], items.shape[1], offset=1)
    return items[:, first], items[:, second]


@torch.no_grad()
def lanet_maps(model: TransFER, images: Tensor) -> Tensor:
    """The B maps before dropping, (N, B, h, w) in (0, 1), of normalised images (N, 3, H, W); B is 0 without LANets.

    Raises ValueError for a model in training.
    """
    found = features(model, images)
    if not isinstance(model.local_cnns, LocalCNNs):
        return found[:, :0]
    return model.local_cnns.attention_maps(found)


def resized(maps: Tensor, side: int) -> Tensor:
    """Maps (N, B, h, w) to (N, B, side, side), bilinear."""
    return interpolate(maps, (side, side), mode="bilinear", align_corners=False) if maps.shape[1] else maps


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


MEASURES = {
    "lanets_overlap": (0.0, 1.0),
    "lanets_cosine": (0.0, 1.0),
    "lanets_correlation": (-1.0, 1.0),
    "heads_class_cosine": (0.0, 1.0),
    "heads_class_correlation": (-1.0, 1.0),
    "heads_all_cosine": (0.0, 1.0),
    "heads_all_correlation": (-1.0, 1.0),
}
"""The measures of diversity.json and between which values they lie; those of heads are means over the blocks."""


def read_diversity(layout: Layout, dataset: str, recipes: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """One row per recipe, seed and measure: recipe, seed, measure, value (NaN: no two LANets), faces.

    Raises UserError, naming the file: one is missing, or was measured on other weights than the run's.
    """
    rows = []
    for recipe in recipes:
        for seed in seeds:
            path = layout.evaluation("attention", dataset, recipe, seed) / "diversity.json"
            content = _read(path, layout.run(dataset, recipe, seed) / "env.json")
            for measure in MEASURES:
                part, _, name = measure.partition("_")
                found = (content[part] or {}).get(name)
                value = np.nan if found is None else float(np.mean(found))
                rows.append((recipe, seed, measure, value, content["n"]))
    return pd.DataFrame(rows, columns=["recipe", "seed", "measure", "value", "faces"])


def over_seeds(values: np.ndarray, low: float, high: float) -> dict[str, float]:
    """mean, std, ci95_low and ci95_high of one value per seed, each from ``low`` to ``high``; NaN where undefined."""
    if np.isnan(values).any():
        return dict.fromkeys(("mean", "std", "ci95_low", "ci95_high"), np.nan)
    width = high - low
    found = summary(list((values - low) / width))  # which takes fractions in [0, 1]
    places = {name: getattr(found, name) for name in ("mean", "ci95_low", "ci95_high")}
    scaled = {name: np.nan if value is None else low + width * value for name, value in places.items()}
    return scaled | {"std": np.nan if found.std is None else width * found.std}


def _read(path: Path, env: Path) -> dict[str, Any]:
    for file in (path, env):
        if not file.exists():
            raise UserError(f"{file}: not there; make it with: snakemake --cores all {file}")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["weights_sha256"] != json.loads(env.read_text(encoding="utf-8"))["weights_sha256"]:
        raise UserError(
            f"{path}: measured on other weights than the run's; delete it and run: snakemake --cores all {path}"
        )
    return content
