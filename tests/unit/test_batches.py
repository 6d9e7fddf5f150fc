import hashlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from transfer.models.transfer import IMAGENET_MEAN, IMAGENET_STD
from transfer.params import Augmentation
from transfer.training.batches import FaceStore, evaluation_batches, training_batches
from transfer.training.loop import predict

CPU = torch.device("cpu")
OFF = Augmentation(rotate=0, crop_scale=(1, 1), flip=0, grey=0, jitter=0, erase=0)
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))


@pytest.fixture
def faces(tmp_path):
    """Twenty random faces of 32 x 32 pixels, and the file that holds them."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "aligned.npy", pixels)
    return tmp_path / "aligned.npy", pixels


def batches(store, rows, size, order=1, augment=2, augmentation=OFF):
    """(rows, images) per batch; the targets are the row numbers."""
    made = training_batches(store, torch.arange(20), np.asarray(rows), size, augmentation, order, augment, CPU)
    return [(targets.tolist(), images) for images, targets, _ in made]


def as_tensor(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def test_images_are_the_stored_rows(faces):
    path, pixels = faces
    images = FaceStore(path, 32, np.arange(20)).images(np.array([3, 0, 3]), CPU)
    assert torch.equal(images, as_tensor(pixels[[3, 0, 3]]))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_resized_rows_are_torchs_antialiased_bilinear(faces, monkeypatch):
    monkeypatch.setattr("transfer.training.batches._CHUNK", 4)  # several chunks, the last one not full
    path, pixels = faces
    wanted = np.array([17, 2, 5, 9, 11, 0])
    images = FaceStore(path, 16, wanted).images(np.array([9, 17]), CPU)
    expected = interpolate(as_tensor(pixels[[9, 17]]), (16, 16), mode="bilinear", antialias=True)
    assert images.shape == (2, 3, 16, 16)
    # Stored in whole steps, and rounded (halves up) once more between the rows and the columns.
    assert (images - expected).abs().max() < 1.01 / 255 and (images - expected).mean().abs() < 0.15 / 255


def test_faces_that_do_not_fit_into_memory_are_resized_with_every_batch(faces, monkeypatch):
    path, _ = faces
    rows = np.arange(20)
    held = FaceStore(path, 24, rows)
    monkeypatch.setattr("transfer.training.batches._HELD_BYTES", 20 * 24 * 24 * 3 - 1)
    store = FaceStore(path, 24, rows)
    assert held.held is not None and store.held is None
    for batch in (rows, np.array([3, 19, 3])):
        assert torch.equal(store.images(batch, CPU), held.images(batch, CPU))
        assert store.images(batch, CPU).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [32, 24])
def test_handing_pages_back_changes_nothing(faces, monkeypatch, side):
    path, _ = faces
    monkeypatch.setattr("transfer.training.batches._HELD_BYTES", 0)
    expected = FaceStore(path, side, np.arange(20)).images(np.arange(20), CPU)
    monkeypatch.setattr("transfer.training.batches._MAPPED_BYTES", 32 * 32 * 3)
    store = FaceStore(path, side, np.arange(20))
    released = []
    monkeypatch.setattr(store, "release", lambda: released.append(FaceStore.release(store)))
    for start in (0, 5, 10, 15, 0):
        assert torch.equal(store.images(np.arange(start, start + 5), CPU), expected[start : start + 5])
    assert len(released) == 5 and store.mapped == 0


def test_an_epoch_is_a_permutation_of_the_plan(faces):
    plan = [0, 0, 0, 4, 4, 7, 9, 11, 13, 13]
    epoch = batches(FaceStore(faces[0], 32, np.arange(20)), plan, 5)
    assert sorted(row for rows, _ in epoch for row in rows) == plan
    assert [row for rows, _ in epoch for row in rows] != plan


def test_a_batch_holds_the_images_of_its_targets(faces):
    path, pixels = faces
    for rows, images in batches(FaceStore(path, 32, np.arange(20)), range(20), 6):
        assert torch.allclose(images, (as_tensor(pixels[rows]) - MEAN) / STD, atol=1e-4)
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_last_batch_is_left_out_where_it_is_not_full(faces):
    store = FaceStore(faces[0], 32, np.arange(20))
    assert [len(rows) for rows, _ in batches(store, range(20), 6)] == [6, 6, 6]
    assert [len(rows) for rows, _ in batches(store, range(20), 10)] == [10, 10]
    assert [len(rows) for rows, _ in batches(store, range(5), 64)] == [5]  # fewer images than a batch: all of them
    orders = [sum((rows for rows, _ in batches(store, range(20), 6, order=seed)), []) for seed in range(8)]
    assert set().union(*orders) == set(range(20))  # and not the same ones in every epoch


def test_the_seeds_decide_order_and_augmentation_separately(faces):
    store = FaceStore(faces[0], 32, np.arange(20))

    def epoch(order, augment):
        made = batches(store, range(20), 5, order, augment, Augmentation())
        return sum((rows for rows, _ in made), []), torch.cat([images for _, images in made])

    rows, images = epoch(1, 2)
    torch.rand(7)  # a recipe that draws more numbers sees the same batches
    assert epoch(1, 2)[0] == rows and torch.equal(epoch(1, 2)[1], images)
    assert epoch(1, 3)[0] == rows and not torch.equal(epoch(1, 3)[1], images)
    assert epoch(2, 2)[0] != rows


def test_soft_targets_follow_their_images(faces):
    path, pixels = faces
    soft = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    made = training_batches(FaceStore(path, 32, np.arange(20)), soft, np.arange(20), 10, OFF, 1, 2, CPU)
    for images, targets, _ in made:
        match = (images[:, None] - ((as_tensor(pixels) - MEAN) / STD)[None]).abs().amax(dim=(2, 3, 4)).argmin(dim=1)
        assert torch.equal(targets, soft[match])


@pytest.mark.parametrize("side", [32, 16])
def test_the_file_is_not_touched(faces, side):
    path, _ = faces
    before = hashlib.sha256(path.read_bytes()).digest()
    store = FaceStore(path, side, np.arange(20))
    first = store.images(np.arange(20), CPU).clone()
    batches(store, range(20), 5, augmentation=Augmentation())
    store.images(np.arange(20), CPU).zero_()
    assert torch.equal(store.images(np.arange(20), CPU), first)
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_evaluation_is_in_order_and_complete(faces):
    path, pixels = faces
    rows = np.array([5, 1, 19, 0, 2])
    made = list(evaluation_batches(FaceStore(path, 32, np.arange(20)), rows, CPU, batch_size=2))
    assert [len(images) for images in made] == [2, 2, 1]
    assert torch.allclose(torch.cat(made), (as_tensor(pixels[rows]) - MEAN) / STD, atol=1e-5)


def test_predictions_do_not_depend_on_the_batch_size(faces):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 14**2, 3))
    rows = np.arange(20)
    store = FaceStore(faces[0], 16, rows)
    by_size = [predict(model, evaluation_batches(store, rows, CPU, size), "fp32", True) for size in (1, 7, 256)]
    assert by_size[0].shape == (20, 3)
    assert np.allclose(by_size[0], by_size[1], atol=1e-6) and np.allclose(by_size[0], by_size[2], atol=1e-6)
