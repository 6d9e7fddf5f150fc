"""MTCNN compared with facenet-pytorch and with golden values. All faces are synthetic.

``python tests/unit/test_mtcnn.py`` writes the golden pictures and values anew.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from PIL import Image
from torch.nn.functional import interpolate

from transfer.datasets.synthetic.render import Style, render_face
from transfer.faces.mtcnn import Areas, Cascade, Network, _suppress_inside

GOLDEN = Path(__file__).parent / "golden" / "faces.npz"
FACE = 36.0


def iou(first, second):
    """Intersection over union of boxes x0, y0, x1, y1: (N, >=4) and (M, >=4) give (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:4] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def drawn(seed, side=144):
    face = render_face(np.random.default_rng(seed), "surprise" if seed % 2 else "happiness", 0.7, 96, Style(noise=2.0))
    return np.asarray(Image.fromarray(face.image).resize((side, side), Image.Resampling.BICUBIC))


def golden_pictures():
    """A face with a border, one that leaves the picture, one that is turned, and three at once."""
    framed = np.pad(drawn(1, 96), ((24, 24), (24, 24), (0, 0)), mode="edge")
    cut = np.ascontiguousarray(drawn(2, 224)[40:184, 50:194])
    turned = np.asarray(Image.fromarray(drawn(3)).rotate(15, Image.Resampling.BICUBIC))
    several = np.full((144, 144, 3), 120, np.uint8)
    for seed, (x, y, side) in ((4, (2, 4, 70)), (5, (74, 0, 68)), (6, (40, 72, 70))):
        several[y : y + side, x : x + side] = drawn(seed, side)
    return np.stack([framed, cut, turned, several])


