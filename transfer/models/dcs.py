"""DCS, which is POSTER++ without landmarks: Wang, Chen, et al., "QCS: Feature Refining from Quadruplet Cross Similarity
for FER" (AAAI 2025; birdwcp/QCS, models/DCS_7cls_raf_db.py, vit_model_7cls.py). Its loss is transfer/losses/dcs.py.
"""

from typing import Any

import torch
from torch import Tensor, nn

from transfer.models.ir50 import IRStem
from transfer.models.registry import register
from transfer.models.vit import Block

DIM = 768


class Encoder(nn.Module):
    """Tokens (N, T, 768) to (N, 1 + T, 768) with the class token first, and that to logits (N, num_classes)."""

    def __init__(self, num_classes: int, tokens: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + tokens, DIM))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(DIM, 8, 4.0, 0.0, "head") for _ in range(depth)))
        block: Any
        for block in self.blocks:
            mlp = block.mlp
            block.attn.qkv = nn.Linear(DIM, 3 * DIM)  # with bias
            block.mlp = nn.Sequential(mlp.fc1, mlp.act, nn.Dropout(dropout), mlp.fc2, nn.Dropout(dropout))
        self.norm = nn.LayerNorm(DIM, eps=1e-6)
        self.gate = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM), nn.Sigmoid())
        self.head = nn.Linear(DIM, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward_features(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return self.norm(self.blocks(self.dropout(x + self.pos_embed)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x[:, 0] * self.gate(x[:, 0])
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class DCS(nn.Module):
    """Faces (N, 3, img_size, img_size) to logits (N, num_classes): the maps of IR-50's first three stages, each brought
    to the same grid (7x7 at 112), are the tokens of one encoder. ``img_size`` is a multiple of 16.
    """

    backbone = "IR stem and ViT"

    def __init__(self, num_classes: int = 7, img_size: int = 112) -> None:
        super().__init__()
        if img_size % 16:
            raise ValueError(f"img_size must be a multiple of 16, not {img_size}")
        self.num_classes, self.num_features = num_classes, DIM
        self.stem = IRStem((64, 128, 256), (3, 4, 14))
        self.reduce = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for width in (64, 128, 256))
        self.embed = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(64, DIM, 3, 2, 1), nn.Conv2d(DIM, DIM, 3, 2, 1)),
                nn.Conv2d(128, DIM, 3, 2, 1),
                nn.Conv2d(256, DIM, 1),
            ]
        )
        self.encoder = Encoder(num_classes, 3 * (img_size // 16) ** 2, depth=2)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to tokens (N, 1 + 3 * cells, 768), the class token first, then scale by scale."""
        stem: Any = self.stem
        x, tokens = stem.input_layer(x), []
        for stage, reduce, embed in zip(stem.stages, self.reduce, self.embed, strict=True):
            x = stage(x)
            tokens.append(embed(reduce(x)).flatten(2).transpose(1, 2))
        return self.encoder.forward_features(torch.cat(tokens, dim=1))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.encoder.forward_head(x, pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.encoder.head


@register
def dcs(num_classes: int = 7, img_size: int = 112) -> DCS:
    """The network that predicts; for the pretrained IR-50 of face.evoLVe (docs/weights.md)."""
    return DCS(num_classes, img_size)
