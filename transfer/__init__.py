"""TransFER (Xue, Wang, Guo, ICCV 2021) and a reproducible benchmark of facial expression recognition around it.

``import transfer`` registers transfer_base, transfer_small and transfer_tiny with timm. The registration waits until
timm itself is imported, before or after this package, so that the parts which need no network start at once.
"""

from transfer.models.registry import register_with_timm

__version__ = "0.1.0"

register_with_timm()
