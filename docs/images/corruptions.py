"""Draws docs/images/corruptions.png, a drawn face under each corruption, in the root of the repository:

python docs/images/corruptions.py
"""

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from transfer.datasets.synthetic.render import render_face
from transfer.evaluation.robustness import CLEAN, corrupted
from transfer.faces.align import similarity, template, warp
from transfer.params.train import SEVERITIES

SIZE = 112


def main() -> None:
    """One row per corruption: the clean face, and the face at each severity of the full list."""
    drawn = render_face(np.random.default_rng(4), "happiness", 0.9, 160)
    points = template(SIZE)
    face = warp(drawn.image, similarity(drawn.landmarks[None], points)[0], SIZE)
    columns = 1 + max(len(scale.severities) for scale in SEVERITIES.values())
    figure = Figure(figsize=(7.6, 12), layout="constrained")
    for axes, (name, scale) in zip(figure.subplots(len(SEVERITIES), columns), SEVERITIES.items(), strict=True):
        for axis, severity in zip(axes, [0, *scale.severities], strict=True):
            kind = name if severity else CLEAN
            axis.imshow(corrupted(face[None], kind, severity, [3], points)[0])
            axis.set_title(f"{severity:g}" if severity else "clean", fontsize=8)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[0].set_ylabel(name, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=90)
    Image.open(picture).convert("RGB").quantize(256).save("docs/images/corruptions.png", optimize=True)


if __name__ == "__main__":
    main()
