"""Pictures in rows and columns, with headings and a line under each."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from transfer.figures.overlay import overlay

_SIDE, _GAP, _LINE = 1.15, 0.07, 0.2  # inches
_LEFT, _EDGE = 0.85, 0.08


class Tile(NamedTuple):
    """A face (S, S, 3) uint8, perhaps under a heat map (S, S) from 0 to 1, and the line that stands under it."""

    face: np.ndarray
    heat: np.ndarray | None = None
    text: str = ""


def draw_grid(title: str, headings: Sequence[str], rows: Sequence[tuple[str, Sequence[Tile]]]) -> Figure:
    """A figure of rows, each a name and as many tiles as there are headings.

    A white line in a heat map goes where it is half way up, so that it can be read without colours.
    """
    step = _SIDE + _GAP + _LINE
    width = _LEFT + len(headings) * (_SIDE + _GAP) + _EDGE
    height = 2 * _LINE + 2 * _EDGE + len(rows) * step
    figure = Figure(figsize=(width, height))

    def text(x: float, y: float, words: str, **style: object) -> None:
        figure.text(x / width, 1 - y / height, words, **{"fontsize": 8, "ha": "center", "va": "center"} | style)

    text(_EDGE, _EDGE + _LINE / 2, title, ha="left")
    middles = [_LEFT + i * (_SIDE + _GAP) + _SIDE / 2 for i in range(len(headings))]
    for x, heading in zip(middles, headings, strict=True):
        text(x, _EDGE + 1.5 * _LINE, heading, weight="bold")
    for number, (name, tiles) in enumerate(rows):
        top = _EDGE + 2 * _LINE + number * step
        text(_LEFT - _GAP, top + _SIDE / 2, name, ha="right")
        for x, tile in zip(middles, tiles, strict=True):
            place = [(x - _SIDE / 2) / width, 1 - (top + _SIDE) / height, _SIDE / width, _SIDE / height]
            axes = figure.add_axes(place)
            axes.set_axis_off()
            axes.imshow(tile.face if tile.heat is None else overlay(tile.face, tile.heat))
            if tile.heat is not None and tile.heat.min() < 0.5 < tile.heat.max():
                axes.contour(tile.heat, levels=[0.5], colors="white", linewidths=0.8)
            text(x, top + _SIDE + _LINE / 2, tile.text, fontsize=7)
    return figure
