"""Relevance of the face's cells for a class: Chefer, Gur and Wolf's method on the ViT part of TransFER.

Source: Transformer Interpretability Beyond Attention Visualization (CVPR 2021, arXiv 2012.09838), section 3, and the
authors' baselines/ViT/ViT_LRP.py; docs/attention.md says where the two differ, and what is chosen here. The stem is not
explained: a token is a cell of its map.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from transfer.models.transfer import TransFER
from transfer.models.vit import Block


def relevance_maps(model: TransFER, images: Tensor, classes: Tensor | None = None, side: int | None = None) -> Tensor:
    """Heat maps (N, side, side) float32 of normalised images (N, 3, H, W), each from 0 to 1; a flat one is 0.

    ``classes`` (N,) are the classes to explain; None: the predicted ones. ``side`` in pixels; None: that of the input.
    Raises ValueError for a model in training mode.
    """
    blocks = [weighted_attention(block) for block in back_through_blocks(model, images, classes)]
    return heat_maps(rollout(blocks[::-1]), side or images.shape[-1])


class BlockRelevance(NamedTuple):
    """Gradients and relevance propagated through one encoder block; T tokens of width D."""

    gradient: Tensor  # of the class's logit with respect to the attention, (N, heads, T, T)
    attention: Tensor  # relevance of the attention, (N, heads, T, T)
    tokens: Tensor  # relevance of the block's input, (N, T, D)


def back_through_blocks(model: TransFER, images: Tensor, classes: Tensor | None = None) -> Iterator[BlockRelevance]:
    """From the one-hot class back through head, norm and blocks, the last block first; see `relevance_maps`.

    In float64, on copies of the layers: the sums of skip connections come close to 0, which magnifies rounding errors.
    """
    with torch.no_grad():
        inputs = [tokens(model, images).double()]
        for block in blocks_of(model):
            inputs.append(trace(deepcopy(block).double(), inputs[-1]).out)
        last = inputs.pop()
    gradient, relevance = _from_the_class(model, last, classes)
    for block, x in zip(blocks_of(model)[::-1], inputs[::-1], strict=True):
        block = deepcopy(block).double()
        with torch.enable_grad():
            x = x.requires_grad_()
            steps = trace(block, x)
            of_attention, gradient = torch.autograd.grad(steps.out, (steps.attention, x), gradient)
        with torch.no_grad():
            attention, relevance = _through_block(block, x, steps, relevance)
        yield BlockRelevance(of_attention, attention, relevance)


def weighted_attention(block: BlockRelevance) -> Tensor:
    """The mean over the heads of (gradient * relevance)^+, (N, T, T)."""
    return (block.gradient * block.attention).clamp(min=0).mean(dim=1)


def rollout(blocks: list[Tensor]) -> Tensor:
    """How much of each token reaches the class token, (N, T), from A (N, T, T) per block, which passes on I + A."""
    row = torch.zeros_like(blocks[0][:, :1])
    row[..., 0] = 1
    for matrix in reversed(blocks):
        passed = matrix + torch.eye(matrix.shape[-1]).to(matrix)
        row = row @ (passed / passed.sum(dim=-1, keepdim=True))
    return row[:, 0]


def heat_maps(tokens: Tensor, side: int) -> Tensor:
    """A value per token (N, 1 + cells), the class token first, to maps (N, side, side) float32 from 0 to 1."""
    cells = tokens[:, 1:]
    grid = round(cells.shape[1] ** 0.5)
    maps = interpolate(cells.reshape(-1, 1, grid, grid), (side, side), mode="bilinear", align_corners=False)
    low, high = (maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True))
    return torch.where(high > low, (maps - low) / (high - low), 0)[:, 0].float()


class Trace(NamedTuple):
    """What a block computes from its tokens, in this order; T tokens of width D, h heads; (N, T, D) if not said."""

    normed: Tensor
    queries: Tensor  # (N, h, T, D / h), as keys and values are
    keys: Tensor
    values: Tensor
    attention: Tensor  # softmax of queries @ keys, (N, h, T, T); each row, a token that looks, has sum 1
    heads: Tensor  # attention @ values, the heads side by side
    attended: Tensor  # output of the attention
    middle: Tensor  # after the first skip connection
    middle_normed: Tensor
    activated: Tensor  # the MLP's hidden layer after GELU, (N, T, hidden)
    transformed: Tensor  # output of the MLP
    out: Tensor  # after the second skip connection


def features(model: TransFER, images: Tensor) -> Tensor:
    """The stem's features (N, C, h, w) of normalised images (N, 3, H, W). ValueError for a model in training mode."""
    if model.training:
        raise ValueError("the model is in training: MAD and MSAD drop, and batch norm changes; call model.eval() first")
    return model.stem(model.normalization(images))


