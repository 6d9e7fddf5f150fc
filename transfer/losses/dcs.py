"""Dual cross similarity: Wang, Chen, et al., "QCS" (AAAI 2025; birdwcp/QCS, models/DCS_7cls_raf_db.py, utils.py,
main_DCS_raf_db.py).

Each face is compared with another one of its class in the batch (with itself where it is alone). For keys k of a face
and k' of the other, per scale, s = max d - (d - min d) with the distances d (T', T) of all their tokens: the weights of
a face's tokens are the softmax of the sum over T' of s normalised along T, those of the other one likewise. Values
weighed so are added to the tokens, and a second encoder classifies these. The loss is the mean cross-entropy of both
faces, as they are and after the comparison.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from transfer.losses import base
from transfer.models.dcs import DCS, DIM, Encoder


class Loss(base.Loss):
    """Own parameters: the comparison at three scales and the second encoder. Needs the model ``dcs``."""

    def __init__(self, num_classes: int, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, DCS):
            raise ValueError(f"needs tokens of three scales, and {type(model).__name__} has none; use the model dcs")
        self.compare = nn.ModuleList(_Comparison() for _ in range(3))
        self.encoder = Encoder(num_classes, model.encoder.pos_embed.shape[1] - 1, depth=1, dropout=0.2)

    def network(self, model: nn.Module) -> nn.Module:
        return base.WithFeatures(model)

    def forward(self, batch: base.Batch) -> tuple[Tensor, Tensor]:
        logits, _, tokens = batch.outputs
        own = tokens[:, 1:]
        other = partners(batch.labels)
        pairs = [compare(x, x[other]) for compare, x in zip(self.compare, own.chunk(3, dim=1), strict=True)]
        first, second = (torch.cat(parts, dim=1) for parts in zip(*pairs, strict=True))
        loss = 2 * cross_entropy(logits.float(), batch.targets)
        loss = loss + cross_entropy(self.encoder(own + first).float(), batch.targets)
        loss = loss + cross_entropy(self.encoder(own[other] + second).float(), batch.targets[other])
        return loss / 4, logits


def partners(labels: Tensor) -> Tensor:
    """For class numbers (N,) another row of the same class, each row once, drawn at random; of a single one itself."""
    order = torch.randperm(len(labels), device=labels.device)
    order = order[labels[order].argsort(stable=True)]
    among = labels[order]
    following = order.roll(-1)
    first = order[torch.searchsorted(among, among)]  # of the class: its last row is followed by it
    found = torch.empty_like(order)
    found[order] = torch.where(among == among.roll(-1), following, first)
    return found


class _Comparison(nn.Module):
    """Tokens (N, T, 768) of faces and of their partners to what is added to each."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.proj = nn.Linear(DIM, 2 * DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        one, two = self.norm1(one), self.norm1(two)
        (key, value), (other_key, other_value) = (self.proj(x).chunk(2, dim=2) for x in (one, two))
        weights, other_weights = similarity(key.float(), other_key.float())
        return self._refined(one + weights * value), self._refined(two + other_weights * other_value)

    def _refined(self, x: Tensor) -> Tensor:
        x = self.norm2(x)
        return x + self.mlp(x)


def similarity(key: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (N, T, 1) of the tokens of two faces by their keys (N, T, D); least and largest of the whole batch."""
    distances = torch.cdist(other, key)
    distances = distances - distances.min()
    near = distances.max() - distances
    weights = normalize(near, dim=2).sum(dim=1).softmax(dim=1)
    return weights.unsqueeze(2), normalize(near, dim=1).sum(dim=2).softmax(dim=1).unsqueeze(2)
