"""TransFER (Xue, Wang, Guo, ICCV 2021) and a reproducible benchmark of facial expression recognition around it.

``import transfer`` registers transfer_base, transfer_small and transfer_tiny with timm. The registration waits until
timm itself is imported, before or after this package, so that the parts which need no network start at once.
``transfer.load().predict("photo.jpg")`` finds faces and their expressions (docs/using.md).
"""

import os
from typing import TYPE_CHECKING

from transfer.models.registry import register_with_timm

if TYPE_CHECKING:
    from transfer.predict.model import Model

__all__ = ["load"]

__version__ = "0.1.0"

register_with_timm()


def load(source: "str | os.PathLike[str] | None" = None, device: str = "auto", threads: int | None = None) -> "Model":
    """The model that comes along, or that of a run's folder or weight file; see `transfer.predict.model.Model`.

    ``device``: auto (a GPU where there is one), cpu or cuda; ``threads`` of the detection, by default one per core.
    Raises transfer.utils.errors.UserError: no such model.
    """
    from transfer.models.weights.catalogue import find_weights

    weights = find_weights(source)

    from transfer.predict.model import Model

    return Model(weights, device, threads)