def pictures():
    """Faces of all sizes, at the border and inside, turned, several, in noise; noise without a face, and black."""
    rng = np.random.default_rng(0)
    made = list(golden_pictures())
    for seed in range(16):
        side = int(rng.integers(60, 200))
        canvas = (
            rng.integers(0, 256, (344, 344, 3), np.uint8) if seed % 3 == 0 else np.full((344, 344, 3), 90, np.uint8)
        )
        x, y = rng.integers(100 - side // 3, 245 - 2 * side // 3, 2)
        face = Image.fromarray(drawn(seed, side)).rotate(float(rng.uniform(-20, 20)), Image.Resampling.BICUBIC)
        canvas[y : y + side, x : x + side] = np.asarray(face)
        made.append(canvas[100:244, 100:244])
    made += [rng.integers(0, 256, (144, 144, 3), np.uint8), np.zeros((144, 144, 3), np.uint8)]
    return np.stack(made)


pytestmark = pytest.mark.usefixtures("one_thread")


def imported(code):
    """Which of the heavy packages a process of its own imports."""
    heavy = "{'torch', 'torchvision', 'facenet_pytorch', 'sympy', 'matplotlib', 'jinja2', 'timm'}"
    code += f"; import sys; print(*sorted({heavy} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_detection_alone_imports_torch_and_nothing_else_that_is_slow():
    assert imported("from transfer.faces.mtcnn import Cascade; Cascade()") == ["torch"]
    assert imported("import transfer.faces.align, transfer.faces.quality, transfer.datasets.images") == []


@pytest.fixture(scope="module")
def cascade():
    return Cascade()


def test_golden_boxes_and_landmarks(cascade):
    golden = np.load(GOLDEN)
    found = cascade.find(golden["pictures"], FACE)
    assert [len(faces.boxes) for faces in found] == golden["count"].tolist() == [1, 1, 1, 3]
    boxes, points = (np.concatenate(values) for values in zip(*found, strict=True))
    assert np.abs(boxes[:, :4] - golden["boxes"][:, :4]).max() < 0.25
    assert np.abs(boxes[:, 4] - golden["boxes"][:, 4]).max() < 0.01
    assert np.abs(points - golden["points"]).max() < 0.25


@pytest.mark.parametrize("face", [24.0, 31.7])
def test_the_boxes_are_those_of_facenet_pytorch(cascade, face):
    batch = pictures()
    mtcnn = MTCNN(min_face_size=face, select_largest=False)
    theirs, probabilities = mtcnn.detect(batch)
    ours = cascade.find(batch, face)
    assert sum(len(faces.boxes) for faces in ours) >= 15
    for faces, boxes, probability in zip(ours, theirs, probabilities, strict=True):
        assert len(faces.boxes) == (0 if boxes is None else len(boxes))
        if boxes is None:
            continue
        match = iou(faces.boxes, boxes).argmax(axis=1)
        assert sorted(match) == list(range(len(boxes)))
        assert np.diag(iou(faces.boxes, boxes[match])).min() > 0.999
        assert np.allclose(faces.boxes[:, 4], probability[match].astype(float), atol=1e-3)


def test_landmarks_lie_half_a_pixel_before_those_of_facenet_pytorch(cascade):
    """It counts pixels from 1, but takes them as distances from the corner; only where a crop is not cut off."""
    batch = np.stack([np.pad(drawn(seed, 96), ((24, 24), (24, 24), (0, 0)), mode="edge") for seed in range(8)])
    theirs = [points[0] for points in MTCNN(min_face_size=40).detect(batch, landmarks=True)[2]]
    ours = [faces.points[0] for faces in cascade.find(batch, 40)]
    shift = np.subtract(theirs, ours)
    assert np.abs(np.median(shift, axis=(0, 1)) - 0.5).max() < 0.15
    assert np.abs(shift - 0.5).max() < 1.5


def test_landmarks_are_placed_in_the_crop_that_the_network_saw(cascade, monkeypatch):
    """A network that says "the middle" for every landmark: they lie in the middle of the pixels inside the picture."""
    picture = golden_pictures()[1:2]
    cuts = []
    deciding, crops = cascade.onet, type(cascade)._find.__globals__["Areas"].crops

    def noting(self, owner, cut, side):
        cuts.append(cut) if side == 48 else None
        return crops(self, owner, cut, side)

    def middle(pixels):
        said = deciding(pixels)
        said[:, 6:] = 0.5
        return said

    middle.width = deciding.width
    monkeypatch.setattr("transfer.faces.mtcnn.Areas.crops", noting)
    monkeypatch.setattr(cascade, "onet", middle)
    [faces] = cascade.find(picture, FACE)
    cut = torch.cat(cuts)
    assert ((cut == 0) | (cut == 144)).any()  # the picture's border cut at least one of them
    middles = ((cut[:, :2] + cut[:, 2:]) / 2).numpy()
    assert all((np.abs(middles - point).max(axis=1) < 1e-4).any() for point in faces.points[:, 0])


def test_a_large_batch_changes_no_face(cascade):
    """Boxes of different pictures are kept apart by offsets, which must not cost them digits."""
    [alone] = cascade.find(golden_pictures()[3:], FACE)
    many = cascade.find(np.repeat(golden_pictures()[3:], 70, axis=0), FACE)
    for faces in (many[0], many[-1]):
        assert len(faces.boxes) == len(alone.boxes)
        assert np.allclose(faces.boxes, alone.boxes, atol=0.01) and np.allclose(faces.points, alone.points, atol=0.01)


def test_of_boxes_inside_each_other_the_most_probable_stays():
    boxes = torch.tensor(
        [
            [0, 0, 99, 99, 0.8],
            [10, 10, 49, 49, 0.9],  # inside the first one, and more probable
            [60, 60, 89, 89, 0.7],  # inside the first one, which is gone already
            [0, 0, 99, 99, 0.6],  # the same place in another picture
            [80, 0, 179, 99, 0.75],  # shares a fifth of the first one
        ]
    )
    owner = torch.tensor([0, 0, 0, 1, 0])
    assert _suppress_inside(boxes, owner, 0.7).tolist() == [1, 4, 2, 3]


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


if __name__ == "__main__":
    stack = golden_pictures()
    all_found = Cascade().find(stack, FACE)
    all_boxes, all_points = (np.concatenate(values) for values in zip(*all_found, strict=True))
    counts = [len(faces.boxes) for faces in all_found]
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, pictures=stack, count=counts, boxes=all_boxes, points=all_points)
    print(counts, GOLDEN.stat().st_size, "bytes")
