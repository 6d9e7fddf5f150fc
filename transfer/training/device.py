"""Device, precision and determinism of a run."""

import os
from functools import cache

import torch

from transfer.params import TrainParams
from transfer.utils.errors import UserError


def choose_device(wanted: str) -> torch.device:
    """auto: the GPU where there is one, else the CPU. Raises UserError if CUDA is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device: cuda, but torch sees no CUDA device; use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def claim_device(train: TrainParams, what: str) -> torch.device:
    """The CPU, or a GPU that this process holds until it ends; waits, as ``what``, while all are in use.

    Only GPUs that CUDA_VISIBLE_DEVICES leaves are seen: a user or a cluster that sets it decides first. Raises
    UserError if CUDA is asked for and absent.
    """
    device = choose_device(train.device)
    return _claim_gpu(train.jobs_per_device, what) if device.type == "cuda" else device


@cache
def _claim_gpu(jobs_per_gpu: int, what: str) -> torch.device:
    (number,) = claim_gpus(1, jobs_per_gpu, what)
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def claim_gpus(count: int, jobs_per_gpu: int, what: str) -> list[int]:
    """Numbers of ``count`` GPUs that this process holds until it ends. Raises UserError where there are fewer."""
    from transfer.training.gpu_locks import lock_folder, take

    # By UUID: a GPU's number depends on CUDA_VISIBLE_DEVICES, which may differ from job to job
    uuids = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    if count > len(uuids):
        raise UserError(f"train.gpus: {count}, but torch sees {len(uuids)} CUDA devices; use at most {len(uuids)}")
    return take(uuids, count, jobs_per_gpu, what, lock_folder())


def choose_precision(params: TrainParams, device: torch.device) -> str:
    """auto: bf16 where the hardware computes in it (CUDA, or a CPU with AVX-512 BF16 or AMX), else fp32."""
    if params.precision != "auto":
        return params.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    computes = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # rather than only stores
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and computes else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context in which the network runs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def seed_generator(seed: int, device: torch.device) -> None:
    """As ``torch.manual_seed``, which also queues a call, with a traceback, for each kind of device that is absent."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def set_deterministic(wanted: bool, device: torch.device) -> bool:
    """Restrict torch to deterministic operations; returns whether a run on ``device`` is deterministic.

    On a CPU it always is, for the same number of threads. On a GPU this must be called before the first matrix product
    (cuBLAS then has a workspace per stream), and an operation without a deterministic version raises RuntimeError; the
    networks of this project have none (docs/training.md).
    """
    if device.type == "cpu":
        return True
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the larger of the two that NVIDIA documents
        torch.backends.cudnn.benchmark = False  # it picks algorithms by their speed at the moment
    if wanted != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(wanted)
    return wanted
