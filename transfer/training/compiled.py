"""The network's training step through torch.compile: fewer passes over memory, and CUDA graphs on a device."""

import os
import shutil
from functools import lru_cache

import torch
from torch import nn

from transfer.utils.errors import UserError


@lru_cache(maxsize=1)  # one for all epochs; a process trains one network at a time
def compiled(model: nn.Module) -> nn.Module:
    """The same function with the same parameters, compiled at its first call; MAD and MSAD draw the same numbers.

    Raises UserError without a C++ compiler (g++, or what CXX names), which torch runs to build the code.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(f"train.compile: needs a C++ compiler, and {compiler} is not on PATH; install it or use false")
    cuda = next(model.parameters()).is_cuda
    return torch.compile(model, options={"fallback_random": True, "triton.cudagraphs": cuda})
