"""An epoch in work: what it has come to so far, and whether its loss is lost."""

import math

import torch
from torch import Tensor

from transfer.training.parallel import ALONE, Ranks
from transfer.utils.errors import UserError

LIMIT = 100.0
"""A batch's mean cross-entropy, in nats, from which on a training is lost: the right classes have a probability of
exp(-100), about the smallest number that float32 holds (exp(-103)). Guessing costs ln C, 2.1 for eight classes."""

ADVICE = "lower train.lr or lengthen train.warmup_epochs; the last good state is kept"


class Diverged(UserError):
    """The loss or its gradient is no longer finite, or the loss has exploded."""


class RunningEpoch:
    """Steps done in a (0-based) ``epoch`` of ``steps``, sums over their images, each one's loss and gradient norm.

    These stay on the device, so that no step waits for it; only :meth:`check`, :meth:`means` and :meth:`state` do.
    ``state`` is that of an epoch which was interrupted. ``ranks`` share each batch: they add their parts of it, and all
    have the sums of the whole.
    """

    def __init__(
        self, epoch: int, steps: int, device: torch.device, state: dict | None = None, ranks: Ranks = ALONE
    ) -> None:
        self.epoch, self.steps, self.ranks = epoch, steps, ranks
        self.step, self.images = (state["step"], state["images"]) if state else (0, 0)
        self.sums = state["sums"].to(device) if state else torch.zeros(2, device=device)  # loss, correct
        self.trace = torch.zeros(steps - self.step, 2, device=device)  # loss and gradient norm of each step since then
        self.rates: list[float] = []
        # A look at the device costs nothing on the CPU; on a GPU it waits until all steps are computed.
        self.check_every = 1 if device.type == "cpu" else 50

    def add(self, loss: Tensor, norm: Tensor, correct: Tensor, images: int, rate: float) -> None:
        """A step: its mean loss, gradient norm, correct and all images, learning rate. Raises Diverged, see check."""
        loss, correct, images = self.ranks.mean(loss), self.ranks.total(correct), images * self.ranks.world
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
        what = "has exploded" if math.isfinite(loss) and math.isfinite(norm) else "is no longer finite"
        before = ""
        if at:
            before = "; one step before {:.4g} and {:.4g}".format(*trace[at - 1].tolist())
        raise Diverged(
            f"the {'gradient' if math.isfinite(loss) and not math.isfinite(norm) else 'loss'} {what} in epoch "
            f"{self.epoch + 1}, step {self.step - len(self.rates) + at + 1} of {self.steps}, learning rate "
            f"{self.rates[at]:.3g}: loss {loss:.4g}, gradient norm {norm:.4g}{before}; {ADVICE}"
        )

    def check_validation(self, loss: float) -> None:
        """Raise Diverged if the validation loss after this epoch is not finite; its last step is named."""
        if math.isfinite(loss):
            return
        last = ""
        if self.rates:  # none where the training was interrupted between the last step and the validation
            last = ": loss {:.4g}, gradient norm {:.4g}".format(*self.trace[len(self.rates) - 1].tolist())
            last = f", learning rate {self.rates[-1]:.3g}{last}"
        raise Diverged(
            f"the validation loss is no longer finite after epoch {self.epoch + 1}, step {self.step} of {self.steps}"
            f"{last}; {ADVICE}"
        )

    def means(self) -> tuple[float, float]:
        """Mean loss and accuracy over the images so far."""
        loss, correct = self.sums.tolist()
        return loss / self.images, correct / self.images

    def state(self) -> dict:
        """What continues the epoch after its last step: step, images, sums."""
        return {"step": self.step, "images": self.images, "sums": self.sums.cpu()}