def blocks_of(model: TransFER) -> list[Block]:
    """The encoder blocks, in order."""
    return [block for block in model.blocks if isinstance(block, Block)]


def tokens(model: TransFER, images: Tensor) -> Tensor:
    """Normalised images (N, 3, H, W) to the first block's tokens (N, T, D), the class token first."""
    cells = model.proj(model.local_cnns(features(model, images))).flatten(2).transpose(1, 2)
    return torch.cat([model.cls_token.expand(len(cells), -1, -1), cells], dim=1) + model.pos_embed


def trace(block: Block, x: Tensor) -> Trace:
    """Tokens (N, T, D) through a block, whose own forward pass may use fused attention."""
    normed = block.norm1(x)
    n, t, width = x.shape
    qkv = block.attn.qkv(normed).reshape(n, t, 3, block.attn.num_heads, width // block.attn.num_heads)
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
    attention = (queries @ keys.mT * queries.shape[-1] ** -0.5).softmax(dim=-1)
    heads = (attention @ values).transpose(1, 2).flatten(2)
    attended = block.attn.proj(heads)
    middle = x + attended
    middle_normed = block.norm2(middle)
    activated = block.mlp[:2](middle_normed)
    transformed = block.mlp[2](activated)
    mlp = (middle, middle_normed, activated, transformed, middle + transformed)
    return Trace(normed, queries, keys, values, attention, heads, attended, *mlp)


def _from_the_class(model: TransFER, last: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    norm, head = deepcopy(model.norm).double(), deepcopy(model.head).double()
    with torch.enable_grad():
        last = last.requires_grad_()
        seen = norm(last)[:, 0]
        scores = head(seen)
        chosen = scores.argmax(dim=1) if classes is None else classes.to(scores.device)
        chosen = one_hot(chosen, scores.shape[1]).to(scores)
        (gradient,) = torch.autograd.grad(scores, last, chosen)
    with torch.no_grad():
        relevance = torch.zeros_like(last)
        relevance[:, 0] = through_linear(seen, head.get_parameter("weight"), chosen)  # the norm passes it on as it is
    return gradient, relevance


def _through_block(block: Block, x: Tensor, steps: Trace, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """GELU, softmax and layer norm pass relevance on as it is."""
    weights = block.state_dict()
    middle, transformed = through_sum(steps.middle, steps.transformed, relevance)
    activated = through_linear(steps.activated, weights["mlp.fc2.weight"], transformed)
    middle = middle + through_linear(steps.middle_normed, weights["mlp.fc1.weight"], activated)

    tokens, attended = through_sum(x, steps.attended, middle)
    heads = through_linear(steps.heads, block.attn.proj.weight, attended)
    heads = heads.unflatten(2, (block.attn.num_heads, -1)).transpose(1, 2)
    attention, values = through_product(steps.attention, steps.values, heads)
    queries, keys = through_product(steps.queries, steps.keys.mT, attention)
    qkv = torch.stack([queries, keys.mT, values]).permute(1, 3, 0, 2, 4).flatten(2)
    return attention, tokens + through_linear(steps.normed, block.attn.qkv.weight, qkv)


def through_linear(inputs: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of the inputs (..., in) of a linear layer, ``weight`` (out, in), from that of its outputs (..., out).

    Inputs share by their positive contributions x * w alone. The bias takes no part and gets nothing.
    """
    positive, negative = inputs.clamp(min=0), inputs.clamp(max=0)
    excites, inhibits = weight.clamp(min=0), weight.clamp(max=0)
    ratio = _ratio(relevance, positive @ excites.T + negative @ inhibits.T)
    return positive * (ratio @ excites) + negative * (ratio @ inhibits)


def through_product(left: Tensor, right: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of the factors of the matrix product ``left @ right``; each of the two has half of the whole.

    Every term of the product shares by its value, whatever its sign; without halving the relevance would double.
    """
    ratio = _ratio(relevance, left @ right)
    return left * (ratio @ right.mT) / 2, right * (left.mT @ ratio) / 2


def through_sum(skip: Tensor, branch: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of the two terms of a skip connection, each (N, ...), per sample.

    Terms of opposite signs get large relevances that cancel. So each term's is scaled until its total is the fraction
    of the whole that |its total| is of the sum of both.
    """
    ratio = _ratio(relevance, skip + branch)
    parts = skip * ratio, branch * ratio
    totals = [_total(part) for part in parts]
    scale = _ratio(_total(relevance), totals[0].abs() + totals[1].abs())
    return parts[0] * totals[0].sign() * scale, parts[1] * totals[1].sign() * scale


def _ratio(relevance: Tensor, divisor: Tensor) -> Tensor:
    return torch.where(divisor == 0, 0, relevance / divisor)


def _total(relevance: Tensor) -> Tensor:
    return relevance.sum(dim=tuple(range(1, relevance.ndim)), keepdim=True)
