"""The training loop: one epoch, its learning rate, the average of the weights, and prediction."""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from transfer.params import TrainParams
from transfer.training.device import autocast
from transfer.training.distributed import ProcessGroup
from transfer.training.epoch import EpochMeter
from transfer.utils.errors import UserError
from transfer.utils.seeds import stream

ALONE = ProcessGroup()


def learning_rate(params: TrainParams, epoch: float) -> float:
    """Rate at a time in epochs since the start: linear warm-up, then cosine to 0 or steps by gamma."""
    if epoch < params.warmup_epochs:
        return params.lr * epoch / params.warmup_epochs
    if params.schedule == "cosine":
        length = max(params.epochs - params.warmup_epochs, 1e-9)
        return params.lr * 0.5 * (1 + math.cos(math.pi * (epoch - params.warmup_epochs) / length))
    return params.lr * params.gamma ** sum(epoch > milestone for milestone in params.milestones)


def make_optimizer(model: nn.Module, params: TrainParams) -> torch.optim.SGD:
    """SGD with momentum; no weight decay on what the model's ``no_weight_decay()`` names, where it has one."""
    without = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[name not in without].append(parameter)
    return torch.optim.SGD(
        [{"params": groups[True], "weight_decay": params.weight_decay}, {"params": groups[False], "weight_decay": 0.0}],
        lr=params.lr,
        momentum=params.momentum,
        nesterov=params.nesterov,
        fused=True,
    )


class WeightAverage(AveragedModel):
    """Exponential moving average of weights and buffers; call ``update_parameters`` after each step.

    The first step copies. Until the decay has grown to ``decay`` it is (1 + n) / (10 + n) after n + 1 steps
    (TensorFlow's tf.train.ExponentialMovingAverage), so that the start values are soon forgotten. Batch norm's
    statistics are averaged like the weights, as timm does: those of the present weights belong to another network.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=self._mix, use_buffers=True)
        self.decay = decay

    def decay_after(self, steps: int) -> float:
        """Share of the old average in the next one, after so many steps."""
        return min(self.decay, 1 - (1 + steps / 9) ** -1.0)

    @torch.no_grad()
    def _mix(self, averages: list[Tensor], values: list[Tensor], _: Tensor) -> None:
        if averages[0].is_floating_point():
            # n_averaged itself is on the CPU: asking the argument would wait for the GPU
            torch._foreach_lerp_(averages, values, 1 - self.decay_after(int(self.n_averaged)))
        else:
            torch._foreach_copy_(averages, values)


@lru_cache(maxsize=1)  # one for all epochs; a process trains one network at a time
def compiled(model: nn.Module) -> nn.Module:
    """The same function with the same parameters, compiled at its first call; MAD and MSAD draw the same numbers.

    Raises UserError without a C++ compiler (g++, or what CXX names), which torch runs to build the code.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(f"train.compile: needs a C++ compiler, but {compiler} is not on PATH; install it or use false")
    cuda = next(model.parameters()).is_cuda
    return torch.compile(model, options={"fallback_random": True, "triton.cudagraphs": cuda})


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    meter: EpochMeter,
    params: TrainParams,
    precision: str,
    on_batch: Callable[[int], None],
    dropping_seed: int = 0,
    average: WeightAverage | None = None,
    group: ProcessGroup = ALONE,
) -> tuple[float, float]:
    """Train the current epoch, from where ``meter`` stands; mean loss and accuracy on its augmented images.

    ``batches`` are those still to do, of several processes this one's parts of them. After each step ``on_batch`` gets
    its number of images and may raise; ``meter`` then holds what continues the epoch. What the model drops in a step
    comes from a random stream of its own, of ``dropping_seed``. Raises Diverged.
    """
    model.train()
    device = next(model.parameters()).device
    forward = compiled(model) if params.compile else model
    for step, (images, targets) in enumerate(batches, meter.step):
        rate = learning_rate(params, meter.epoch + (step + 0.5) / meter.steps)
        for settings in optimizer.param_groups:
            settings["lr"] = rate
        torch.manual_seed(stream(dropping_seed, "step", step))
        with autocast(device, precision):
            logits = forward(images)
        loss = cross_entropy(logits.float(), targets, label_smoothing=params.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = clip_gradients(model, params.clip_norm)
        optimizer.step()
        if average is not None:
            average.update_parameters(model.module if group.world > 1 else model)
        classes = targets if targets.ndim == 1 else targets.argmax(dim=1)
        correct = (logits.detach().argmax(dim=1) == classes).sum()
        count = len(images) * group.world
        meter.add(group.mean(loss.detach()), norm, group.mean(correct.float()) * group.world, count, rate)
        on_batch(count)
    return meter.means()


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients to an L2 norm of at most ``limit``, where it is not 0; returns their norm before."""
    if limit:
        return nn.utils.clip_grad_norm_(model.parameters(), limit)
    return nn.utils.get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])


def predict(model: nn.Module, batches: Iterator[Tensor], precision: str, flip_views: bool) -> np.ndarray:
    """Class probabilities (N, C) float32 of normalised images; with ``flip_views`` the mean over image and mirror."""
    return torch.cat([probabilities for _, probabilities in outputs(model, batches, precision, flip_views)]).numpy()


@torch.inference_mode()
def outputs(
    model: nn.Module, batches: Iterator[Tensor], precision: str, flip_views: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per batch the logits of the images themselves and the probabilities of `predict`, (n, C) float32 on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    for images in batches:
        with autocast(device, precision):
            views = [model(images)] + ([model(images.flip(3))] if flip_views else [])
        logits = torch.stack(views).float()
        yield logits[0].cpu(), logits.softmax(dim=-1).mean(dim=0).cpu()
