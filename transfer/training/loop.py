"""The training loop: one epoch, its learning rate, and the evaluation after it."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from transfer.errors import UserError
from transfer.params import TrainParams
from transfer.training.compiled import compiled
from transfer.training.device import autocast


class Diverged(UserError):
    """The loss is no longer finite."""


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
    steps: int,
    epoch: int,
    params: TrainParams,
    precision: str,
    on_batch: Callable[[int], None],
) -> tuple[float, float]:
    """Train for one epoch (0-based ``epoch``) of ``steps`` batches; mean loss and accuracy on its augmented images.

    ``on_batch`` gets the number of images of each batch. Raises Diverged when the loss is no longer finite.
    """
    model.train()
    device = next(model.parameters()).device
    forward = compiled(model) if params.compile else model
    total = torch.zeros(3, device=device)  # loss, correct, images
    for step, (images, targets) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(params, epoch + (step + 0.5) / steps)
        with autocast(device, precision):
            logits = forward(images)
        loss = cross_entropy(logits.float(), targets, label_smoothing=params.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if params.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), params.clip_norm)
        optimizer.step()
        classes = targets if targets.ndim == 1 else targets.argmax(dim=1)
        correct = (logits.detach().argmax(dim=1) == classes).sum()
        total += torch.stack([loss.detach() * len(images), correct, torch.tensor(len(images), device=device)])
        on_batch(len(images))
    loss_sum, correct_sum, count = total.tolist()
    require_finite(loss_sum, epoch, params)
    return loss_sum / count, correct_sum / count


def require_finite(loss: float, epoch: int, params: TrainParams) -> None:
    """Raise Diverged if a training or validation loss of the (0-based) ``epoch`` is NaN or infinite."""
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is no longer finite in epoch {epoch + 1} "
            f"(learning rate {learning_rate(params, epoch + 1):.3g}); lower train.lr or lengthen train.warmup_epochs; "
            "the last good epoch is kept"
        )


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
