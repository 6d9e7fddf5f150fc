"""The compiled network is the plain one."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn
from transfer.training.compiled import compiled

from transfer.models.dropping import MSAD
from transfer.models.ir50 import PReLU
from transfer.models.lanet import LocalCNNs
from transfer.models.vit import attend
from transfer.params import TrainParams
from transfer.training.epoch import RunningEpoch
from transfer.training.loop import make_optimizer, predict, train_epoch
from transfer.utils.errors import UserError


class Small(nn.Module):
    """One of each: convolution, batch norm, PReLU, Local CNNs with MAD, attention with MSAD."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), PReLU(8))
        self.local_cnns = LocalCNNs(8, 2, 4, mad=0.6)
        self.qkv = nn.Linear(8, 24)
        self.msad = MSAD(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.local_cnns(self.stem(x)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return self.head(self.msad(attend(q, k, v)).transpose(1, 2).flatten(2).mean(dim=1))


def trained(compile, precision="fp32"):
    """Small after two epochs of two steps, the losses, and what it predicts."""
    torch.manual_seed(0)
    model = Small().to(memory_format=torch.channels_last)
    params = TrainParams(compile=compile, lr=0.05, momentum=0.9, epochs=4, weight_decay=0, clip_norm=1)
    optimizer = make_optimizer(model, params)
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(6, 3, 8, 8, generator=generator), torch.arange(6) % 3) for _ in range(2)]
    losses = []
    for epoch in range(2):
        torch.manual_seed(epoch)
        running = RunningEpoch(epoch, 2, torch.device("cpu"))
        losses.append(train_epoch(model, optimizer, batches, running, params, precision, lambda images: None)[0])
    return model, losses, predict(model, iter([batches[0][0]]), precision, True)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_compiled_training_is_the_plain_one_and_repeats_to_the_bit():
    (plain, losses, probabilities), (fast, fast_losses, fast_probabilities) = trained(False), trained(True)
    assert losses == pytest.approx(fast_losses, rel=1e-5)
    assert np.allclose(probabilities, fast_probabilities, atol=1e-5)
    state = fast.state_dict()
    assert list(state) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5, msg=name)
    again = trained(True)[0].state_dict()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]


def test_without_a_compiler_it_is_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"^train\.compile: needs a C\+\+ compiler, and no-such-compiler is not"):
        compiled(nn.Linear(2, 2))
