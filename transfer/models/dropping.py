"""MAD and MSAD: one branch of several is dropped at random, per sample, in training only."""

import torch
from torch import Tensor, nn


def keep_all_but_one(samples: int, branches: int, rate: float, device: torch.device) -> Tensor:
    """Mask (samples, branches) of ones; with probability ``rate`` a row has one zero, at a uniformly drawn branch.

    One draw for the whole batch, on the device: no loop over samples, no synchronisation with the host.
    """
    dropped = torch.rand(samples, 1, device=device) < rate
    branch = torch.randint(branches, (samples, 1), device=device)
    chosen = torch.arange(branches, device=device) == branch
    return (~(dropped & chosen)).float()


class MAD(nn.Module):
    """Multi-attention dropping: with probability p1 one of a sample's B attention maps becomes 0.

    Nothing is rescaled, as in the authors' la_max.py; in evaluation the maps pass untouched.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, B, H, W) to maps (N, B, H, W)."""
        if not self.training or self.rate == 0:
            return maps
        mask = keep_all_but_one(maps.shape[0], maps.shape[1], self.rate, maps.device)
        return maps * mask[:, :, None, None].to(maps.dtype)


class MSAD(nn.Module):
    """Multi-head self-attention dropping: with probability p2 one head of a sample's attention outputs 0.

    The head's output is masked rather than its queries, keys and values, which is the same function and leaves fused
    attention in use. Every block draws for itself. Nothing is rescaled.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, heads: Tensor) -> Tensor:
        """Outputs of the heads (N, heads, tokens, head_dim), same shape back."""
        if not self.training or self.rate == 0:
            return heads
        mask = keep_all_but_one(heads.shape[0], heads.shape[1], self.rate, heads.device)
        return heads * mask[:, :, None, None].to(heads.dtype)


class TokenDrop(nn.Module):
    """What the released code does in MSAD's place: one of the first ``num_heads`` tokens loses its q, k and v.

    HeadDropOut (Paddle trans_fer.py, torch vit.py) indexes axis 1 of a tensor (N, tokens, 3, heads, head_dim), so the
    drawn number selects a token (0 is the class token), for all heads. A zeroed key still takes part in the softmax.
    """

    def __init__(self, rate: float, num_heads: int) -> None:
        super().__init__()
        self.rate = rate
        self.num_heads = num_heads

    def forward(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values (N, tokens, 3, heads, head_dim), same shape back."""
        if not self.training or self.rate == 0:
            return qkv
        tokens = min(self.num_heads, qkv.shape[1])
        mask = keep_all_but_one(qkv.shape[0], tokens, self.rate, qkv.device)
        mask = nn.functional.pad(mask, (0, qkv.shape[1] - tokens), value=1.0)
        return qkv * mask[:, :, None, None, None].to(qkv.dtype)
