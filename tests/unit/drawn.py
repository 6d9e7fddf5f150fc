"""What tests look at in figures: their words, their lines, and whether they are the same twice."""

import matplotlib
import numpy as np

from transfer.utils.plots import save_captioned


def title(figure):
    """The figure's title, however it was broken into lines."""
    return " ".join(figure.get_suptitle().split())


def words(axes):
    return [text.get_text() for text in axes.texts]


def line(axes, label):
    """x and y of the line of this label; of an errorbar the line through its points."""
    for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
        if name == label:
            return np.array(getattr(handle, "lines", [handle])[0].get_data()).tolist()
    raise AssertionError(f"no {label}")


def assert_same_twice(draw, folder):
    """Whatever settings of matplotlib its user has: equal bytes, and nothing of the time or the machine in them."""
    first = save_captioned(draw(), folder / "first" / "figure", {})
    with matplotlib.rc_context(
        {"axes.labelsize": 30, "lines.linewidth": 9, "svg.fonttype": "none", "savefig.facecolor": "red"}
    ):
        second = save_captioned(draw(), folder / "second" / "figure", {})
    assert [path.name for path in first] == ["figure.png", "figure.svg", "figure.json"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    svg = first[1].read_text()
    assert "<dc:date>" not in svg
    assert "<text" not in svg  # letters are outlines: no font of the reader's
    assert sorted(path.name for path in (folder / "first").iterdir()) == ["figure.json", "figure.png", "figure.svg"]
