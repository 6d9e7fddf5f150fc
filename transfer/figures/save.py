"""How figures become files: the same bytes every time."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from transfer.errors import UserError
from transfer.files import atomic

_METADATA = {".png": {"Software": None}, ".svg": {"Date": None}}


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as .png or .svg, by the end of its name; letters of an svg are outlines and need no font.

    Raises UserError for another kind of file.
    """
    if path.suffix not in _METADATA:
        raise UserError(f"{path}: expected a name that ends in {' or '.join(_METADATA)}")
    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "path"}), atomic(path) as part:
        figure.savefig(part, dpi=dpi, metadata=_METADATA[path.suffix])
