"""Corruptions of faces by hand-made cases: where the squares lie, what blur and noise do, and that a face keeps its."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from transfer.evaluation import robustness as corruptions
from transfer.evaluation.robustness import (
    CENTRES,
    GREY,
    blur,
    corrupt,
    face_seeds,
    low_resolution,
    noise,
    occlude_at,
    occlude_random,
)
from transfer.faces.align import template
from transfer.params.train import SEVERITIES

pytestmark = pytest.mark.usefixtures("one_thread")


def faces(count=2, side=32, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def hidden(image):
    """Which pixels of a black image (3, H, W) are grey now; the others are still black."""
    assert set(image.unique().tolist()) <= {0.0, GREY}
    assert (image == image[0]).all()
    return (image[0] == GREY).int().tolist()


# --- the table ---


@pytest.mark.parametrize("name", SEVERITIES)
def test_severities_grow_inside_their_range_and_each_changes_the_face_more(name):
    scale = SEVERITIES[name]
    assert sorted(set(scale.severities)) == list(scale.severities)
    assert scale.least < scale.severities[0] and scale.severities[-1] <= scale.most
    images, points = faces(3, 112), template(112)
    before = images.clone()
    changes = []
    for severity in scale.severities:
        made = corrupt(images, name, severity, [1, 2, 3], points if name in CENTRES else None)
        assert made.shape == images.shape and made.dtype == torch.float32
        assert made.min() >= 0 and made.max() <= 1
        changes.append(((made - images) ** 2).mean().item())
    assert torch.equal(images, before), "nothing in place"
    assert changes[0] > 0 and changes == sorted(changes)


@pytest.mark.parametrize("name", sorted(set(SEVERITIES) - {"blur"}))
def test_the_least_severity_leaves_the_face_as_it_is(name):
    images = faces()
    points = template(32) if name in CENTRES else None
    assert torch.equal(corrupt(images, name, SEVERITIES[name].least, [1, 2], points), images)


def test_the_strongest_severities_that_are_allowed_work():
    for name, scale in SEVERITIES.items():
        made = corrupt(faces(), name, scale.most, [1, 2], template(32) if name in CENTRES else None)
        assert made.isfinite().all(), name


@pytest.mark.parametrize("name", SEVERITIES)
def test_a_face_gets_the_same_whatever_batch_it_is_in(name):
    images, severity = faces(4), SEVERITIES[name].severities[2]
    points = template(32) if name in CENTRES else None
    together = corrupt(images, name, severity, [7, 8, 9, 7], points)
    for i, seed in enumerate([7, 8, 9, 7]):
        alone = corrupt(images[[i]], name, severity, [seed], points)
        assert torch.allclose(alone[0], together[i], atol=1e-6)


def test_seeds_are_of_the_seed_the_corruption_and_the_sample():
    assert face_seeds(0, "noise", ["test_0001"]) == [6259774853169142257]
    every = {
        face_seeds(seed, name, [sample])[0]
        for seed in (0, 1)
        for name in ("noise", "occlude_random")
        for sample in ("test_0001", "test_0002")
    }
    assert len(every) == 8


# --- squares ---


@pytest.mark.parametrize(
    ("severity", "centre", "expected"),
    [
        (1 / 3, (0, 2), [[0, 0, 0], [0, 0, 0], [1, 0, 0]]),
        (1 / 3, (1.4, 0.6), [[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
        (2 / 3, (1.5, 0.5), [[0, 1, 1], [0, 1, 1], [0, 0, 0]]),
        (1, (1, 1), [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
        (1, (2, 2), [[0, 0, 0], [0, 1, 1], [0, 1, 1]]),
        (2 / 3, (-0.5, 1.5), [[0, 0, 0], [1, 0, 0], [1, 0, 0]]),
    ],
)
def test_a_square_is_centred_and_cut_off_at_the_border(severity, centre, expected):
    (made,) = occlude_at(torch.zeros(1, 3, 3, 3), severity, np.array([centre], float))
    assert hidden(made) == expected


def test_two_squares():
    (made,) = occlude_at(torch.zeros(1, 3, 3, 3), 1 / 3, np.array([(0.0, 0.0), (2.0, 1.0)]))
    assert hidden(made) == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("name", "centres"),
    [
        ("occlude_eyes", [(38.2946, 51.6963), (73.5318, 51.5014)]),
        ("occlude_nose", [(56.0252, 71.7366)]),
        ("occlude_mouth", [((41.5493 + 70.7299) / 2, (92.3655 + 92.2041) / 2)]),
    ],
)
def test_eyes_nose_and_mouth_are_covered_where_the_template_has_them(name, centres):
    (made,) = corrupt(torch.zeros(1, 3, 112, 112), name, 1 / 8, [0], template(112))
    grey = np.array(hidden(made), bool)
    assert grey.sum() == len(centres) * 14 * 14
    for number, (x, y) in enumerate(centres):
        half = grey[:, 56 * number :][:, :56] if len(centres) == 2 else grey
        rows, columns = np.nonzero(half)
        assert abs(rows.mean() - y) <= 0.5 and abs(columns.mean() + 56 * number * (len(centres) == 2) - x) <= 0.5


def test_random_places_are_uniform_inside_the_face():
    made = occlude_random(torch.zeros(900, 3, 3, 3), 2 / 3, range(900))
    corners = [tuple(np.argwhere(np.array(hidden(image)))[0]) for image in made]
    assert all(np.sum(hidden(image)) == 4 for image in made)
    counts = {corner: corners.count(corner) for corner in set(corners)}
    assert set(counts) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert min(counts.values()) > 180, "225 each, give or take 13"


def test_a_larger_square_covers_the_smaller_one():
    seeds, black = range(40), torch.zeros(40, 3, 31, 31)
    before = torch.zeros(40, 31, 31, dtype=torch.bool)
    for side in range(32):
        grey = occlude_random(black, side / 31, seeds)[:, 0] == GREY
        assert (grey.sum(dim=(1, 2)) == side * side).all()
        assert (grey | ~before).all()
        before = grey


# --- blur, noise, resolution, light ---


def test_blur_of_a_point_is_a_gaussian():
    image = torch.zeros(1, 3, 41, 41)
    image[:, :, 20, 20] = 1
    (made,) = blur(image, 2 / 41)
    distance = np.arange(41) - 20
    kernel = np.where(abs(distance) <= 6, np.exp(-(distance**2) / (2 * 2.0**2)), 0)
    kernel /= kernel.sum()
    assert np.allclose(made.numpy(), np.outer(kernel, kernel)[None], atol=1e-6)


def test_blur_is_torchvisions_and_keeps_an_even_face():
    images = faces(side=40)
    whole = functional.gaussian_blur(images, [13, 13], [2.0, 2.0])
    assert torch.allclose(blur(images, 0.05), whole, atol=1e-6)
    assert torch.allclose(blur(torch.full((1, 3, 32, 32), 0.3), 0.25), torch.tensor(0.3))


def test_noise_has_its_standard_deviation_and_one_pattern():
    grey = torch.full((2, 3, 100, 100), 0.5)
    weak, strong = noise(grey, 0.05, [1, 2]) - grey, noise(grey, 0.1, [1, 2]) - grey
    assert weak.std().item() == pytest.approx(0.05, rel=0.02)
    assert abs(weak.mean().item()) < 0.001
    assert torch.allclose(strong, 2 * weak, atol=1e-6)
    assert abs(torch.corrcoef(weak.reshape(6, -1)).fill_diagonal_(0)).max() < 0.05, "no face, no channel like another"
    assert noise(torch.ones(1, 3, 8, 8), 0.2, [1]).max() == 1


def test_low_resolution_by_hand():
    row = torch.tensor([0.0, 0.2, 0.6, 1.0])
    image = row.expand(1, 3, 4, 4)
    mean = (row * torch.tensor([5, 7, 7, 5]) / 24).sum()  # what antialiasing weighs four pixels with
    assert torch.allclose(low_resolution(image, 4), mean)
    # two pixels, each a weighted mean of the four, and between them a straight line
    left, right = ((row * torch.tensor(weights)).sum() / 7 for weights in ([3.0, 3, 1, 0], [0.0, 1, 3, 3]))
    expected = torch.stack([left, 0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right, right])
    assert torch.allclose(low_resolution(image, 2), expected.expand(1, 3, 4, 4), atol=1e-6)


def test_light():
    image = torch.tensor([0.0, 0.2, 0.6]).expand(1, 3, 3, 3)
    assert torch.allclose(corrupt(image, "darker", 0.75, []), image / 4)
    assert torch.equal(corrupt(image, "darker", 1, []), torch.zeros_like(image))
    assert torch.allclose(corrupt(image, "brighter", 1.0, []), torch.tensor([0.0, 0.4, 1.0]).expand(1, 3, 3, 3))


def test_every_name_of_the_table_is_made_by_one_function():
    made = [*corruptions.CENTRES, *corruptions._CORRUPTIONS]
    assert sorted(made) == sorted(SEVERITIES)
