"""The training loop: one epoch, its learning rate, and the evaluation after it."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from transfer.params import TrainParams
from transfer.training.compiled import compiled
from transfer.training.device import autocast
from transfer.training.epoch import RunningEpoch
from transfer.utils.seeds import stream


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


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    running: RunningEpoch,
    params: TrainParams,
    precision: str,
    on_batch: Callable[[int], None],
    dropping_seed: int = 0,
    average: ModelEmaV3 | None = None,
) -> tuple[float, float]:
    """Train for the epoch that ``running`` stands in; mean loss and accuracy on its augmented images.

    ``batches`` are those that it lacks. Between two steps ``on_batch`` gets the number of images of the one
    before and may raise; ``running`` then holds what continues the epoch. Every step has its own stream for what the
    model draws, of ``dropping_seed``. After each step ``average`` takes in the weights. Where ``running`` has several
    ranks, ``batches`` are this one's parts of them; images, loss and accuracy are those of the whole. Raises Diverged
    when the loss is lost.
    """
    model.train()
    device = next(model.parameters()).device
    forward = compiled(model) if params.compile else model
    for step, (images, targets) in enumerate(batches, running.step):
        rate = learning_rate(params, running.epoch + (step + 0.5) / running.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(stream(dropping_seed, "step", step))
        with autocast(device, precision):
            logits = forward(images)
        loss = cross_entropy(logits.float(), targets, label_smoothing=params.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        running.ranks.average_gradients(model)
        norm = clip_gradients(model, params.clip_norm)
        optimizer.step()
        if average is not None:
            average.update(model, running.epoch * running.steps + step + 1)
        classes = targets if targets.ndim == 1 else targets.argmax(dim=1)
        correct = (logits.detach().argmax(dim=1) == classes).sum()
        running.add(loss.detach(), norm, correct, len(images), rate)
        on_batch(len(images) * running.ranks.world)
    return running.means()


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients down to the L2 norm ``limit``, where they are longer and it is not 0; their norm before."""
    if limit:
        return nn.utils.clip_grad_norm_(model.parameters(), limit)
    return nn.utils.get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])


def predict(model: nn.Module, batches: Iterator[Tensor], precision: str, flip_views: bool) -> np.ndarray:
    """Class probabilities (N, C) float32 of normalised images, with ``flip_views`` averaged with the mirrored ones'."""
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
