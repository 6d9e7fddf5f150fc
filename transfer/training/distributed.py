"""A run on several GPUs: one process each, started by torchrun; DistributedDataParallel and SyncBatchNorm.

``train.batch_size`` is the whole batch, of which each process computes an equal part. All processes hold the same
weights; the first one writes.
"""

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from transfer.params import TrainParams
from transfer.training.device import choose_device, claim_gpus
from transfer.utils.errors import UserError
from transfer.utils.seeds import stream


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of its run."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """It writes files and reports progress."""
        return self.rank == 0

    def check(self, batch_size: int) -> None:
        """Raise UserError if a batch has no equal part for each process."""
        if batch_size % self.world:
            problem = f"a batch of {batch_size} images does not divide among {self.world} GPUs"
            raise UserError(f"{problem}; change train.batch_size or train.gpus")

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model`` for the training step: batch statistics and gradients are those of the whole batch."""
        if self.world == 1:
            return model
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def seed(self, seed: int) -> int:
        """The seed of a stream of this process: each augments and drops its own images."""
        return seed if self.rank == 0 else stream(seed, "rank", self.rank)

    def mean(self, value: Tensor) -> Tensor:
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world

    def highest(self, number: int) -> int:
        """The highest of the processes' numbers, for decisions that all must take alike, such as to stop."""
        if self.world == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def wait(self) -> None:
        self.highest(0)

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of the rows to predict: equally many in all; the last row fills up."""
        each = -(-len(rows) // self.world)
        return rows[np.minimum(np.arange(self.rank * each, (self.rank + 1) * each), len(rows) - 1)]

    def gather(self, values: np.ndarray, count: int) -> np.ndarray:
        """What all processes have for their :meth:`share` of ``count`` rows, in the order of the rows."""
        if self.world == 1:
            return values
        own = torch.from_numpy(np.ascontiguousarray(values))
        parts = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(parts, own)
        return torch.cat(parts)[:count].numpy()


def join(train: TrainParams, what: str) -> tuple[ProcessGroup, torch.device | None]:
    """The processes that torchrun started, and this one's GPU; alone, a device is still to be claimed.

    Raises UserError without CUDA, or where torchrun started another number of processes than ``train.gpus``.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 and train.gpus == 1:
        return ProcessGroup(), None
    if world != train.gpus:
        raise UserError(f"train.gpus: {train.gpus}, but this run has {world} processes; start it by `transfer train`")
    if choose_device(train.device).type != "cuda":
        raise UserError(f"train.gpus: {train.gpus}, but torch sees no CUDA device; use 1")
    return _joined(train.jobs_per_device, what)


@cache
def _joined(jobs_per_gpu: int, what: str) -> tuple[ProcessGroup, torch.device]:
    # All wait for the first one, which may wait for other jobs' GPUs
    dist.init_process_group("cpu:gloo,cuda:nccl", timeout=timedelta(days=365))
    atexit.register(dist.destroy_process_group)
    group = ProcessGroup(dist.get_rank(), dist.get_world_size())
    numbers = [claim_gpus(group.world, jobs_per_gpu, what) if group.first else []]
    dist.broadcast_object_list(numbers, device=torch.device("cpu"))
    device = torch.device("cuda", numbers[0][group.rank])
    torch.cuda.set_device(device)
    return group, device
