"""The training loop that many FER repositories have, to measure against; `transfer train` uses nothing of it.

fp32 in torch's own memory order, JPEG files decoded and augmented one by one with torchvision on PIL images, dropping
by a loop over the samples, the loss fetched at every step.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from transfer.models.dropping import MAD, MSAD
from transfer.models.ir50 import PReLU
from transfer.models.registry import IMAGENET_MEAN, IMAGENET_STD
from transfer.params import Augmentation, TrainParams


class Faces(Dataset):
    """JPEG files and class numbers; an item is a normalised (3, side, side) image, augmented, and its class."""

    def __init__(self, files: Sequence[Path], labels: Sequence[int], side: int, augmentation: Augmentation) -> None:
        self.files, self.labels = files, labels
        self.transform = pil_transforms(augmentation, side)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


def pil_transforms(p: Augmentation, side: int) -> transforms.Compose:
    """The augmentation of :class:`transfer.training.augment.Augment`, in torchvision's words."""
    return transforms.Compose(
        [
            transforms.RandomApply([transforms.RandomRotation(p.degrees)], p.rotate),
            transforms.RandomResizedCrop(side, scale=p.crop_scale, ratio=(1, 1)),
            transforms.RandomHorizontalFlip(p.flip),
            transforms.RandomGrayscale(p.grey),
            transforms.RandomApply([transforms.ColorJitter(p.brightness, p.contrast, p.saturation, p.hue)], p.jitter),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            transforms.RandomErasing(p.erase, scale=p.erase_scale),
        ]
    )


class DropInALoop(nn.Module):
    """MAD or MSAD, sample by sample."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Branches (N, branches, ., .)."""
        if not self.training:
            return x
        x = x.clone()
        for sample in range(len(x)):
            if random.random() < self.rate:
                x[sample, random.randrange(x.shape[1])] = 0
        return x


def make_plain(model: nn.Module) -> nn.Module:
    """Replace the fast parts of a network by plain ones, in place; the parameters stay."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PReLU):
                twin: nn.Module = nn.PReLU(child.num_parameters)
                twin.weight = child.weight
            elif isinstance(child, MAD | MSAD):
                twin = DropInALoop(child.rate)
            else:
                continue
            setattr(parent, name, twin.train(child.training))
    return model


def plain_steps(
    model: nn.Module, faces: Faces, batch_size: int, params: TrainParams, device: torch.device, workers: int
) -> Callable[[int], None]:
    """So many steps on batches of random faces, which ``workers`` processes decode and augment (0: this one)."""
    model = make_plain(model).to(device).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=params.lr, momentum=params.momentum, weight_decay=params.weight_decay
    )
    chosen: list[list[int]] = []
    loader = DataLoader(
        faces,
        batch_sampler=chosen,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )

    def train(steps: int) -> None:
        chosen[:] = [random.choices(range(len(faces)), k=batch_size) for _ in range(steps)]
        total_loss, correct = 0.0, 0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            logits = model(images)
            loss = cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total_loss += loss.item()
            correct += (logits.argmax(dim=1) == labels).sum().item()

    return train
