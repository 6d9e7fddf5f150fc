"""MAD and MSAD: one branch of several is dropped at random, per sample, in training only."""

import torch
from torch import Tensor, nn


def keep_all_but_one(samples: int, branches: int, rate: float, device: torch.device) -> Tensor:
    """Mask (samples, branches) of ones; with probability ``rate`` a row has one zero, at a uniformly drawn branch."""
    dropped = torch.rand(samples, 1, device=device) < rate
    branch = torch.randint(branches, (samples, 1), device=device)
    chosen = torch.arange(branches, device=device) == branch
    return (~(dropped & chosen)).float()


class DropOneBranch(nn.Module):
    """With probability ``rate`` one of a sample's branches (N, branches, ., .), drawn uniformly, becomes 0.

    In training only, without rescaling. A dropped branch gets a gradient of exactly 0.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        mask = keep_all_but_one(x.shape[0], x.shape[1], self.rate, x.device)
        return x * mask[:, :, None, None].to(x.dtype)


class MAD(DropOneBranch):
    """Multi-attention dropping: the branches are the B attention maps (N, B, H, W); ``rate`` is the paper's p1.

    As in the authors' la_max.py (MaxHybridFlatten).
    """


class MSAD(DropOneBranch):
    """Multi-head self-attention dropping: the branches are a block's heads (N, heads, T, head_dim); ``rate`` is p2.

    The head's output is masked rather than its queries, keys and values: the same function, and fused attention stays
    usable. Every block draws for itself.
    """


class TokenDrop(nn.Module):
    """What the released code does in place of MSAD: one of the first ``num_heads`` tokens loses its q, k and v.

    HeadDropOut (Paddle trans_fer.py, torch vit.py) indexes axis 1 of a tensor (N, tokens, 3, heads, head_dim), so the
    drawn number selects a token (0 is the class token), for all heads. A zeroed key still takes part in the softmax.
    """

    def __init__(self, rate: float, num_heads: int) -> None:
        super().__init__()
        self.rate = rate
        self.num_heads = num_heads

    def forward(self, qkv: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return qkv
        tokens = min(self.num_heads, qkv.shape[1])
        mask = keep_all_but_one(qkv.shape[0], tokens, self.rate, qkv.device)
        mask = nn.functional.pad(mask, (0, qkv.shape[1] - tokens), value=1.0)
        return qkv * mask[:, :, None, None, None].to(qkv.dtype)
