import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from transfer.losses.cross_entropy import Loss as CrossEntropy
from transfer.models.transfer import transfer_tiny
from transfer.params import TrainParams
from transfer.training.epoch import EpochMeter
from transfer.training.loop import learning_rate, make_optimizer, predict, train_epoch
from transfer.utils.errors import UserError

CPU = torch.device("cpu")


class Linear(nn.Module):
    """Logits of flattened images; ``bias`` has no weight decay."""

    def __init__(self, inputs=12, classes=3):
        super().__init__()
        self.layer = nn.Linear(inputs, classes)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, images):
        return self.layer(images.flatten(1))

    def no_weight_decay(self):
        return {"layer.bias"}


def plain(**changes):
    """No momentum, decay, clipping, warm-up, and a constant rate, but for the changes."""
    values = {"momentum": 0, "weight_decay": 0, "clip_norm": 0, "schedule": "step", "milestones": [], "lr": 0.5}
    return TrainParams(**{**values, **changes})


def images(n=6, seed=0):
    return torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def epoch(model, params, made, number=0, precision="fp32", **options):
    optimizer = make_optimizer(model, params)
    seen = []
    running = EpochMeter(number, len(made), CPU)
    return train_epoch(model, optimizer, made, running, params, precision, seen.append, **options), optimizer, seen


def test_cosine_with_warmup():
    params = TrainParams(lr=0.4, epochs=10, warmup_epochs=2, schedule="cosine")
    rates = [learning_rate(params, at) for at in (0, 0.5, 1, 2, 4, 6, 8, 10)]
    half = math.sqrt(0.5) / 2
    assert rates == pytest.approx([0, 0.1, 0.2, 0.4, 0.4 * (0.5 + half), 0.2, 0.4 * (0.5 - half), 0])


def test_cosine_without_warmup_starts_at_the_peak():
    assert learning_rate(TrainParams(lr=0.4, epochs=1, warmup_epochs=0), 0) == 0.4


def test_a_training_that_is_all_warmup():
    params = TrainParams(lr=0.4, epochs=2, warmup_epochs=2)
    assert [learning_rate(params, at) for at in (1, 2)] == pytest.approx([0.2, 0.4])


def test_steps_come_after_their_epochs():
    params = TrainParams(lr=1.0, epochs=40, schedule="step", milestones=[15, 30], gamma=0.1, warmup_epochs=1)
    assert learning_rate(params, 0.25) == 0.25
    # The time is that of a batch's end: 15 is the last batch of the fifteenth epoch.
    rates = [learning_rate(params, at) for at in (1, 14.9, 15, 15.01, 30, 30.01, 40)]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_weight_decay_groups_of_the_network():
    model = transfer_tiny(img_size=32)
    (decayed, decay), (others, none) = make_optimizer(model, TrainParams(weight_decay=5e-4)).groups
    assert (decay, none) == (5e-4, 0)
    assert {id(p) for p in others} == {id(model.cls_token), id(model.pos_embed)}
    assert len(decayed) + 2 == len(list(model.parameters()))


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)])
def test_the_optimizer_is_torchs_to_the_bit(momentum, nesterov):
    ours, theirs = transfer_tiny(img_size=32), transfer_tiny(img_size=32)
    theirs.load_state_dict(ours.state_dict())
    params = TrainParams(momentum=momentum, nesterov=nesterov, weight_decay=0.01)
    optimizer = make_optimizer(ours, params)
    without = [theirs.cls_token, theirs.pos_embed]
    groups = [{"params": [p for p in theirs.parameters() if all(p is not q for q in without)], "weight_decay": 0.01}]
    groups += [{"params": without, "weight_decay": 0.0}]
    reference = torch.optim.SGD(groups, lr=0.1, momentum=momentum, nesterov=nesterov, fused=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        optimizer.lr = reference.param_groups[0]["lr"] = reference.param_groups[1]["lr"] = 0.1 / (1 + step)
        optimizer.step()
        reference.step()
        if step == 1:  # as after an interruption
            velocity, optimizer = optimizer.velocity, make_optimizer(ours, params)
            optimizer.load_velocity({i: value.clone() for i, value in velocity.items()})
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weight_decay_acts_on_its_group_alone():
    model = Linear()
    nn.init.ones_(model.layer.weight)
    nn.init.ones_(model.layer.bias)
    # Equal logits, and targets in equal parts: no gradient.
    made = [(torch.zeros(3, 3, 2, 2), torch.arange(3))]
    epoch(model, plain(weight_decay=0.1), made)
    assert torch.allclose(model.layer.weight, torch.tensor(1 - 0.5 * 0.1))
    assert torch.allclose(model.layer.bias, torch.tensor(1.0), atol=1e-6)


def test_one_step_by_hand():
    model, batch, labels = Linear(), images(), torch.tensor([0, 1, 2, 0, 0, 1])
    (loss, accuracy), _, seen = epoch(model, plain(), [(batch, labels)])
    # From zero weights every class has the probability 1/3.
    error = torch.full((6, 3), 1 / 3) - torch.eye(3)[labels]
    assert torch.allclose(model.layer.weight, -0.5 * error.T @ batch.flatten(1) / 6, atol=1e-6)
    assert torch.allclose(model.layer.bias, -0.5 * error.mean(dim=0), atol=1e-6)
    assert loss == pytest.approx(math.log(3)) and accuracy == pytest.approx(3 / 6)
    assert seen == [6] and model.training


def test_loss_and_accuracy_are_means_over_images():
    model = Linear()
    model.layer.bias.data = torch.tensor([1.0, 0.0, 0.0])
    made = [(images(2), torch.tensor([0, 1])), (images(4), torch.tensor([0, 0, 0, 1]))]
    params = plain(lr=1e-9)
    (loss, accuracy), _, seen = epoch(model, params, made)
    top, other = math.log(math.e + 2) - 1, math.log(math.e + 2)
    assert loss == pytest.approx((4 * top + 2 * other) / 6, abs=1e-5)
    assert accuracy == pytest.approx(4 / 6) and seen == [2, 4]


def test_every_batch_has_its_learning_rate(monkeypatch):
    model, params = Linear(), TrainParams(lr=1.0, epochs=4, warmup_epochs=4)
    optimizer = make_optimizer(model, params)
    rates, step = [], optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: (rates.append(optimizer.lr), step()))
    made = [(images(), torch.arange(6) % 3)] * 2
    train_epoch(model, optimizer, made, EpochMeter(1, 2, CPU), params, "fp32", lambda n: None)
    assert rates == [0.3125, 0.4375]  # in the middle of each step


