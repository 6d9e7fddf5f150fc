"""The transformer encoder block with MSAD in its self-attention (authors' mmcls/models/vit/vit.py)."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from transfer.models.dropping import MSAD, TokenDrop


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention per head, each (N, heads, T, head_dim): fused, but for training on a CPU.

    There the fused kernel's backward pass takes several times as long as two plain matrix products.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled():
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return weights.softmax(dim=-1) @ v
    return scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head self-attention on tokens (N, T, dim), heads dropped at random; no bias on q, k, v, as released."""

    def __init__(self, dim: int, num_heads: int, msad: float, msad_mode: Literal["head", "token"]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.token_drop = TokenDrop(msad if msad_mode == "token" else 0.0, num_heads)
        self.msad = MSAD(msad if msad_mode == "head" else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        n, t, dim = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, dim // self.num_heads)
        q, k, v = self.token_drop(qkv).permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, T, head_dim)
        heads = self.msad(attend(q, k, v))
        return self.proj(heads.transpose(1, 2).reshape(n, t, dim))


class Block(nn.Module):
    """Pre-norm encoder block on tokens (N, T, dim): attention, then a GELU MLP of ``mlp_ratio`` times the width."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, msad: float, msad_mode: Literal["head", "token"]
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, msad, msad_mode)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        layers = {"fc1": nn.Linear(dim, hidden), "act": nn.GELU(), "fc2": nn.Linear(hidden, dim)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
