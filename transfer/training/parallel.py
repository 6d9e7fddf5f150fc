"""One training in several processes that share each batch: the same training as in one process, up to rounding.

Every process holds the whole network and computes its part of each batch. What is drawn at random (order, augmentation,
dropping) is drawn for the whole batch in every process, which takes its part of it; batch norm uses the statistics of
the whole batch; the gradient is the mean over it. So all processes know the same, and the first one alone writes.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from transfer.models.dropping import Dropping
from transfer.params import TrainParams
from transfer.training.device import choose_device
from transfer.training.launch import RENDEZVOUS
from transfer.training.norm import synchronise
from transfer.training.slots import claim_devices, use_device
from transfer.utils.errors import UserError

_FOREVER = timedelta(days=365)


@dataclass(frozen=True)
class Ranks:
    """This process's number among the processes of its training, and what they do together."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """Which part of each batch is this process's: (number, of how many)."""
        return self.rank, self.world

    def check(self, batch_size: int, images: int) -> None:
        """Raise UserError if a batch of a training part of so many ``images`` has no equal parts for all."""
        if batch_size % self.world:
            short = f", all {images} training images in one batch," if batch_size == images else ""
            raise UserError(
                f"a batch of {batch_size} images{short} does not divide evenly among {self.world} processes; change "
                "train.batch_size or the number of processes (train.processes, or torchrun --nproc-per-node)"
            )

    def prepare(self, model: nn.Module, device: torch.device) -> nn.Module:
        """``model`` with batch statistics and dropping of the whole batch; before its optimizer is made.

        Raises UserError for random layers whose draws cannot be shared out.
        """
        if self.world == 1:
            return model
        for name, module in model.named_modules():
            dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p
            if dropout or getattr(module, "drop_prob", 0):
                raise UserError(
                    f"model: {name} draws for itself, which several processes would do alike; use one process, or draw "
                    "with transfer.models.dropping"
                )
            if isinstance(module, Dropping):
                module.part = self.part
        return synchronise(model, device)

    def average_gradients(self, model: nn.Module) -> None:
        """Replace the gradients by their means over the processes.

        In one piece: ``DistributedDataParallel`` sends them in several during the backward pass, but groups them anew
        after the first step, so that a training of more than two processes would not resume to the bit.
        """
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, values in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(values.view(gradient.shape))

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes."""
        return self.total(value) / self.world if self.world > 1 else value

    def total(self, value: Tensor) -> Tensor:
        """Sum over the processes."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value

    def highest(self, number: int) -> int:
        """The highest of the processes' numbers; for decisions that all must take alike, such as to stop."""
        if self.world == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of rows to predict: equally many in all, in order; the last row fills up."""
        each = -(-len(rows) // self.world)
        return rows[np.minimum(np.arange(self.rank * each, (self.rank + 1) * each), len(rows) - 1)]

    def gather(self, values: np.ndarray, count: int) -> np.ndarray:
        """What all processes have for their :meth:`share` of ``count`` rows, in the order of the rows."""
        if self.world == 1:
            return values
        own = torch.from_numpy(np.ascontiguousarray(values))
        every = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(every, own)
        return torch.cat(every)[:count].numpy()

    def wait(self) -> None:
        """Until all processes have come here, such as after the first one has written a file."""
        self.highest(0)


ALONE = Ranks()


@contextmanager
def joined(train: TrainParams, what: str) -> Iterator[Ranks]:
    """The processes of this training, of whom torchrun or ``transfer.training.launch`` tells in the environment.

    Each gets a CUDA device of its own where these are used. Of what goes wrong one process tells, in one line; only the
    first one prints otherwise. Raises UserError where there are too few devices.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:  # all on this machine: nothing goes to the network
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    store = _store(ranks)
    with _one_line(store):
        cuda = choose_device(train.device).type == "cuda"
        if cuda:
            _share_devices(store, train, what)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=ranks.rank, world_size=ranks.world
        )
        try:
            with _quiet(not ranks.first):
                yield ranks
        finally:
            dist.destroy_process_group()


def _store(ranks: Ranks) -> dist.Store:
    """Where the processes find each other: a file of our launcher, or the address that torchrun gave."""
    if RENDEZVOUS in os.environ:
        return dist.FileStore(os.environ[RENDEZVOUS], ranks.world)
    store, _, _ = next(rendezvous("env://"))
    return store


def _share_devices(store: dist.Store, train: TrainParams, what: str) -> None:
    """Different CUDA devices for the processes of this machine; the first one holds the slots of all."""
    key = f"devices of machine {os.environ.get('GROUP_RANK', '0')}"
    number, count = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if number == 0:
        claimed = claim_devices(count, train.jobs_per_device, what)
        store.set(key, " ".join(map(str, claimed)))
    else:
        store.wait([key], _FOREVER)  # as long as other jobs hold them
    use_device(int(store.get(key).decode().split()[number]))


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    if not quiet:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def _one_line(store: dist.Store) -> Iterator[None]:
    """Let one process tell what went wrong, where all notice it, and none where another one has died."""
    try:
        yield
    except Exception as error:
        if _connection_lost(error):
            # Whoever started the processes knows which one died, says so and ends the others, which is us
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(10)
            raise UserError(
                "another process of this training has ended; start again: it continues from its last state"
            ) from error
        if store.add("failures", 1) > 1:
            time.sleep(2)  # the one that tells should be the first to end
            sys.exit(getattr(error, "exit_code", 1))
        raise


def _connection_lost(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(name in str(error) for name in ("gloo", "NCCL", "Connection"))
    )
