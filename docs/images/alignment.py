"""Draws docs/images/alignment.png, the templates on a synthetic face: python docs/images/alignment.py, in the root."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from transfer.datasets.synthetic.render import render_face
from transfer.faces.align import BOX_COLUMNS, placements, template, warp

SIZE = 112
OWN = [[0.28, 0.38], [0.72, 0.38], [0.5, 0.6], [0.33, 0.8], [0.67, 0.8]]
CASES = [
    ("arcface", "arcface", 0.0),
    ("arcface, margin: 0.15", "arcface", 0.15),
    ("five points of one's own", OWN, 0.0),
    ("box, margin: 0.1", "box", 0.1),
]


def main() -> None:
    """Draw the face whose head leans most, and its alignment by each template."""
    faces = (render_face(np.random.default_rng(seed), "happiness", 0.8, 200) for seed in range(40))
    face = max(faces, key=lambda face: abs(np.subtract(*face.landmarks[:2])[1]))
    boxes = pd.DataFrame([face.box], columns=BOX_COLUMNS)
    figure = Figure(figsize=(10, 2.25), layout="constrained")
    axes = figure.subplots(1, 1 + len(CASES))
    x0, y0, x1, y1 = face.box
    axes[0].imshow(face.image)
    axes[0].plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="white", linewidth=1)
    axes[0].plot(*face.landmarks.T, "o", color="black", markeredgecolor="white", markersize=5)
    axes[0].set_title("image, landmarks, box", fontsize=9)
    for axis, (title, kind, margin) in zip(axes[1:], CASES, strict=True):
        matrix = placements(face.landmarks[None], boxes, kind, SIZE, margin)[0]
        axis.imshow(warp(face.image, matrix, SIZE))
        if kind != "box":
            points = template(SIZE, margin, None if kind == "arcface" else kind)
            axis.plot(*points.T, "+", color="white", markersize=9, markeredgewidth=1.5)
        axis.set_title(title, fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    figure.savefig("docs/images/alignment.png", dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
