"""Relevance of the face's cells for a class: Chefer, Gur and Wolf's method on the ViT part of TransFER.

Source: Transformer Interpretability Beyond Attention Visualization (CVPR 2021, arXiv 2012.09838), section 3, and the
authors' baselines/ViT/ViT_LRP.py; docs/attention.md says where the two differ, and what is chosen here. The stem is not
explained: a token is a cell of its map.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from transfer.explain import walk
from transfer.explain.rules import through_linear, through_product, through_sum
from transfer.models.transfer import TransFER
from transfer.models.vit import Block


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
        inputs = [walk.tokens(model, images).double()]
        for block in model.blocks:
            inputs.append(walk.through_block(block, inputs[-1]).out)
        last = inputs.pop()
    gradient, relevance = _from_the_class(model, last, classes)
    for block, x in zip(reversed(model.blocks), reversed(inputs), strict=True):
        with torch.enable_grad():
            x = x.requires_grad_()
            steps = walk.through_block(block, x)
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
        logits = walk.logits(model, last)
        chosen = logits.argmax(dim=1) if classes is None else classes.to(logits.device)
        chosen = one_hot(chosen, logits.shape[1]).to(logits)
        (gradient,) = torch.autograd.grad(logits, last, chosen)
    with torch.no_grad():
        relevance = torch.zeros_like(last)
        seen = walk.class_token(model, last)
        relevance[:, 0] = through_linear(seen, model.head.weight.to(seen), chosen)  # the norm passes it on as it is
    return gradient, relevance


def _through_block(block: Block, x: Tensor, steps: walk.Steps, relevance: Tensor) -> tuple[Tensor, Tensor]:
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
