"""How alike several maps of one face are: mean over all pairs, per face."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


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
