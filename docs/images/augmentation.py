"""Draws docs/images/augmentation.png, a batch and what each augmentation makes of it, in the root of the repository:

python docs/images/augmentation.py
"""

import io

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from transfer.datasets.synthetic.render import EXPRESSIONS, render_face
from transfer.models.transfer import IMAGENET_MEAN, IMAGENET_STD
from transfer.params import Augmentation
from transfer.training.augment import Augment
from transfer.training.batches import normalize

SIZE, FACES = 112, 10
OFF = {"rotate": 0, "crop_scale": (1, 1), "flip": 0, "grey": 0, "jitter": 0, "erase": 0}
ROWS = {
    "as they are": OFF,
    "rotate": OFF | {"rotate": 0.5},
    "crop_scale": OFF | {"crop_scale": (0.8, 1)},
    "flip": OFF | {"flip": 0.5},
    "grey": OFF | {"grey": 0.2},
    "jitter": OFF | {"jitter": 0.8},
    "erase": OFF | {"erase": 0.5},
    "all": {},
}


def main() -> None:
    """One row per augmentation, drawn with the default values; the last row is what a training sees."""
    names = list(EXPRESSIONS)
    faces = [
        render_face(np.random.default_rng(seed), names[seed % len(names)], 0.8, SIZE).image for seed in range(FACES)
    ]
    batch = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2) / 255
    figure = Figure(figsize=(10, 8.2), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(len(ROWS), FACES), ROWS.items(), strict=True):
        for axis, face in zip(axes, augmented(batch, Augmentation(**values)), strict=True):
            axis.imshow(face.permute(1, 2, 0).numpy())
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[0].set_ylabel(title, fontsize=9)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    Image.open(drawn).convert("RGB").quantize(128).save("docs/images/augmentation.png", optimize=True)


def augmented(images: Tensor, params: Augmentation) -> Tensor:
    """A batch as the training sees it, with the normalisation taken back, so that it can be shown."""
    augment = Augment(params, 3)
    made = augment.erase(normalize(augment(images)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (made * std + mean).clamp(0, 1)


if __name__ == "__main__":
    main()
