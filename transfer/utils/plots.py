"""The look of all figures: readable in grey, the same bytes everywhere. Matplotlib is imported where it draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

from transfer.utils.errors import UserError
from transfer.utils.files import atomic, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_METADATA = {".png": {"Software": None}, ".svg": {"Date": None}}
_SETTINGS: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "hatch.linewidth": 0.5,
}
# Okabe and Ito's colours, which colour-blind readers tell apart. The three lengths have no common divisor: the first
# 280 lines all differ, the first 40 also without their colours.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_LETTERS = 13  # of a title in an inch
_NAMES = {
    "local_cnns": "+ Local CNNs",
    "local_cnns_mad": "+ MAD",
    "msad": "MSAD alone",
    "local_cnns_msad": "Local CNNs, MSAD",
}


def recipe_name(recipe: str) -> str:
    """The paper's name of a recipe of Table 1; of others their own."""
    return _NAMES.get(recipe, recipe.replace("_", " "))


@contextmanager
def style() -> Iterator[None]:
    """Draw in this style, regardless of the user's matplotlib settings."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def put_title(figure: Figure, *parts: str) -> None:
    """Write the title: what is shown, and of what; each on lines of its own that fit the figure."""
    width = int(figure.get_figwidth() * _LETTERS)
    figure.suptitle("\n".join(line for part in parts for line in wrap(part, width)))


def panels(
    number: int,
    size: tuple[float, float],
    margin: tuple[float, float],
    least: float,
    layout: Literal["constrained", "compressed"] = "constrained",
    **shared: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure with ``number`` panels of ``size`` in inches, up to three in a row, at least ``least`` wide."""
    from matplotlib.figure import Figure

    across = min(number, 3)
    down = math.ceil(number / across)
    width, height = across * size[0] + margin[0], down * size[1] + margin[1]
    figure = Figure(figsize=(max(width, least), height), layout=layout)
    every = list(figure.subplots(down, across, squeeze=False, **shared).flat)
    for axes in every[number:]:
        axes.remove()
    for axes in every[:number][-across:]:
        axes.tick_params(labelbottom=True)  # also where the row below is not full
    return figure, every[:number]


def line_styles(names: Iterable[Any]) -> dict[Any, dict[str, Any]]:
    """For each name the colour, dashes and marker of its line."""
    looks = zip(names, cycle(_COLOURS), cycle(_DASHES), cycle(_MARKERS), strict=False)
    return {name: {"color": colour, "linestyle": dashes, "marker": marker} for name, colour, dashes, marker in looks}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as .png or .svg, by the end of its name; equal figures give equal bytes.

    Letters of an svg are outlines and need no font. Raises UserError for another kind of file.
    """
    import matplotlib

    if path.suffix not in _METADATA:
        raise UserError(f"{path}: unknown kind of picture; use a name that ends in {' or '.join(_METADATA)}")
    with matplotlib.rc_context(), atomic(path) as part:
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": path.stem, "svg.fonttype": "path"})
        figure.savefig(part, dpi=150, metadata=_METADATA[path.suffix])


def save_captioned(figure: Figure, stem: Path, about: dict[str, Any]) -> list[Path]:
    """Write ``stem``.png, ``stem``.svg, and ``about`` with its caption as ``stem``.json; return their paths."""
    *pictures, text = [stem.with_name(f"{stem.name}{ending}") for ending in (*_METADATA, ".json")]
    for path in pictures:
        save(figure, path)
    write_json(text, about)
    return [*pictures, text]
