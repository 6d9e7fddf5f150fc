import math

import numpy as np
import pytest
import torch
from torch.nn.functional import affine_grid
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from transfer.params import Augmentation
from transfer.training.augment import Augment, luma, sampling_grid, shift_hue

LUMA = 2e-4  # torchvision rounds the weight of red to 0.2989
OFF = {
    "rotate": 0.0,
    "crop_scale": (1.0, 1.0),
    "flip": 0.0,
    "grey": 0.0,
    "jitter": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "erase": 0.0,
}


def augment(seed=0, **changes):
    return Augment(Augmentation(**{**OFF, **changes}), seed)


class Scripted(Augment):
    """Takes its uniform numbers in [0, 1], one list for the batch per draw, from a script."""

    def __init__(self, script, **changes):
        super().__init__(Augmentation(**{**OFF, **changes}), 0)
        self.script = [np.array(draws) for draws in script]

    def _uniform(self, n, low=0.0, high=1.0):
        draws = self.script.pop(0)
        assert len(draws) == n
        return draws * (high - low) + low


def noise(n=4, side=16, seed=1):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def smooth(n=1, side=48):
    """Pictures of slow waves, which survive being interpolated twice."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    waves = [torch.sin(5 * x + 3 * y), torch.cos(4 * x - 2 * y), torch.sin(2 * x * y + 3 * x)]
    return (torch.stack(waves) / 2 + 0.5).expand(n, 3, side, side).clone()


def test_rotation_is_torchvisions_with_one_angle_per_sample():
    images = smooth(3)
    angles = [-6.0, 2.5, 6.0]
    draws = [[(angle + 6) / 12 for angle in angles], [0.0] * 3, [0.5] * 3, [1.0] * 3, [0.5] * 3, [0.5] * 3]
    ours = Scripted(draws, rotate=1.0, degrees=6.0).geometry(images)
    for image, angle, rotated in zip(images, angles, ours, strict=True):
        expected = reference.affine(
            image, angle=-angle, translate=[0, 0], scale=1, shear=[0, 0], interpolation=InterpolationMode.BILINEAR
        )
        assert torch.allclose(rotated, expected, atol=1e-4)
    assert ours[0, :, 0, 0].abs().max() < ours[0, :, 24, 0].abs().max()  # the corners turned out of the picture


def test_crop_is_torchvisions_with_one_box_per_sample():
    images = noise(2, side=32)
    side, boxes = 24, [(3, 5), (8, 0)]  # top, left
    free = 32 - side
    draws = [[0.0] * 2, [0.5] * 2, [0.0] * 2, [1.0] * 2]
    draws += [[left / free for _, left in boxes], [top / free for top, _ in boxes]]
    area = (side / 32) ** 2
    ours = Scripted(draws, crop_scale=(area, area)).geometry(images)
    for image, (top, left), cropped in zip(images, boxes, ours, strict=True):
        expected = reference.resized_crop(image, top, left, side, side, [32, 32], antialias=False)
        # At the border torchvision repeats the crop's last pixel, where the picture goes on.
        assert torch.allclose(cropped[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-5)


def test_rotation_then_crop_then_flip():
    image = smooth()
    side, top, left, angle = 28, 4, 16, 15.0
    free, area = 48 - side, (side / 48) ** 2
    draws = [[(angle + 20) / 40], [0.0], [0.5], [0.0], [left / free], [top / free]]
    ours = Scripted(draws, rotate=1.0, degrees=20.0, flip=1.0, crop_scale=(area, area)).geometry(image)
    rotated = reference.affine(
        image, angle=-angle, translate=[0, 0], scale=1, shear=[0, 0], interpolation=InterpolationMode.BILINEAR
    )
    cropped = reference.resized_crop(rotated, top, left, side, side, [48, 48], antialias=False)
    inside = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    assert torch.allclose(ours[inside], reference.hflip(cropped)[inside], atol=0.01)
    assert not torch.allclose(ours[inside], cropped[inside], atol=0.1)


@pytest.mark.parametrize(("height", "width"), [(5, 8), (1, 4), (40, 40)])
def test_the_sampling_grid_is_torchs(height, width):
    matrix = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = affine_grid(matrix, [3, 1, height, width], align_corners=False)
    assert torch.allclose(sampling_grid(matrix, height, width), expected, atol=1e-6)


def test_flip():
    images = noise()
    assert torch.allclose(augment(flip=1.0)(images), images.flip(3), atol=1e-5)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_factors_are_torchvisions(name):
    images, factors = noise(3), [0.6, 1.0, 1.4]
    ours = Scripted([[0.5] * 3, [0.0] * 3, [0.0, 0.5, 1.0]], jitter=1.0, **{name: 0.4}).colour(images)
    expected = [getattr(reference, f"adjust_{name}")(*pair) for pair in zip(images, factors, strict=True)]
    assert torch.allclose(ours, torch.stack(expected), atol=LUMA)


def test_hue_is_torchvisions_with_one_shift_per_sample():
    images = noise(5, side=32)
    images[:, :, 0] = 0.25  # grey
    images[:, :, 1] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    images[:, :, 2] = torch.tensor([0.5, 0.5, 0.0])[:, None]  # two channels are the largest
    images[:, :, 3] = 0
    shifts = [-0.5, -0.1, 0.0, 0.07, 0.5]
    ours = shift_hue(images, torch.tensor(shifts).view(-1, 1, 1))
    expected = [reference.adjust_hue(*pair) for pair in zip(images, shifts, strict=True)]
    assert torch.allclose(ours, torch.stack(expected), atol=1e-5)
    assert torch.allclose(ours[2], images[2], atol=1e-6)


def test_jitter_draws_the_hue_within_its_range():
    images = noise(2)
    ours = Scripted([[0.5] * 2, [0.0, 1.0], [1.0] * 2], jitter=0.8, hue=0.1).colour(images)
    assert torch.allclose(ours[0], reference.adjust_hue(images[0], 0.1), atol=1e-5)
    assert torch.allclose(ours[1], images[1], atol=1e-6)  # not chosen


def test_grey_is_torchvisions():
    images = noise()
    expected = reference.rgb_to_grayscale(images, num_output_channels=3)
    assert torch.allclose(luma(images).expand_as(images), expected, atol=LUMA)
    assert torch.allclose(augment(grey=1.0)(images), expected, atol=LUMA)


def test_every_probability_zero_leaves_the_images_as_they_are():
    images = noise()
    strengths = {"degrees": 180.0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    unchanged = augment(**strengths)
    assert torch.allclose(unchanged(images), images, atol=1e-5)
    assert torch.equal(unchanged.erase(images), images)


def test_each_sample_has_its_own_parameters():
    images = noise(1).expand(6, -1, -1, -1)
    forced = {"rotate": 1.0, "crop_scale": (0.5, 1.0), "jitter": 1.0, "brightness": 0.4, "hue": 0.1, "erase": 1.0}
    changed = augment(**forced)
    for out in (changed.geometry(images), changed.colour(images), changed.erase(images)):
        assert all(not torch.allclose(out[i], out[j]) for i in range(6) for j in range(i))


def test_the_seed_decides_everything():
    images, params = noise(8), Augmentation()

    def outcome(seed):
        changed = Augment(params, seed)
        torch.rand(3)  # the global generators play no part
        np.random.rand(3)
        return changed.erase(changed(images))

    assert torch.equal(outcome(3), outcome(3))
    assert not torch.equal(outcome(3), outcome(4))


def test_values_stay_in_range_and_the_input_is_not_touched():
    images = torch.cat([noise(30), torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)])
    before = images.clone()
    out = Augment(Augmentation(crop_scale=(0.1, 1.0), degrees=180.0), 0)(images)
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1
    assert out.shape == images.shape and torch.equal(images, before)


@pytest.mark.parametrize(("name", "probability"), [("flip", 0.5), ("grey", 0.2), ("erase", 0.3)])
def test_frequencies(name, probability):
    images = noise(1, side=8).expand(4000, -1, -1, -1)
    changed = augment(**{name: probability})
    out = changed.erase(images) if name == "erase" else changed(images)
    share = (~torch.isclose(out, images, atol=1e-4).flatten(1).all(dim=1)).double().mean()
    assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / 4000)


def test_crop_area_and_position():
    """A ramp shows the crop's scale in its slope and its position in its value."""
    ramp = torch.linspace(0, 1, 64).expand(1000, 3, 64, 64)
    out = augment(crop_scale=(0.25, 1.0)).geometry(ramp)[:, 0, 32]
    scale = (out[:, 40] - out[:, 20]) / (ramp[0, 0, 32, 40] - ramp[0, 0, 32, 20])
    assert scale.min() > 0.499 and scale.max() < 1.001
    assert abs((scale**2).mean() - 0.625) < 0.03  # the area is uniform, not the side
    centre = (out[:, 31] + out[:, 32]) / 2 - 0.5  # in widths of the picture
    assert (centre.abs() <= (1 - scale) / 2 + 0.01).all() and abs(centre.mean()) < 0.02
    assert (centre.abs() / ((1 - scale) / 2).clamp(min=0.01) > 0.9).any()  # the crops reach the border


