"""TransFER in evaluation, step by step: the same function as the model's own forward pass, with all that is inside."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from transfer.models.transfer import TransFER
from transfer.models.vit import Block


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
