import pytest
import torch
from facenet_pytorch import MTCNN
from torch.nn.functional import max_pool2d

from transfer.faces.mtcnn import Network, max_pool


@pytest.fixture(scope="module")
def mtcnn():
    return MTCNN()


@pytest.mark.parametrize(
    ("name", "side", "pools", "heads"),
    [
        ("pnet", 37, (2, 1, 1), ("conv4_1", "conv4_2")),
        ("pnet", 12, (2, 1, 1), ("conv4_1", "conv4_2")),
        ("rnet", 24, (3, 3, 1), ("dense5_1", "dense5_2")),
        ("onet", 48, (3, 3, 2, 1), ("dense6_1", "dense6_2", "dense6_3")),
    ],
)
def test_the_outputs_are_those_of_facenet_pytorch(mtcnn, name, side, pools, heads):
    pixels = torch.randint(0, 256, (3, side, side + (name == "pnet"), 4), generator=torch.Generator().manual_seed(0))
    pixels[..., 3] = 0
    theirs = getattr(mtcnn, name)
    with torch.inference_mode():
        *values, probability = theirs((pixels[..., :3].permute(0, 3, 1, 2) - 127.5) / 128)
        said = Network(name, pools, heads)(pixels.float())
    assert torch.allclose(said[:, :2].softmax(1), probability, atol=1e-5)
    assert torch.allclose(said[:, 2:], torch.cat(values, dim=1), atol=1e-5)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("length", range(4, 10))
def test_pooling_is_torchs(size, length):
    x = torch.randn(2, 3, length, length + 1, generator=torch.Generator().manual_seed(0)) - 2
    kept = x.clone()
    assert torch.equal(max_pool(max_pool(x, 2, size), 3, size), max_pool2d(x, size, 2, ceil_mode=True))
    assert torch.equal(x, kept)