def test_erased_box():
    side, low, high = 64, 0.02, 0.33
    images = torch.full((500, 3, side, side), 7.0)
    out = augment(erase=0.5, erase_scale=(low, high)).erase(images)
    changed = (out != 7).any(dim=1)
    areas, tops, lefts, values = [], [], [], []
    for mask, sample in zip(changed, out, strict=True):
        rows, columns = torch.nonzero(mask.any(dim=1)).flatten(), torch.nonzero(mask.any(dim=0)).flatten()
        if len(rows) == 0:
            continue
        top, left, h, w = rows[0].item(), columns[0].item(), len(rows), len(columns)
        box = sample[:, top : top + h, left : left + w]
        assert mask.sum() == h * w and (box != 7).all()  # one whole rectangle, in every channel
        # Sides are rounded to pixels.
        assert low * side**2 <= (h + 0.5) * (w + 0.5) and (h - 0.5) * (w - 0.5) <= high * side**2
        assert (h + 0.5) / (w - 0.5) >= 0.3 and (h - 0.5) / (w + 0.5) <= 3.3
        areas.append(h * w / side**2)
        tops.append(top)
        lefts.append(left)
        values.append(box.flatten())
    assert abs(len(areas) / 500 - 0.5) < 0.1
    assert max(areas) > 0.3 and min(areas) < 0.04 and abs(sum(areas) / len(areas) - (low + high) / 2) < 0.03
    assert min(tops) == 0 and min(lefts) == 0
    assert (out[:, :, -1] != 7).any() and (out[:, :, :, -1] != 7).any()
    values = torch.cat(values)
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02
