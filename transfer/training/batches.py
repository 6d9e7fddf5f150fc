"""Batches of images on the device, from rows of the aligned store."""

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from transfer.models.registry import IMAGENET_MEAN, IMAGENET_STD
from transfer.params import Augmentation
from transfer.training.augment import Augment
from transfer.utils.seeds import stream

_CHUNK = 1024
_HELD_BYTES = 512_000_000  # resized faces are kept in memory up to this size
_MAPPED_BYTES = 64_000_000  # read through the map before its pages are released


class FaceStore:
    """The aligned faces (rows, side, side, 3) uint8, read through a memory map.

    Where the network's input is smaller than the stored faces, ``rows`` are resized once and kept in memory if they fit
    into half a gigabyte, else with every batch; the pixels are the same. Mapped pages count as this process's memory:
    they are released now and then, and stay in the system's cache.
    """

    def __init__(
        self,
        path: Path,
        img_size: int,
        rows: np.ndarray,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.mean, self.std = mean, std
        self.pixels: np.memmap = np.load(path, mmap_mode="r")
        self.side = img_size
        self.mapped = 0
        self.held: np.ndarray | None = None
        if self.pixels.shape[1] != img_size and len(rows) * img_size**2 * 3 <= _HELD_BYTES:
            self.place = np.full(len(self.pixels), -1)
            self.place[rows] = np.arange(len(rows))
            held = np.empty((len(rows), img_size, img_size, 3), np.uint8)
            for start in range(0, len(rows), _CHUNK):
                held[start : start + _CHUNK] = self.faces(rows[start : start + _CHUNK])
            self.held = held

    def faces(self, rows: np.ndarray) -> np.ndarray:
        """Rows to (N, side, side, 3) uint8, at the network's input size."""
        if self.held is not None:
            return self.held[self.place[rows]]
        pixels = self.pixels[rows]
        self.mapped += pixels.nbytes
        if self.mapped > _MAPPED_BYTES:
            self.release()
        return pixels if pixels.shape[1] == self.side else resized(pixels, self.side)

    def release(self) -> None:
        """Release the mapped pages; the next access maps them again."""
        mapped: Any = self.pixels.base
        mapped.madvise(mmap.MADV_DONTNEED)
        self.mapped = 0

    def images(self, rows: np.ndarray, device: torch.device) -> Tensor:
        """Rows to float images (N, 3, side, side) in [0, 1], channels last, on the device."""
        pixels = torch.from_numpy(self.faces(rows)).to(device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2).float().div_(255)

    def normalize(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the network is fed them."""
        return normalize(images, self.mean, self.std)


def resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """Faces (N, any, any, 3) uint8 at another side, as the network sees them."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    resized = interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).contiguous().numpy()


def training_batches(
    store: FaceStore,
    targets: Tensor,
    rows: np.ndarray,
    batch_size: int,
    augmentation: Augmentation,
    order_seed: int,
    augment_seed: int,
    device: torch.device,
    first: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One epoch: ``rows`` in random order as (images, targets, rows); a last batch that is not full is left out.

    ``targets`` is indexed by row: (rows,) class numbers or (rows, C) soft labels. Begins with batch ``first``; each
    batch draws its augmentation from a stream of its own, so that it is the same wherever the epoch begins. Of
    ``world`` processes that share each batch, this one gets part ``rank``.
    """
    order = np.random.default_rng(order_seed).permutation(rows)
    size = min(batch_size, len(order))
    own = size // world
    for step in range(first, len(order) // size):
        batch = order[step * size + rank * own :][:own]
        augment = Augment(augmentation, stream(augment_seed, "step", step))
        images = store.normalize(augment(store.images(batch, device)))
        images = augment.erase(images).contiguous(memory_format=torch.channels_last)
        numbers = torch.from_numpy(batch)
        yield images, targets[numbers].to(device, non_blocking=True), numbers.to(device, non_blocking=True)


def normalize(images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] to mean 0 and standard deviation 1, of ImageNet's where no other is given."""
    shift, scale = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    return (images - shift) / scale


def evaluation_batches(
    store: FaceStore, rows: np.ndarray, device: torch.device, batch_size: int = 256
) -> Iterator[Tensor]:
    """``rows`` in order as normalised images, without augmentation."""
    for start in range(0, len(rows), batch_size):
        yield store.normalize(store.images(rows[start : start + batch_size], device))
