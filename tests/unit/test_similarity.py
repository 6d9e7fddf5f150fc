"""How alike maps are, by hand."""

import math

import pytest
import torch

from transfer.explain.diversity import correlation, cosine, overlap


def maps(*values):
    """One face's maps of 2 x 2 cells."""
    return torch.tensor(values).reshape(1, len(values), 2, 2)


def test_overlap_of_two_maps():
    assert overlap(maps([1.0, 0.5, 0.0, 0.0], [0.5, 0.5, 1.0, 0.0])).item() == pytest.approx(1.0 / 2.5)
    assert overlap(maps([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])).item() == 0
    assert overlap(maps([0.2, 0.4, 0.1, 0.9], [0.2, 0.4, 0.1, 0.9])).item() == 1
    assert overlap(maps([0.5] * 4, [1.0] * 4)).item() == 0.5, "it sees how high maps are"
    assert overlap(maps([0.0] * 4, [0.0] * 4)).item() == 1


def test_overlap_is_the_mean_over_all_pairs():
    one, other, third = [1.0, 0, 0, 0], [1.0, 1, 0, 0], [0.0, 0, 1, 0]
    assert overlap(maps(one, other, third)).item() == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert overlap(maps(third, one, other)).item() == pytest.approx((1 / 2 + 0 + 0) / 3)


def test_cosine_of_vectors():
    vectors = torch.tensor([[[3.0, 4.0], [4.0, 3.0]], [[1.0, 0.0], [0.0, 5.0]], [[0.0, 0.0], [1.0, 2.0]]])
    assert cosine(vectors).tolist() == pytest.approx([24 / 25, 0, 0])
    three = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    assert cosine(three).item() == pytest.approx((math.sqrt(0.5) + 0 + math.sqrt(0.5)) / 3)


def test_correlation_sees_places_and_not_heights():
    rising = [0.1, 0.2, 0.3, 0.4]
    assert correlation(maps(rising, [0.5, 0.7, 0.9, 1.1])).item() == pytest.approx(1)
    assert correlation(maps(rising, rising[::-1])).item() == pytest.approx(-1)
    assert correlation(maps(rising, [0.7] * 4)).item() == pytest.approx(0, abs=1e-6), "a flat map"
    assert correlation(maps([1.0, 0, 0, 0], [0.0, 1, 0, 0])).item() == pytest.approx(-1 / 3)


def test_every_face_for_itself():
    torch.manual_seed(0)
    faces = torch.rand(5, 4, 3, 3)
    for measure in (overlap, correlation, lambda found: cosine(found.flatten(2))):
        together = measure(faces)
        assert together.shape == (5,)
        for i in range(5):
            assert torch.allclose(measure(faces[i : i + 1]), together[i : i + 1])
