"""How all figures look: readable in grey, the same bytes everywhere."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from transfer.utils.errors import UserError
from transfer.utils.files import atomic

_METADATA = {".png": {"Software": None}, ".svg": {"Date": None}}


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as .png or .svg, by the end of its name; letters of an svg are outlines and need no font.

    Raises UserError for another kind of file.
    """
    if path.suffix not in _METADATA:
        raise UserError(f"{path}: expected a name that ends in {' or '.join(_METADATA)}")
    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "path"}), atomic(path) as part:
        figure.savefig(part, dpi=dpi, metadata=_METADATA[path.suffix])


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


@dataclass(frozen=True)
class About:
    """What a figure's title says of its numbers; ``protocol`` is None where no epoch was chosen.

    ``note`` is what readers must know of the dataset ("drawn faces").
    """

    experiment: str
    dataset: str
    protocol: str | None
    note: str = ""

    def put_on(self, figure: Figure, what: str, seeds: int) -> None:
        """Write the title: what is seen, and of which experiment, dataset, protocol and number of seeds."""
        dataset = f"{self.dataset} ({self.note})" if self.note else self.dataset
        protocol = [self.protocol] if self.protocol else []
        of = ", ".join(
            [self.experiment, dataset, *protocol, f"n={seeds}\N{NO-BREAK SPACE}seed{'s' if seeds > 1 else ''}"]
        )
        width = int(figure.get_figwidth() * _LETTERS)
        figure.suptitle("\n".join([*wrap(what, width), *wrap(of, width)]))


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let ``draw`` make its figure in this style, whatever settings of matplotlib its user has."""

    @wraps(draw)
    def drawn(*arguments: Any, **named: Any) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_SETTINGS)
            return draw(*arguments, **named)

    return drawn


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return for each name the colour, dashes and marker of its line."""
    return {
        name: {
            "color": _COLOURS[i % len(_COLOURS)],
            "linestyle": _DASHES[i % len(_DASHES)],
            "marker": _MARKERS[i % len(_MARKERS)],
        }
        for i, name in enumerate(names)
    }


def save_pair(figure: Figure, stem: str | Path) -> list[Path]:
    """Write ``stem``.png and ``stem``.svg, each atomically, and return their paths; equal figures give equal bytes."""
    paths = [Path(f"{stem}{ending}") for ending in (".png", ".svg")]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for path in paths:
            save(figure, path)
    return paths


_NAMES = {
    "local_cnns": "+ Local CNNs",
    "local_cnns_mad": "+ MAD",
    "msad": "MSAD alone",
    "local_cnns_msad": "Local CNNs, MSAD",
}


def recipe_name(recipe: str) -> str:
    """The paper's name of a recipe of Table 1, as the columns of its figure; of others their own."""
    return _NAMES.get(recipe, recipe.replace("_", " "))
