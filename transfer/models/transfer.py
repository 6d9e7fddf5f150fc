"""TransFER: Learning Relation-aware Facial Expression Representations with Transformers (Xue, Wang, Guo, ICCV 2021).

The order of this file is the order of the paper's Figure 2: stem CNN, Local CNNs with MAD, 1x1 projection to tokens,
transformer encoder with MSAD, linear head. Sizes are those of the authors' released model (repository
youqingxiaozhua/APViT, Paddle/ppcls/arch/backbone/model_zoo/trans_fer.py); docs/faithfulness.md lists every difference.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from transfer.models.ir50 import IRStem
from transfer.models.lanet import LocalCNNs
from transfer.models.registry import IMAGENET_MEAN, IMAGENET_STD, register
from transfer.models.vit import Block
from transfer.params.base import Fraction


class TransFER(nn.Module):
    """Faces (N, 3, img_size, img_size), ImageNet-normalised RGB, to logits (N, num_classes).

    ``num_lanets`` 0 leaves the Local CNNs out; ``mad`` is the paper's p1, ``msad`` its p2; ``normalization`` is what
    the stem sees: ImageNet's, as released, or ``half``, with which IR-50 was trained. Raises ValueError where a rate
    lies outside [0, 1], MAD has fewer than two maps to choose from, or the stem does not divide ``img_size``.
    """

    backbone = "IR stem and ViT"

    def __init__(
        self,
        num_classes: int = 7,
        img_size: int = 112,
        in_chans: int = 3,
        stem_widths: Sequence[int] = (64, 128, 256, 512),
        stem_units: Sequence[int] = (3, 4, 14, 3),
        stem_stages: int = 3,
        num_lanets: int = 2,
        lanet_ratio: int = 16,
        lanet_norm: bool = True,
        mad: Fraction = 0.0,
        msad: Fraction = 0.0,
        msad_mode: Literal["head", "token"] = "head",
        embed_dim: int = 768,
        depth: int = 8,
        num_heads: int = 8,
        mlp_ratio: float = 3.0,
        normalization: Literal["imagenet", "half"] = "imagenet",
    ) -> None:
        super().__init__()
        _check(img_size, stem_stages, len(stem_widths), num_lanets, mad, msad, msad_mode)
        self.num_classes, self.num_features = num_classes, embed_dim
        self.default_cfg = {
            "input_size": (in_chans, img_size, img_size),
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "num_classes": num_classes,
            "classifier": "head",
        }
        self.normalization = nn.Identity() if normalization == "imagenet" else HalfNormalization()
        # Stem CNN: (N, 3, 112, 112) -> (N, 256, 14, 14)
        self.stem = IRStem(stem_widths[:stem_stages], stem_units[:stem_stages], in_chans)
        channels, grid = self.stem.out_channels, img_size // self.stem.reduction
        # Projection: every cell of the 14x14 map becomes a token
        self.proj = nn.Conv2d(channels, embed_dim, kernel_size=1)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, embed_dim))
        # Transformer encoder with MSAD
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, mlp_ratio, msad, msad_mode) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.head = self._new_head(num_classes)
        # Local CNNs with MAD, drawn last: with and without them, a seed gives all other parts the same weights
        self.local_cnns = LocalCNNs(channels, num_lanets, lanet_ratio, mad, lanet_norm) if num_lanets else nn.Identity()
        self.local_cnns.apply(_initialise)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to tokens (N, 1 + cells, embed_dim), the class token first."""
        x = self.stem(self.normalization(x))
        x = self.local_cnns(x)
        x = self.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        return self.norm(self.blocks(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x[:, 0] if pre_logits else self.head(x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, as in the authors' configs/apvit/RAF.py."""
        return {"cls_token", "pos_embed"}

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head = self._new_head(num_classes)

    def _new_head(self, num_classes: int) -> nn.Module:
        """One linear layer that starts at 0, as in the authors' linear_head.py."""
        if num_classes == 0:
            return nn.Identity()
        head = nn.Linear(self.num_features, num_classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return head


class HalfNormalization(nn.Module):
    """ImageNet-normalised images (N, 3, H, W) to mean and standard deviation 0.5, those of face.evoLVe's IR-50."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale", std / 0.5, persistent=False)
        self.register_buffer("shift", (mean - 0.5) / 0.5, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def _check(
    img_size: int, stages: int, max_stages: int, num_lanets: int, mad: float, msad: float, msad_mode: str
) -> None:
    if not 1 <= stages <= max_stages:
        raise ValueError(f"stem_stages must lie in 1..{max_stages}, not {stages}")
    if img_size % 2**stages:
        raise ValueError(f"img_size must be a multiple of {2**stages} with {stages} stem stages, not {img_size}")
    if not (0 <= mad <= 1 and 0 <= msad <= 1):
        raise ValueError(f"mad and msad are probabilities in [0, 1], not {mad} and {msad}")
    if mad > 0 and num_lanets < 2:
        raise ValueError(f"mad drops one of B LANet maps and needs num_lanets >= 2, not {num_lanets}")
    if msad_mode not in ("head", "token"):
        raise ValueError(f"msad_mode is 'head' or 'token', not {msad_mode!r}")


def _initialise(module: nn.Module) -> None:
    """He's start values for convolutions, Glorot's for linear layers, at every width."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=0.25, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


_SMALL = {"stem_units": (1, 2, 3, 1), "embed_dim": 192, "depth": 4, "num_heads": 6}
SIZES: dict[str, dict[str, Any]] = {
    "small": {**_SMALL, "stem_widths": (32, 64, 128, 256)},
    "medium": {**_SMALL, "stem_widths": (32, 96, 192, 384)},
}


@register
def transfer_base(**kwargs: Any) -> TransFER:
    """The paper's model: IR-50 stem, ViT of width 768 and depth 8; 65.2 M parameters, 15.28 GMACs at 112x112."""
    return TransFER(**kwargs)


@register
def transfer_small(**kwargs: Any) -> TransFER:
    """The same network for training from scratch on a few cores."""
    return TransFER(**{**SIZES["small"], **kwargs})


@register
def transfer_medium(**kwargs: Any) -> TransFER:
    """The same network for training from scratch on a few cores in an hour: `transfer_small` with a wider stem."""
    return TransFER(**{**SIZES["medium"], **kwargs})


@register
def transfer_tiny(**kwargs: Any) -> TransFER:
    """The same network for trying the workflow: seconds per epoch on one core."""
    sizes = {"stem_widths": (32, 32, 64, 128), "stem_units": (1, 1, 2, 1), "embed_dim": 96, "depth": 2, "num_heads": 4}
    return TransFER(**{**sizes, **kwargs})
