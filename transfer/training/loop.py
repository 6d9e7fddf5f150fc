"""The training loop: one epoch, its learning rate, the average of the weights, and prediction."""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from transfer.losses.base import Batch, Loss, bare
from transfer.losses.cross_entropy import Loss as CrossEntropy
from transfer.params import TrainParams
from transfer.training.device import autocast, seed_generator
from transfer.training.distributed import ProcessGroup
from transfer.training.epoch import EpochMeter
from transfer.utils.errors import UserError
from transfer.utils.seeds import stream

ALONE = ProcessGroup()
TensorList = list[Tensor] | tuple[Tensor, ...]


def learning_rate(params: TrainParams, epoch: float) -> float:
    """Rate at a time in epochs since the start: linear warm-up, then cosine to 0 or steps by gamma."""
    if epoch < params.warmup_epochs:
        return params.lr * epoch / params.warmup_epochs
    if params.schedule == "cosine":
        length = max(params.epochs - params.warmup_epochs, 1e-9)
        return params.lr * 0.5 * (1 + math.cos(math.pi * (epoch - params.warmup_epochs) / length))
    return params.lr * params.gamma ** sum(epoch > milestone for milestone in params.milestones)


class SGD:
    """``torch.optim.SGD`` with momentum: the same fused kernel, without torch's optimizer classes.

    Those import torch.compile's machinery at the first step, which costs each run seconds of processor time. ``groups``
    are parameters with their weight decay; set ``lr`` before each step.
    """

    def __init__(
        self, groups: Sequence[tuple[Sequence[Tensor], float]], lr: float, momentum: float, nesterov: bool
    ) -> None:
        self.groups, self.lr, self.momentum, self.nesterov = groups, lr, momentum, nesterov
        self.velocity: dict[int, Tensor] = {}  # by the parameter's position
        self.parameters = [parameter for parameters, _ in groups for parameter in parameters]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        position = 0
        for parameters, weight_decay in self.groups:
            trained = [(position + i, p, p.grad) for i, p in enumerate(parameters) if p.grad is not None]
            position += len(parameters)
            first = not any(i in self.velocity for i, _, _ in trained)
            for i, _, gradient in trained if self.momentum else ():
                if i not in self.velocity:
                    self.velocity[i] = (torch.empty_like if first else torch.zeros_like)(gradient)
            if trained:
                torch._fused_sgd_(
                    [parameter for _, parameter, _ in trained],
                    [gradient for _, _, gradient in trained],
                    [self.velocity[i] for i, _, _ in trained] if self.momentum else [],
                    weight_decay=weight_decay,
                    momentum=self.momentum,
                    lr=self.lr,
                    dampening=0.0,
                    nesterov=self.nesterov,
                    maximize=False,
                    is_first_step=first and self.momentum > 0,
                )

    def load_velocity(self, velocity: Mapping[int, Tensor]) -> None:
        self.velocity = {i: value.to(self.parameters[i].device) for i, value in velocity.items()}


def make_optimizer(model: nn.Module, params: TrainParams, criterion: nn.Module | None = None) -> SGD:
    """SGD with momentum, also of the loss's parameters; none decays that the model's ``no_weight_decay()`` names."""
    names: Any = getattr(model, "no_weight_decay", set)
    without = names()
    decayed = [parameter for name, parameter in model.named_parameters() if name not in without]
    others = [parameter for name, parameter in model.named_parameters() if name in without]
    groups = [(decayed, params.weight_decay), (others, 0.0)]
    groups += [(list(criterion.parameters()), params.weight_decay)] if criterion is not None else []
    return SGD(groups, params.lr, params.momentum, params.nesterov)


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
        """Share of the old average in the next one."""
        return float(min(self.decay, 1 - (1 + steps / 9) ** -1.0))

    @torch.no_grad()
    def _mix(self, averages: TensorList, values: TensorList, _: Tensor | int) -> None:
        if averages[0].is_floating_point():
            # n_averaged itself is on the CPU: asking the argument would wait for the GPU
            torch._foreach_lerp_(averages, values, 1 - self.decay_after(int(self.n_averaged)))
        else:
            torch._foreach_copy_(averages, values)


@lru_cache(maxsize=1)  # one for all epochs; a process trains one network at a time
def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
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
    optimizer: SGD,
    batches: Iterable[tuple[Tensor, ...]],
    meter: EpochMeter,
    params: TrainParams,
    precision: str,
    on_batch: Callable[[int], None],
    dropping_seed: int = 0,
    average: WeightAverage | None = None,
    group: ProcessGroup = ALONE,
    criterion: Loss | None = None,
) -> tuple[float, float]:
    """Train the current epoch, from where ``meter`` stands; mean loss and accuracy on its augmented images.

    ``model`` is the network that ``criterion`` asks for; cross-entropy if there is none. ``batches`` (images, targets,
    rows) are those still to do, of several processes this one's parts of them. After each step ``on_batch`` gets
    its number of images and may raise; ``meter`` then holds what continues the epoch. What the model drops in a step
    comes from a stream of ``dropping_seed`` and that step. Raises Diverged.
    """
    model.train()
    criterion = criterion or CrossEntropy()
    device = next(model.parameters()).device
    forward = compiled(model) if params.compile else model
    for step, (images, targets, *rows) in enumerate(batches, meter.step):
        rate = learning_rate(params, meter.epoch + (step + 0.5) / meter.steps)
        optimizer.lr = rate
        seed_generator(stream(dropping_seed, "step", step), device)
        with autocast(device, precision):
            outputs = forward(images)
            mirrored = forward(images.flip(3)) if criterion.mirrored else None
        loss, logits = criterion(Batch(outputs, targets, mirrored, rows[0] if rows else None, meter.epoch))
        optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients([*model.parameters(), *criterion.parameters()], params.clip_norm)
        optimizer.step()
        if average is not None:
            average.update_parameters(bare(model))
        classes = targets if targets.ndim == 1 else targets.argmax(dim=1)
        correct = (logits.detach().argmax(dim=1) == classes).sum()
        count = len(images) * group.world
        meter.add(group.mean(loss.detach()), norm, group.mean(correct.float()) * group.world, count, rate)
        on_batch(count)
    return meter.means()


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients to an L2 norm of at most ``limit``, where it is not 0; returns their norm before."""
    if limit:
        return nn.utils.clip_grad_norm_(parameters, limit)
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def predict(model: nn.Module, batches: Iterator[Tensor], precision: str, hflip_tta: bool) -> np.ndarray:
    """Class probabilities (N, C) float32 of normalised images; with ``hflip_tta`` the mean over image and mirror."""
    return torch.cat([probabilities for _, probabilities in outputs(model, batches, precision, hflip_tta)]).numpy()


@torch.inference_mode()
def outputs(
    model: nn.Module, batches: Iterator[Tensor], precision: str, hflip_tta: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per batch the logits of the images themselves and the probabilities of `predict`, (n, C) float32 on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    for images in batches:
        with autocast(device, precision):
            views = [model(images)] + ([model(images.flip(3))] if hflip_tta else [])
        logits = torch.stack(views).float()
        yield logits[0].cpu(), logits.softmax(dim=-1).mean(dim=0).cpu()
