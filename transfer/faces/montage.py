"""Pictures of many faces: tiles with captions, in sections, always in the same layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from transfer.files import atomic

SIDE = 112
COLUMNS = 8
_GAP = 6
_LINE = 13
_TITLE = 26
_LETTERS = 19


class Tile(NamedTuple):
    """A picture (H, W, 3) uint8 with the lines that stand below it."""

    pixels: np.ndarray
    caption: tuple[str, str]


def montage(path: Path, sections: Sequence[tuple[str, Sequence[Tile]]]) -> None:
    """Write a PNG: per section a title and its tiles, ``COLUMNS`` in a row; a section without tiles says "none".

    Each picture is fitted into a square of ``SIDE`` pixels without changing its proportions.
    """
    step = SIDE + 2 * _LINE + _GAP
    heights = [_TITLE + max(1, -(-len(tiles) // COLUMNS)) * step if tiles else _TITLE for _, tiles in sections]
    width = COLUMNS * (SIDE + _GAP) + _GAP
    picture = Image.new("RGB", (width, sum(heights) + _GAP), "white")
    draw = ImageDraw.Draw(picture)
    title_font, font = ImageFont.load_default(14), ImageFont.load_default(10)
    top = 0
    for (title, tiles), height in zip(sections, heights, strict=True):
        draw.text((_GAP, top + _GAP), title if tiles else f"{title}: none", "black", title_font)
        for i, tile in enumerate(tiles):
            x, y = _GAP + i % COLUMNS * (SIDE + _GAP), top + _TITLE + i // COLUMNS * step
            fitted = _fitted(tile.pixels)
            picture.paste(fitted, (x + (SIDE - fitted.width) // 2, y + (SIDE - fitted.height) // 2))
            for line, text in enumerate(tile.caption):
                draw.text((x, y + SIDE + line * _LINE), _shortened(text), "black", font)
        top += height
    with atomic(path) as part:
        picture.save(part)


def _fitted(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    factor = SIDE / max(image.size)
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))


def _shortened(text: str) -> str:
    """The end of a long name, which is what tells samples apart."""
    return text if len(text) <= _LETTERS else ".." + text[2 - _LETTERS :]
