"""Device, precision and threads of a run."""

import torch

from transfer.params import TrainParams
from transfer.utils.errors import UserError


def choose_device(wanted: str) -> torch.device:
    """auto: a CUDA device where there is one, else the CPU. Raises UserError if CUDA is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device: cuda is asked for, but torch sees no CUDA device; use auto or cpu")
    cuda = wanted != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu")


def choose_precision(params: TrainParams, device: torch.device) -> str:
    """auto: bf16 where the hardware computes in it (CUDA, or a CPU with AVX-512 BF16 or AMX), else fp32."""
    if params.precision != "auto":
        return params.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _computes_in_bf16() else "fp32"


def _computes_in_bf16() -> bool:
    """Whether the CPU has bf16 products, rather than only room for bf16 numbers."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context in which the network runs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
