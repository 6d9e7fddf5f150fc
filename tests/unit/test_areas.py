import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from transfer.faces.mtcnn import Areas

PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), np.uint8))


def resampled(pixels, height, width):
    planes = pixels.permute(0, 3, 1, 2).double()
    return interpolate(planes, size=(height, width), mode="area").permute(0, 2, 3, 1).float()


@pytest.mark.parametrize("shape", [(50, 70), (25, 35), (26, 36), (13, 17), (60, 71), (1, 1)])
def test_a_level_is_torchs_area_resampling(shape):
    level = Areas(PIXELS).level(*shape, slice(1, 3))
    assert level.shape == (2, *shape, 4) and level.dtype == torch.float32
    assert torch.allclose(level[..., :3], resampled(PIXELS[1:], *shape), atol=1e-4)
    assert (level[..., 3] == 0).all()


@pytest.mark.parametrize("side", [24, 48])
def test_crops_are_torchs_area_resampling_of_the_cut_pixels(side):
    cuts = torch.tensor(
        [[0, 0, 70, 50], [3, 5, 4, 6], [69, 49, 70, 50], [10, 2, 58, 50], [7, 0, 40, 41], [1, 1, 25, 25]]
    )
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    crops = Areas(PIXELS).crops(owner, cuts, side)
    assert crops.shape == (6, side, side, 4)
    for crop, i, (x0, y0, x1, y1) in zip(crops, owner.tolist(), cuts.tolist(), strict=True):
        assert torch.allclose(crop[None, ..., :3], resampled(PIXELS[i : i + 1, y0:y1, x0:x1], side, side), atol=1e-4)


def test_white_stays_exactly_white_in_the_largest_picture():
    """Sums of 480 x 1440 white pixels need 28 bits, more than single precision has."""
    areas = Areas(torch.full((1, 480, 1440, 3), 255, dtype=torch.uint8))
    crop = areas.crops(torch.tensor([0]), torch.tensor([[1300, 400, 1440, 480]]), 48)
    assert torch.allclose(crop[..., :3], torch.tensor(255.0), rtol=1e-6)
