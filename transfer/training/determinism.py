"""The same bits every time, also on a GPU."""

import os

import torch


def set_deterministic(wanted: bool, device: torch.device) -> bool:
    """Let torch use only operations that give the same bits every time; whether a training on ``device`` will.

    On a CPU they always do, for the same number of threads. On a CUDA device it must be called before the first
    product: cuBLAS then has a workspace of its own for each stream. An operation without a deterministic version raises
    RuntimeError in training; the networks of this project have none (docs/training.md).
    """
    if device.type == "cpu":
        return True
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the larger of the two that NVIDIA names
        torch.backends.cudnn.benchmark = False  # it chooses algorithms by their speed at the moment
    if wanted != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(wanted)
    return wanted
