import pandas as pd
import pytest
from drawn import assert_same_twice, line, title

from transfer.tables.kinds.robustness import robustness_figure
from transfer.utils.plots import About

ABOUT = About("demo", "rafdb", "last")
FRAME = pd.DataFrame(
    [
        (corruption, severity, recipe, seed, 0.85 - severity / 10 - seed / 10 - gap, untouched + seed / 50)
        for corruption, severities, untouched in (("blur", (2.0, 1.0), 0.9), ("low_resolution", (2.0, 4.0), 0.8))
        for severity in severities
        for recipe, gap in (("baseline", 0.05), ("full", 0))
        for seed in (0, 1)
    ],
    columns=["corruption", "severity", "recipe", "seed", "accuracy", "untouched_accuracy"],
)
SCALES = {"untouched": {"blur": 0.0, "low_resolution": 1.0}, "units": {"blur": "sigma", "low_resolution": "factor"}}


def test_a_line_per_recipe_that_begins_with_the_untouched_faces():
    figure = robustness_figure(FRAME, ABOUT, **SCALES)
    blur, resolution = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["blur", "low resolution"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["sigma", "factor"]
    # means over the seeds: 0.8 - severity / 10 - 0.05
    assert line(blur, "baseline") == [[0, 1, 2], pytest.approx([91, 65, 55])]
    assert line(blur, "full") == [[0, 1, 2], pytest.approx([91, 70, 60])]
    assert line(resolution, "baseline") == [[1, 2, 4], pytest.approx([81, 55, 35])]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["baseline", "full"]
    assert title(figure) == (
        "Accuracy on corrupted test faces: mean, bars from lowest to highest seed demo, rafdb, last, n=2 seeds"
    )


def test_bars_go_from_lowest_to_highest_seed():
    bars = robustness_figure(FRAME, ABOUT, **SCALES).axes[0].containers[0].lines[2][0].get_segments()
    assert [tuple(bar[:, 1].round(6)) for bar in bars] == [(90, 92), (60, 70), (50, 60)]


def test_one_seed_says_nothing_of_bars():
    figure = robustness_figure(FRAME[FRAME["seed"] == 0], ABOUT, **SCALES)
    assert title(figure) == "Accuracy on corrupted test faces demo, rafdb, last, n=1 seed"


def test_same_twice(tmp_path):
    assert_same_twice(lambda: robustness_figure(FRAME, ABOUT, **SCALES), tmp_path)