@pytest.mark.parametrize("norm", [0.5, 10.0])
def test_a_huge_gradient_is_clipped(norm):
    model, batch = Linear(), 1e6 * images()
    epoch(model, plain(lr=1.0, clip_norm=norm), [(batch, torch.zeros(6, dtype=torch.int64))])
    step = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert step.norm().item() == pytest.approx(norm, rel=1e-3)


def test_a_small_gradient_is_not_clipped():
    clipped, free = Linear(), Linear()
    made = [(images(), torch.arange(6) % 3)]
    epoch(clipped, plain(clip_norm=10.0), made)
    epoch(free, plain(), made)
    assert torch.equal(clipped.layer.weight, free.layer.weight)


def test_a_loss_that_is_not_finite_stops_the_training():
    made = [(images(), torch.arange(6) % 3), (images() * math.inf, torch.arange(6) % 3)]
    begin = "the loss is no longer finite in epoch 3, step 2 of 2, learning rate 0.5: loss nan, gradient norm nan; "
    with pytest.raises(UserError, match=f"^{begin}one step before 1.099 and .*; lower train.lr") as caught:
        epoch(Linear(), plain(), made, number=2)
    assert "\n" not in str(caught.value)


def test_soft_targets_and_label_smoothing():
    soft = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    model = Linear()
    model.layer.bias.data = torch.tensor([1.0, 0.0, -1.0])
    logits = model(images(3)).detach()
    (loss, accuracy), _, _ = epoch(model, plain(), [(images(3), soft)], criterion=CrossEntropy(0.1))
    smoothed = 0.9 * soft + 0.1 / 3
    assert loss == pytest.approx(-(smoothed * logits.log_softmax(1)).sum(1).mean().item(), abs=1e-6)
    assert accuracy == pytest.approx(2 / 3)  # the first of two equal votes counts as the class

    hard = Linear()
    hard.layer.bias.data = torch.tensor([1.0, 0.0, -1.0])
    labels = torch.tensor([0, 1, 2])
    (loss, _), _, _ = epoch(hard, plain(), [(images(3), labels)], criterion=CrossEntropy(0.1))
    assert loss == pytest.approx(cross_entropy(logits, labels, label_smoothing=0.1).item(), abs=1e-6)


def test_predict_with_flip_views_is_the_mean_of_both():
    model = Linear()
    nn.init.normal_(model.layer.weight)
    model.train()
    batch = images(5)
    plain_view = predict(model, iter([batch]), "fp32", False)
    mirrored = predict(model, iter([batch.flip(3)]), "fp32", False)
    both = predict(model, iter([batch[:2], batch[2:]]), "fp32", True)
    assert np.allclose(plain_view, model(batch).softmax(1).detach(), atol=1e-6)
    assert not np.allclose(plain_view, mirrored, atol=0.01)
    assert np.allclose(both, (plain_view + mirrored) / 2, atol=1e-6)
    assert both.dtype == np.float32 and np.allclose(both.sum(axis=1), 1, atol=1e-6)
    assert not model.training


def test_bf16_computes_nearly_the_same():
    made = [(images(), torch.arange(6) % 3)] * 3
    exact, rough = Linear(), Linear()
    (loss, _), _, _ = epoch(exact, plain(), made)
    (rough_loss, _), _, _ = epoch(rough, plain(), made, precision="bf16")
    assert rough_loss == pytest.approx(loss, rel=0.02) and rough_loss != loss
    assert rough.layer.weight.dtype == torch.float32
    assert torch.allclose(exact.layer.weight, rough.layer.weight, atol=0.02)
