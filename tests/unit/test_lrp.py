"""The rules of relevance propagation on numbers that can be checked by hand."""

import pytest
import torch

from transfer.explain.relevance import through_linear, through_product, through_sum


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def test_linear_shares_by_positive_contributions():
    # contributions to the first output: 2*1, -1*-3, 3*-1 (not positive); to the second: none from the first two
    inputs, weight = tensor([[2.0, -1.0, 3.0]]), tensor([[1.0, -3.0, -1.0], [-1.0, 2.0, 4.0]])
    assert through_linear(inputs, weight, tensor([[10.0, 0.0]])).tolist() == [[4.0, 6.0, 0.0]]
    assert through_linear(inputs, weight, tensor([[0.0, 1.0]])).tolist() == [[0.0, 0.0, 1.0]]
    assert through_linear(inputs, weight, tensor([[10.0, -2.0]])).tolist() == [[4.0, 6.0, -2.0]]


def test_linear_without_a_positive_contribution_loses_the_relevance():
    assert through_linear(tensor([[1.0, -1.0]]), tensor([[-1.0, 2.0]]), tensor([[5.0]])).tolist() == [[0.0, 0.0]]


def test_product_gives_each_factor_half():
    left, right = tensor([[1.0, 3.0]]), tensor([[2.0], [2.0]])  # 1*2 + 3*2 = 8
    of_left, of_right = through_product(left, right, tensor([[16.0]]))
    assert of_left.tolist() == [[2.0, 6.0]]
    assert of_right.tolist() == [[2.0], [6.0]]


def test_product_of_signs():
    left, right = tensor([[1.0, -3.0]]), tensor([[2.0], [-2.0]])  # 2 + 6
    assert through_product(left, right, tensor([[8.0]]))[0].tolist() == [[1.0, 3.0]]
    left, right = tensor([[3.0, -1.0]]), tensor([[2.0], [2.0]])  # 6 - 2 = 4
    assert through_product(left, right, tensor([[4.0]]))[0].tolist() == [[3.0, -1.0]]


def test_sum_of_terms_with_one_sign_is_shared_as_it_is():
    skip, branch = through_sum(tensor([[3.0, 1.0]]), tensor([[1.0, 1.0]]), tensor([[4.0, 2.0]]))
    assert skip.tolist() == [[3.0, 1.0]]
    assert branch.tolist() == [[1.0, 1.0]]


def test_sum_of_opposite_terms_is_scaled_to_shares_of_the_whole():
    # 3 - 2 = 1 has relevance 1: terms 3 and -2, of sizes 3/5 and 2/5 of the whole; both positive, and together 1
    skip, branch = through_sum(tensor([[3.0]]), tensor([[-2.0]]), tensor([[1.0]]))
    assert skip.item() == pytest.approx(0.6) and branch.item() == pytest.approx(0.4)


def test_sum_is_scaled_for_each_sample_alone():
    skip, branch, relevance = tensor([[3.0], [1.0]]), tensor([[-2.0], [3.0]]), tensor([[1.0], [8.0]])
    found = through_sum(skip, branch, relevance)
    alone = through_sum(skip[1:], branch[1:], relevance[1:])
    assert found[0][1:].tolist() == alone[0].tolist() == [[2.0]]
    assert found[1][1:].tolist() == alone[1].tolist() == [[6.0]]


@pytest.mark.parametrize("seed", range(5))
def test_every_rule_keeps_the_sum(seed):
    torch.manual_seed(seed)
    inputs, weight = torch.randn(3, 5, 50).double(), torch.randn(4, 50).double()
    relevance = torch.randn(3, 5, 4).double()
    assert torch.allclose(through_linear(inputs, weight, relevance).sum(-1), relevance.sum(-1))
    left, right = torch.randn(3, 2, 5, 6).double(), torch.randn(3, 2, 6, 4).double()
    of_product = torch.randn(3, 2, 5, 4).double()
    parts = through_product(left, right, of_product)
    for part in parts:
        assert torch.allclose(part.sum((1, 2, 3)), of_product.sum((1, 2, 3)) / 2)
    skip, branch, whole = torch.randn(3, 3, 5, 7).double().unbind(0)
    parts = through_sum(skip, branch, whole)
    totals = torch.stack([part.sum((1, 2)) for part in parts])
    assert torch.allclose(totals.sum(0), whole.sum((1, 2)))
    assert (totals * whole.sum((1, 2)) >= 0).all()
