"""Rules of relevance propagation (LRP with alpha = 1): how the relevance of an output is divided among its inputs.

Source: Chefer, Gur and Wolf, Transformer Interpretability Beyond Attention Visualization (CVPR 2021), section 3; their
repository hila-chefer/Transformer-Explainability, modules/layers_ours.py. Every rule keeps the sum of each sample's
relevance, except that an output to which nothing contributes (the divisor is 0) has nobody to give its relevance to.
"""

import torch
from torch import Tensor


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
