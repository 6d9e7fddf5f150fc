"""Relevance of the face's cells for a class: Chefer, Gur and Wolf's method on the ViT part of TransFER.

Source: Transformer Interpretability Beyond Attention Visualization (CVPR 2021, arXiv 2012.09838), section 3, and the
authors' baselines/ViT/ViT_LRP.py; docs/attention.md says where the two differ, and what is chosen here. The stem is not
explained: a token is a cell of its map.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, layer_norm, linear, one_hot

from transfer.models.transfer import TransFER
from transfer.models.vit import Block


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

    Every term of the product shares by its value, whatever its sign: each factor explains all of the product, so that
    without halving the relevance would double.
    """
    ratio = _ratio(relevance, left @ right)
    return left * (ratio @ right.mT) / 2, right * (left.mT @ ratio) / 2


def through_sum(skip: Tensor, branch: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of the two terms of a skip connection, each (N, ...), per sample.

    Terms of opposite signs get large relevances that cancel. So each term's is scaled until its total is that
    fraction of the whole which the size of its total has among the two.
    """
    ratio = _ratio(relevance, skip + branch)
    parts = skip * ratio, branch * ratio
    totals = [_total(part) for part in parts]
    scale = _ratio(_total(relevance), totals[0].abs() + totals[1].abs())
    return parts[0] * totals[0].sign() * scale, parts[1] * totals[1].sign() * scale


def _ratio(relevance: Tensor, divisor: Tensor) -> Tensor:
    return torch.where(divisor == 0, 0, relevance / divisor)


def _total(relevance: Tensor) -> Tensor:
    """The sum over each sample, with as many axes as ``relevance``."""
    return relevance.sum(dim=tuple(range(1, relevance.ndim)), keepdim=True)


class Steps(NamedTuple):
    """What a block computes from its tokens, in this order; T tokens of width D, h heads."""

    normed: Tensor
    """Tokens after the first norm, (N, T, D)."""
    queries: Tensor
    """(N, h, T, D / h), as keys and values are."""
    keys: Tensor
    values: Tensor
    attention: Tensor
    """Softmax of queries @ keys, (N, h, T, T); each row, a token that looks, has sum 1."""
    heads: Tensor
    """attention @ values, the heads side by side, (N, T, D)."""
    attended: Tensor
    """Output of the attention, (N, T, D)."""
    middle: Tensor
    """After the first skip connection, (N, T, D)."""
    middle_normed: Tensor
    activated: Tensor
    """The MLP's hidden layer after GELU."""
    transformed: Tensor
    """Output of the MLP, (N, T, D)."""
    out: Tensor
    """After the second skip connection, (N, T, D)."""


def features(model: TransFER, images: Tensor) -> Tensor:
    """Normalised images (N, 3, H, W) to the stem's features (N, C, h, w). Raises ValueError for a model in training."""
    if model.training:
        raise ValueError("the model is in training: MAD and MSAD drop, and batch norm changes; call model.eval() first")
    return model.stem(images)


def tokens(model: TransFER, images: Tensor) -> Tensor:
    """Normalised images (N, 3, H, W) to the first block's tokens (N, T, D), the class token first."""
    cells = model.proj(model.local_cnns(features(model, images))).flatten(2).transpose(1, 2)
    return torch.cat([model.cls_token.expand(len(cells), -1, -1), cells], dim=1) + model.pos_embed


def through_block(block: Block, x: Tensor) -> Steps:
    """Tokens (N, T, D) through a block, in the precision of the tokens."""
    normed = _norm(block.norm1, x)
    queries, keys, values = split_heads(_linear(block.attn.qkv, normed), block.attn.num_heads)
    attention = (queries @ keys.mT * queries.shape[-1] ** -0.5).softmax(dim=-1)
    heads = (attention @ values).transpose(1, 2).flatten(2)
    attended = _linear(block.attn.proj, heads)
    middle = x + attended
    middle_normed = _norm(block.norm2, middle)
    activated = block.mlp.act(_linear(block.mlp.fc1, middle_normed))
    transformed = _linear(block.mlp.fc2, activated)
    return Steps(
        normed,
        queries,
        keys,
        values,
        attention,
        heads,
        attended,
        middle,
        middle_normed,
        activated,
        transformed,
        middle + transformed,
    )


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, T, 3 * D) to queries, keys and values, each (N, heads, T, D / heads)."""
    n, t, width = qkv.shape
    return tuple(qkv.reshape(n, t, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4))


def class_token(model: TransFER, x: Tensor) -> Tensor:
    """The last block's tokens (N, T, D) to what the head sees, (N, D)."""
    return _norm(model.norm, x)[:, 0]


