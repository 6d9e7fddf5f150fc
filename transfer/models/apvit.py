"""APViT, TransFER's successor: Xue, Wang, Tan, Ma, Guo, "Vision Transformer with Attentive Pooling for Robust FER"
(IEEE TAC 2022; youqingxiaozhua/APViT, mmcls/models/vit/vit_siam_merge.py, backbones/modules/vit_pooling.py).

TransFER's stem and encoder, without Local CNNs, MAD and MSAD, and with two poolings that keep the most attended parts.
"""

from typing import Any

import torch
from torch import Tensor

from transfer.models.registry import register
from transfer.models.transfer import SIZES, TransFER
from transfer.models.vit import Block, attend
from transfer.params.base import Fraction


class APViT(TransFER):
    """Faces (N, 3, img_size, img_size) to logits (N, num_classes).

    ``keep_cells``: fraction of the map's cells that become tokens, those with the largest sum of absolute projected
    features (160 of 196 in the paper). ``keep_tokens``: fraction that each block of the second half keeps, those with
    the largest scaled product with the class token's query, summed over the heads.
    """

    def __init__(self, keep_cells: Fraction = 0.8164, keep_tokens: Fraction = 0.9, **sizes: Any) -> None:
        super().__init__(num_lanets=0, **sizes)
        self.keep_cells, self.keep_tokens = keep_cells, keep_tokens

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to the tokens that are left, the class token first."""
        x = self.proj(self.stem(self.normalization(x))).flatten(2).transpose(1, 2)
        x = keep(x + self.pos_embed[:, 1:], x.abs().sum(dim=2), self.keep_cells)
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        blocks: Any = self.blocks
        for number, block in enumerate(blocks):
            x = block(x) if number < len(blocks) // 2 else pooling_block(block, x, self.keep_tokens)
        return self.norm(x)


def keep(tokens: Tensor, scores: Tensor, fraction: float) -> Tensor:
    """Of tokens (N, T, D) the int(T * fraction), at least one, with the highest ``scores`` (N, T), in their order."""
    count = max(int(tokens.shape[1] * fraction), 1)
    chosen = scores.topk(count, dim=1).indices.sort(dim=1).values
    return tokens.gather(1, chosen.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def pooling_block(block: Block, x: Tensor, fraction: float) -> Tensor:
    """An encoder block on tokens (N, T, D); its MLP sees the class token and the ``fraction`` of the others."""
    (n, t, dim), attention = x.shape, block.attn
    qkv = attention.qkv(block.norm1(x)).reshape(n, t, 3, attention.num_heads, dim // attention.num_heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    x = x + attention.proj(attend(q, k, v).transpose(1, 2).reshape(n, t, dim))
    scores = (q[:, :, :1] @ k[:, :, 1:].transpose(2, 3)).sum(dim=(1, 2))
    x = torch.cat([x[:, :1], keep(x[:, 1:], scores, fraction)], dim=1)
    return x + block.mlp(block.norm2(x))


@register
def apvit(**kwargs: Any) -> APViT:
    """The paper's: TransFER's sizes, 65.2 M parameters."""
    return APViT(**kwargs)


@register
def apvit_small(**kwargs: Any) -> APViT:
    """With the sizes of transfer_small."""
    return APViT(**{**SIZES["small"], **kwargs})


@register
def apvit_medium(**kwargs: Any) -> APViT:
    """With the sizes of transfer_medium."""
    return APViT(**{**SIZES["medium"], **kwargs})
