"""MAD, MSAD and the released token dropping: what is dropped, how often, and that nothing else changes."""

import pytest
import torch
from scipy.stats import binomtest, chisquare

from transfer.models.dropping import MAD, MSAD, TokenDrop, keep_all_but_one
from transfer.models.lanet import LocalCNNs
from transfer.models.vit import Attention


def test_mask_by_hand(monkeypatch):
    """Samples 0 and 2 are drawn below the rate; they lose branches 1 and 0."""
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.tensor([[0.1], [0.9], [0.59]]))
    monkeypatch.setattr(torch, "randint", lambda *a, **k: torch.tensor([[1], [2], [0]]))
    mask = keep_all_but_one(3, 3, 0.6, torch.device("cpu"))
    assert mask.tolist() == [[1, 0, 1], [1, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.6, 1.0])
def test_how_often_and_which(rate):
    torch.manual_seed(0)
    samples, branches = 20000, 4
    mask = keep_all_but_one(samples, branches, rate, torch.device("cpu"))
    dropped = (mask == 0).sum(dim=1)
    assert set(dropped.tolist()) <= {0, 1}, "at most one branch of a sample"
    if rate in (0.0, 1.0):
        assert (dropped == rate).all()
    else:
        assert binomtest(int(dropped.sum()), samples, rate).pvalue > 1e-4
    if rate:
        assert chisquare((mask == 0).sum(dim=0).numpy()).pvalue > 1e-4, "every branch is as likely"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(MAD(1.0), (5, 3, 4, 4)), (MSAD(1.0), (5, 3, 6, 2)), (TokenDrop(1.0, 3), (5, 6, 3, 3, 2))],
)
def test_evaluation_is_untouched_and_nothing_is_rescaled(layer, shape):
    x = torch.rand(shape) + 1
    assert layer.eval()(x) is x
    out = layer.train()(x)
    assert ((out == x) | (out == 0)).all(), "what stays is not rescaled"
    assert (out == 0).any()


def test_mad_drops_one_whole_map_per_sample():
    maps = torch.rand(64, 3, 5, 5) + 0.1
    out = MAD(1.0).train()(maps)
    zero = (out == 0).flatten(2)
    assert (zero.all(dim=2) == zero.any(dim=2)).all(), "a map is zero everywhere or nowhere"
    assert (zero.all(dim=2).sum(dim=1) == 1).all()


def test_maximum_after_dropping_by_hand(monkeypatch):
    """Two constant maps 0.9 and 0.4: the features are gated by 0.9, or by 0.4 where the first map is dropped."""
    local = LocalCNNs(4, num_lanets=2, mad=0.5).train()
    monkeypatch.setattr(local, "attention_maps", lambda x: torch.tensor([0.9, 0.4]).view(1, 2, 1, 1).repeat(2, 1, 2, 2))
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.tensor([[0.4], [0.6]]))
    monkeypatch.setattr(torch, "randint", lambda *a, **k: torch.tensor([[0], [0]]))
    out = local(torch.ones(2, 4, 2, 2))
    torch.testing.assert_close(out[0], torch.full((4, 2, 2), 0.4))
    torch.testing.assert_close(out[1], torch.full((4, 2, 2), 0.9))


def test_gradient_of_a_dropped_lanet_is_exactly_zero(monkeypatch):
    torch.manual_seed(0)
    local = LocalCNNs(16, num_lanets=3, ratio=4, mad=1.0).train()
    monkeypatch.setattr(torch, "randint", lambda *a, **k: torch.full((6, 1), 1))
    local(torch.randn(6, 16, 5, 5)).square().sum().backward()
    norms = [sum(p.grad.abs().sum().item() for p in lanet.parameters()) for lanet in local.lanets]
    assert norms[1] == 0.0
    assert norms[0] > 0 and norms[2] > 0


def test_gradient_of_a_dropped_head_is_exactly_zero(monkeypatch):
    torch.manual_seed(0)
    dim, heads = 12, 3
    attention = Attention(dim, heads, msad=1.0, msad_mode="head").train()
    monkeypatch.setattr(torch, "randint", lambda *a, **k: torch.full((4, 1), 2))
    attention(torch.randn(4, 7, dim)).square().sum().backward()
    per_head = attention.qkv.weight.grad.view(3, heads, dim // heads, dim).abs().sum(dim=(0, 2, 3))
    assert per_head[2] == 0.0
    assert (per_head[:2] > 0).all()


def test_msad_equals_attention_without_that_head(monkeypatch):
    """Masking a head's output is what zeroing its columns of the output projection does."""
    torch.manual_seed(0)
    attention = Attention(12, 3, msad=1.0, msad_mode="head")
    x = torch.randn(2, 7, 12)
    monkeypatch.setattr(torch, "randint", lambda *a, **k: torch.full((2, 1), 1))
    dropped = attention.train()(x)
    with torch.no_grad():
        attention.proj.weight[:, 4:8] = 0
    torch.testing.assert_close(dropped, attention.eval()(x))


def test_token_mode_drops_a_token_for_all_heads_and_only_among_the_first():
    torch.manual_seed(0)
    qkv = torch.rand(200, 10, 3, 4, 2) + 0.1
    out = TokenDrop(1.0, num_heads=4).train()(qkv)
    zero = (out == 0).flatten(2)
    assert (zero.all(dim=2) == zero.any(dim=2)).all(), "q, k and v of all heads"
    assert (zero.all(dim=2).sum(dim=1) == 1).all()
    hit = zero.all(dim=2).sum(dim=0)
    assert (hit[:4] > 0).all() and (hit[4:] == 0).all(), "tokens 0..heads-1, the class token among them"


def test_modes_differ_and_each_block_draws_for_itself():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 8)
    head, token = (Attention(8, 2, 1.0, mode) for mode in ("head", "token"))
    token.load_state_dict(head.state_dict())
    torch.manual_seed(1)
    first = head.train()(x)
    torch.manual_seed(1)
    assert not torch.equal(first, token.train()(x))
    assert any(not torch.equal(first, head(x)) for _ in range(8)), "a new draw at every call"
    torch.testing.assert_close(head.eval()(x), token.eval()(x))


def test_dropping_does_not_wait_for_the_device():
    """Nothing is read back to the host: the layers also run on tensors without data."""
    x = torch.empty(4, 3, 5, 5, device="meta")
    assert MAD(0.5).train()(x).shape == x.shape
    qkv = torch.empty(4, 6, 3, 3, 2, device="meta")
    assert TokenDrop(0.5, 3).train()(qkv).shape == qkv.shape
