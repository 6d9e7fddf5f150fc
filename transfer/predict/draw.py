"""Boxes and bars on a picture, and where the network looked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from transfer.predict.results import Face, Photo
from transfer.utils.files import atomic

_BARS = 3
_BOX, _BACK, _BAR, _TEXT = (255, 176, 0), (20, 20, 20), (90, 160, 255), (255, 255, 255)


def annotated(image: np.ndarray, photo: Photo) -> Image.Image:
    """A picture (H, W, 3) uint8 with each face's box, and bars of its most probable expressions."""
    drawn = Image.fromarray(image)
    draw = ImageDraw.Draw(drawn)
    unit = max(10, round(min(drawn.size) / 45))
    for face in photo.faces[::-1]:  # the largest on top
        left, top, right, bottom = face.box
        draw.rectangle((left, top, right, bottom), outline=_BOX, width=max(2, unit // 8))
        _bars(draw, face, left, bottom, unit, drawn.size)
    return drawn


def _bars(draw: ImageDraw.ImageDraw, face: Face, left: float, bottom: float, unit: int, size: tuple[int, int]) -> None:
    """A row per expression below the box, or inside it where the picture ends."""
    font = ImageFont.load_default(unit)
    best = sorted(face.probabilities.items(), key=lambda pair: -pair[1])[:_BARS]
    lines = [(f"{name} {value:.0%}", value) for name, value in best]
    wide = max(draw.textlength(text, font) for text, _ in lines) + unit
    row = round(1.35 * unit)
    x, y = max(0, min(left, size[0] - wide)), max(0, min(bottom, size[1] - row * len(lines)))
    for number, (text, value) in enumerate(lines):
        top = y + number * row
        draw.rectangle((x, top, x + wide, top + row), fill=_BACK)
        draw.rectangle((x, top, x + wide * value, top + row), fill=_BAR)
        draw.text((x + unit / 2, top + row / 2), text, _TEXT, font, anchor="lm")


def save(drawn: Image.Image, path: Path) -> None:
    """Write a drawn picture, whole or not at all."""
    with atomic(path) as part:
        drawn.save(part, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else path.suffix[1:].upper(), quality=92)


def save_attention(faces: Sequence[Face], title: str, path: Path) -> None:
    """A figure of a row per face: the aligned face, the relevance of its expression, each LANet's map."""
    from transfer.explain.attention import Tile, draw_grid, lanet_tile
    from transfer.utils.plots import save as save_figure

    rows = []
    for number, face in enumerate(faces, 1):
        assert face.aligned is not None and face.lanets is not None
        tiles = [Tile(face.aligned), Tile(face.aligned, face.relevance, f"{face.expression} {face.probability:.2f}")]
        tiles += [lanet_tile(face.aligned, heat) for heat in face.lanets]
        rows.append((str(number), tiles))
    headings = ["face", "relevance", *(f"LANet {k + 1}" for k in range(len(rows[0][1]) - 2))]
    save_figure(draw_grid(title, headings, rows), path)