def logits(model: TransFER, x: Tensor) -> Tensor:
    """The last block's tokens (N, T, D) to logits (N, classes)."""
    return _linear(model.head, class_token(model, x))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight.to(x), None if layer.bias is None else layer.bias.to(x))


def _norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, layer.normalized_shape, layer.weight.to(x), layer.bias.to(x), layer.eps)


class OfBlock(NamedTuple):
    """What comes back through a block."""

    gradient: Tensor
    """Of the class's logit with respect to the attention, (N, heads, T, T)."""
    attention: Tensor
    """Relevance of the attention, (N, heads, T, T)."""
    tokens: Tensor
    """Relevance of the block's input, (N, T, D)."""


def relevance_maps(model: TransFER, images: Tensor, classes: Tensor | None = None, side: int | None = None) -> Tensor:
    """Heat maps (N, side, side) float32 of normalised images (N, 3, H, W), each from 0 to 1.

    ``classes`` (N,) are the classes to explain, each sample's own; None: the predicted ones. ``side`` is in pixels;
    None: that of the input. A map without any differences is 0. Raises ValueError for a model in training.
    """
    blocks = [weighted_attention(block) for block in back_through_blocks(model, images, classes)]
    return heat_maps(rollout(blocks[::-1]), side or images.shape[-1])


def back_through_blocks(model: TransFER, images: Tensor, classes: Tensor | None = None) -> Iterator[OfBlock]:
    """From the one-hot class back through head, norm and blocks, the last block first; see :func:`relevance_maps`.

    In float64: the sums of skip connections come close to 0, and the quotients make rounding errors large. Between two
    blocks only their tokens are kept. The model stays as it is: nothing is hooked, and no parameter gets a gradient.
    """
    with torch.no_grad():
        inputs = [tokens(model, images).double()]
        for block in model.blocks:
            inputs.append(through_block(block, inputs[-1]).out)
        last = inputs.pop()
    gradient, relevance = _from_the_class(model, last, classes)
    for block, x in zip(reversed(model.blocks), reversed(inputs), strict=True):
        with torch.enable_grad():
            x = x.requires_grad_()
            steps = through_block(block, x)
            of_attention, gradient = torch.autograd.grad(steps.out, (steps.attention, x), gradient)
        with torch.no_grad():
            attention, relevance = _through_block(block, x, steps, relevance)
        yield OfBlock(of_attention, attention, relevance)


def weighted_attention(block: OfBlock) -> Tensor:
    """The mean over the heads of (gradient * relevance)^+, (N, T, T)."""
    return (block.gradient * block.attention).clamp(min=0).mean(dim=1)


def rollout(blocks: list[Tensor]) -> Tensor:
    """How much of every token comes to the class token through all blocks, (N, T), from (N, T, T) per block in order.

    A block passes on I + A, the identity being its skip connections, with rows of sum 1.
    """
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


def _from_the_class(model: TransFER, last: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradient of the class's logit, and its relevance of 1, at the last block's tokens (N, T, D)."""
    with torch.enable_grad():
        last = last.requires_grad_()
        scores = logits(model, last)
        chosen = scores.argmax(dim=1) if classes is None else classes.to(scores.device)
        chosen = one_hot(chosen, scores.shape[1]).to(scores)
        (gradient,) = torch.autograd.grad(scores, last, chosen)
    with torch.no_grad():
        relevance = torch.zeros_like(last)
        seen = class_token(model, last)
        relevance[:, 0] = through_linear(seen, model.head.weight.to(seen), chosen)  # the norm passes it on as it is
    return gradient, relevance


def _through_block(block: Block, x: Tensor, steps: Steps, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of a block's attention and of its input, from that of its output.

    GELU, softmax and layer norm pass relevance on as it is.
    """

    def through(layer: torch.nn.Linear, inputs: Tensor, relevance: Tensor) -> Tensor:
        return through_linear(inputs, layer.weight.to(inputs), relevance)

    middle, transformed = through_sum(steps.middle, steps.transformed, relevance)
    activated = through(block.mlp.fc2, steps.activated, transformed)
    middle = middle + through(block.mlp.fc1, steps.middle_normed, activated)

    tokens, attended = through_sum(x, steps.attended, middle)
    heads = through(block.attn.proj, steps.heads, attended).unflatten(2, (block.attn.num_heads, -1)).transpose(1, 2)
    attention, values = through_product(steps.attention, steps.values, heads)
    queries, keys = through_product(steps.queries, steps.keys.mT, attention)
    qkv = torch.stack([queries, keys.mT, values]).permute(1, 3, 0, 2, 4).flatten(2)
    return attention, tokens + through(block.attn.qkv, steps.normed, qkv)
