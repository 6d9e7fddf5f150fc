import math

import pytest
import torch

from transfer.training.epoch import LIMIT, Diverged, EpochMeter

CPU = torch.device("cpu")


def add(meter, loss, norm=1.0, correct=2, images=4, rate=0.1):
    meter.add(torch.tensor(float(loss)), torch.tensor(float(norm)), torch.tensor(correct), images, rate)


def test_means_over_images():
    meter = EpochMeter(0, 2, CPU)
    add(meter, 1.0, correct=1, images=2)
    add(meter, 4.0, correct=3, images=4)
    assert meter.means() == (pytest.approx((2 * 1 + 4 * 4) / 6), pytest.approx(4 / 6))
    assert (meter.step, meter.images) == (2, 6)


def test_an_interrupted_epoch_ends_with_the_same_bits():
    losses = torch.rand(7, generator=torch.Generator().manual_seed(0)).tolist()
    whole = EpochMeter(3, 7, CPU)
    for loss in losses:
        add(whole, loss)
    first = EpochMeter(3, 7, CPU)
    for loss in losses[:3]:
        add(first, loss)
    second = EpochMeter(3, 7, CPU, first.state())
    for loss in losses[3:]:
        add(second, loss)
    assert second.means() == whole.means() and second.step == 7


@pytest.mark.parametrize(
    ("loss", "norm", "said"),
    [
        (math.nan, math.nan, "the loss is no longer finite in epoch 3, step 2 of 9, learning rate 0.2: loss nan, "),
        (math.inf, 5, "the loss is no longer finite in epoch 3, step 2 of 9, learning rate 0.2: loss inf, "),
        (2.5, math.inf, "the gradient is no longer finite in epoch 3, step 2 of 9, learning rate 0.2: loss 2.5, "),
        (2.5, math.nan, "the gradient is no longer finite in epoch 3, step 2 of 9, learning rate 0.2: loss 2.5, "),
        (1e6, 5, "the loss has exploded in epoch 3, step 2 of 9, learning rate 0.2: loss 1e+06, gradient norm 5; one "),
    ],
)
def test_a_lost_loss_is_said_with_step_rate_and_norm(loss, norm, said):
    meter = EpochMeter(2, 9, CPU)
    add(meter, 1.5, 7, rate=0.1)
    with pytest.raises(Diverged) as caught:
        add(meter, loss, norm, rate=0.2)
    message = str(caught.value)
    assert message.startswith(said) and "; one step before 1.5 and 7; lower train.lr" in message
    assert "\n" not in message


def test_a_bad_batch_is_not_an_explosion():
    """Confidently wrong on every image, and a gradient as long as clipping is there for."""
    meter = EpochMeter(0, 2, CPU)
    add(meter, 60, norm=1e30)
    add(meter, LIMIT)
    assert float(torch.exp(torch.tensor(-LIMIT))) > 0 == float(torch.exp(torch.tensor(-1.05 * LIMIT)))


@pytest.mark.parametrize("begin", [0, 4])
def test_where_the_loss_is_seldom_looked_at_the_first_lost_step_is_said(begin):
    meter = EpochMeter(0, 40, CPU, {"step": begin, "images": 4 * begin, "sums": torch.zeros(2)})
    meter.check_every = 12
    for loss in [1, 2, 3, 100.5, math.nan, math.nan]:
        add(meter, loss)
    with pytest.raises(Diverged, match=f"the loss has exploded in epoch 1, step {begin + 4} of 40, .*before 3 and 1;"):
        while True:
            add(meter, math.nan)
    assert meter.step == 12


def test_the_last_step_is_always_looked_at():
    meter = EpochMeter(0, 3, CPU)
    meter.check_every = 50
    add(meter, 1)
    add(meter, math.nan)
    with pytest.raises(Diverged, match="step 2 of 3"):
        add(meter, 1)
