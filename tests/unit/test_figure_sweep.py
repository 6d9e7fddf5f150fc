import numpy as np
import pandas as pd
import pytest
from drawn import assert_same_twice, line, title, words

from transfer.evaluation.statistics import summary
from transfer.tables.kinds.recipes import grid_figure, sweep_figure
from transfer.utils.plots import About

ABOUT = About("grid", "rafdb", "last")
SWEEP = pd.DataFrame(
    [(2, 0, 0.6), (0, 0, 0.5), (0, 1, 0.52), (2, 1, 0.66)],
    columns=["value", "seed", "accuracy"],
)
GRID = pd.DataFrame(
    [
        (0.0, 0.0, 0, 0.5),
        (0.0, 0.0, 1, 0.54),
        (0.4, 0.0, 0, 0.6),
        (0.4, 0.0, 1, 0.6),
        (0.0, 0.2, 0, 0.7),
        (0.0, 0.2, 1, 0.72),
    ],
    columns=["first", "second", "seed", "accuracy"],
)


def test_a_point_per_seed_and_a_line_through_the_means():
    figure = sweep_figure(SWEEP, "LANets", ABOUT)
    (axes,) = figure.axes
    assert line(axes, "one seed") == [[2, 0, 0, 2], [60, 50, 52, 66]]
    assert line(axes, "mean, 95 % interval") == [[0, 2], [51, 63]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("LANets", "accuracy (%)")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "2"]
    assert title(figure) == "Accuracy by LANets grid, rafdb, last, n=2 seeds"


def test_bars_are_students_interval():
    (axes,) = sweep_figure(SWEEP, "LANets", ABOUT).axes
    expected = [summary([0.5, 0.52]), summary([0.6, 0.66])]
    bars = [segment for bars in axes.collections for segment in bars.get_segments()]
    assert len(bars) == 2
    for bar, value in zip(bars, expected, strict=True):
        assert bar[:, 1] == pytest.approx([100 * value.ci95_low, 100 * value.ci95_high])


def test_one_seed_has_no_bars():
    (axes,) = sweep_figure(SWEEP[SWEEP["seed"] == 0], "LANets", ABOUT).axes
    assert not axes.collections
    assert axes.get_legend() is None


def test_grid_has_a_cell_per_pair_and_a_line_per_second_number():
    figure = grid_figure(GRID, ("p1", "p2"), ABOUT)
    heat, lines = figure.axes
    shown = heat.images[0].get_array().filled(np.nan)
    assert shown == pytest.approx(np.array([[52, 60], [71, np.nan]]), nan_ok=True)
    assert words(heat) == ["52.00\n± 2.83", "60.00\n± 0.00", "71.00\n± 1.41", "–"]
    assert heat.images[0].origin == "lower"
    assert (heat.get_xlabel(), heat.get_ylabel(), lines.get_xlabel()) == ("p1", "p2", "p1")
    for label, x, y in (("0", [0, 0.4], [52, 60]), ("0.2", [0], [71])):
        found = line(lines, label)
        assert found[0] == pytest.approx(x, abs=0.004)  # a little beside
        assert found[1] == pytest.approx(y)
    assert title(figure) == "Accuracy by p1 and p2 grid, rafdb, last, n=2 seeds"


def test_grid_of_one_seed():
    heat, lines = grid_figure(GRID[GRID["seed"] == 0], ("p1", "p2"), ABOUT).axes
    assert words(heat) == ["50.00", "60.00", "70.00", "–"]
    assert line(lines, "0") == [[0, 0.4], [50, 60]]
    assert not lines.collections


@pytest.mark.parametrize(
    "draw", [lambda: sweep_figure(SWEEP, "B", ABOUT), lambda: grid_figure(GRID, ("a", "b"), ABOUT)]
)
def test_same_twice(draw, tmp_path):
    assert_same_twice(draw, tmp_path)
