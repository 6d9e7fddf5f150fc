"""The LANets' attention maps, one by one."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from transfer.explain.walk import features
from transfer.models.lanet import LocalCNNs
from transfer.models.transfer import TransFER


@torch.no_grad()
def lanet_maps(model: TransFER, images: Tensor) -> Tensor:
    """The B maps before dropping, (N, B, h, w) in (0, 1), of normalised images (N, 3, H, W); B is 0 without LANets.

    Raises ValueError for a model in training.
    """
    found = features(model, images)
    if not isinstance(model.local_cnns, LocalCNNs):
        return found[:, :0]
    return model.local_cnns.attention_maps(found)


def resized(maps: Tensor, side: int) -> Tensor:
    """Maps (N, B, h, w) to (N, B, side, side), bilinear."""
    return interpolate(maps, (side, side), mode="bilinear", align_corners=False) if maps.shape[1] else maps
