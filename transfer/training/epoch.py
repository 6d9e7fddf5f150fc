"""Running statistics of the current epoch, with divergence checks."""

import math
from typing import Any

import torch
from torch import Tensor

from transfer.utils.errors import UserError

LIMIT = 100.0
"""Mean cross-entropy of a batch in nats above which a run has diverged: float32 ends at exp(-103); guessing among eight
classes costs 2.1."""

ADVICE = "lower train.lr or lengthen train.warmup_epochs; the last good state is kept"


class Diverged(UserError):
    """The loss or its gradient is no longer finite, or the loss has exploded."""


class EpochMeter:
    """Steps of a (0-based) ``epoch``, sums over their images, and each step's loss and gradient norm, on the device.

    Only :meth:`check`, :meth:`means` and :meth:`state` wait for it. ``state`` is that of an interrupted epoch.
    """

    def __init__(self, epoch: int, steps: int, device: torch.device, state: dict[str, Any] | None = None) -> None:
        self.epoch, self.steps = epoch, steps
        self.step: int = state["step"] if state else 0
        self.images: int = state["images"] if state else 0
        self.sums = state["sums"].to(device) if state else torch.zeros(2, device=device)  # loss, correct
        self.trace = torch.zeros(steps - self.step, 2, device=device)  # loss and gradient norm of each step since then
        self.rates: list[float] = []
        # Reading the trace is free on the CPU; on a GPU it waits until all steps are computed.
        self.check_every = 1 if device.type == "cpu" else 50

    def add(self, loss: Tensor, norm: Tensor, correct: Tensor, images: int, rate: float) -> None:
        """A step: mean loss, gradient norm, number of correct and of all images, learning rate. Raises Diverged."""
        self.trace[len(self.rates)] = torch.stack([loss, norm])
        self.sums += torch.stack([loss * images, correct])
        self.rates.append(rate)
        self.step += 1
        self.images += images
        if self.step % self.check_every == 0 or self.step == self.steps:
            self.check()

    def check(self) -> None:
        """Raise Diverged, naming the first step whose loss or gradient is not finite, or whose loss is over LIMIT."""
        trace = self.trace[: len(self.rates)].cpu()
        lost = (~trace.isfinite().all(dim=1) | (trace[:, 0] > LIMIT)).nonzero().flatten().tolist()
        if not lost:
            return
        at = lost[0]
        loss, norm = trace[at].tolist()
        what = "loss has exploded" if math.isfinite(norm) else "gradient is no longer finite"
        what = what if math.isfinite(loss) else "loss is no longer finite"
        before = "; one step before {:.4g} and {:.4g}".format(*trace[at - 1].tolist()) if at else ""
        raise Diverged(
            f"the {what} in epoch {self.epoch + 1}, step {self.step - len(self.rates) + at + 1} of {self.steps}, "
            f"learning rate {self.rates[at]:.3g}: loss {loss:.4g}, gradient norm {norm:.4g}{before}; {ADVICE}"
        )

    def check_validation(self, loss: float) -> None:
        """Raise Diverged, naming the last step, if the validation loss after this epoch is not finite."""
        if math.isfinite(loss):
            return
        last = ""
        if self.rates:  # none where the run was interrupted between the last step and the validation
            values = self.trace[len(self.rates) - 1].tolist()
            last = ", learning rate {:.3g}: loss {:.4g}, gradient norm {:.4g}".format(self.rates[-1], *values)
        where = f"after epoch {self.epoch + 1}, step {self.step} of {self.steps}"
        raise Diverged(f"the validation loss is no longer finite {where}{last}; {ADVICE}")

    def means(self) -> tuple[float, float]:
        """Loss and accuracy over the images so far."""
        loss, correct = self.sums.tolist()
        return loss / self.images, correct / self.images

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "images": self.images, "sums": self.sums.cpu()}
