"""The figures of tables: what is drawn, where it is drawn, and how it looks."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from drawn import assert_same_twice, line, title, words
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from transfer.evaluation.calibration import calibration, reliability_curve
from transfer.evaluation.statistics import summary
from transfer.params.train import SEVERITIES
from transfer.tables.kinds.calibration import reliability_figure
from transfer.tables.kinds.per_class import confusion_figure
from transfer.tables.kinds.recipes import curves_figure, grid_figure, sweep_figure
from transfer.tables.kinds.robustness import robustness_figure
from transfer.utils.plots import line_styles, put_title, style

# ---- Confusion matrices

CLASSES = ["fear", "anger", "neutral"]
MATRICES = {
    "baseline": [np.array([[3, 1, 0], [0, 600, 400], [0, 0, 0]]), np.array([[2, 2, 0], [0, 500, 500], [0, 0, 0]])],
    "full": [[[4, 0, 0], [0, 1000, 0], [0, 0, 0]]] * 2,
}


def test_numbers_are_summed_over_the_seeds_and_shares_are_of_the_true_class():
    figure = confusion_figure(MATRICES, CLASSES)
    baseline, full = figure.axes
    # fear: 5 and 3 of 8; anger: 1100 and 900 of 2000; neutral has no face
    assert words(baseline) == ["62", "5", "38", "3", "55", "1,100", "45", "900"]
    assert words(full) == ["100", "8", "100", "2,000"]
    assert baseline.images[0].get_array().filled() == pytest.approx(np.array([[62.5, 37.5, 0], [0, 55, 45], [0, 0, 0]]))
    assert baseline.images[0].get_clim() == (0, 100)
    assert [axes.get_title() for axes in figure.axes] == ["baseline: 55.03 % of 2,008", "full: 100.00 % of 2,008"]
    for labels in (baseline.get_xticklabels(), baseline.get_yticklabels()):
        assert [label.get_text() for label in labels] == CLASSES
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("predicted", "true")
    colours = {text.get_text(): text.get_color() for text in baseline.texts}
    assert (colours["62"], colours["55"], colours["38"]) == ("white", "black", "black"), "letters can be read"


def test_no_empty_panels_are_left():
    panels = confusion_figure({str(i): MATRICES["full"] for i in range(4)}, CLASSES).axes
    assert [axes.get_title().split(":")[0] for axes in panels] == list("0123")
    assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in panels] == [False, True, True, True]


# ---- Learning curves

HISTORY = pd.DataFrame(
    [
        ("baseline", 0, 1, 2.0, 40.0),
        ("baseline", 0, 2, 1.0, 60.0),
        ("baseline", 1, 1, 3.0, 50.0),
        ("baseline", 1, 2, 2.0, 66.0),
        ("local_cnns", 0, 1, 2.2, 42.0),
        ("local_cnns", 0, 2, 1.2, 70.0),
        ("local_cnns", 1, 1, 2.2, 44.0),
        ("local_cnns", 1, 2, 1.4, 74.0),
    ],
    columns=["recipe", "seed", "epoch", "train_loss", "val_accuracy"],
)


def drawn_lines(axes):
    """y of the recipe's own line, and of the thin ones."""
    own = [line for line in axes.lines if line.get_color() == "black"]
    others = [line for line in axes.lines if line not in own]
    return tuple([line.get_ydata().round(9).tolist() for line in lines] for lines in (own, others))


def test_curves_have_a_column_per_recipe_with_its_mean_and_the_others():
    figure = curves_figure(HISTORY)
    loss, other_loss, accuracy, other_accuracy = figure.axes
    assert [axes.get_title() for axes in figure.axes[:2]] == ["baseline", "+ Local CNNs"]
    assert drawn_lines(loss) == ([[2.5, 1.5]], [[2.2, 1.3]])
    assert drawn_lines(other_loss) == ([[2.2, 1.3]], [[2.5, 1.5]])
    assert drawn_lines(accuracy) == ([[45.0, 63.0]], [[43.0, 72.0]])
    assert drawn_lines(other_accuracy) == ([[43.0, 72.0]], [[45.0, 63.0]])
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("training loss", "validation accuracy (%)")
    assert accuracy.get_xlabel() == "epoch"
    (band,) = accuracy.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert corners == {(1, 40), (1, 50), (2, 60), (2, 66)}, "from the lowest to the highest seed"


# ---- Reliability diagrams


def run(seed, n=200):
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(n, 4))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), generator.integers(4, size=n)


def curves(recipes, seeds):
    frames = [
        reliability_curve(*run(10 * i + seed)).assign(recipe=recipe, seed=seed)
        for i, recipe in enumerate(recipes)
        for seed in range(seeds)
    ]
    return pd.concat(frames)


def test_bars_are_the_accuracies_of_all_seeds_faces():
    (axes,) = reliability_figure(curves(["baseline"], 2)).axes
    probabilities, labels = (np.concatenate(parts) for parts in zip(run(0), run(1), strict=True))
    expected = reliability_curve(probabilities, labels).dropna()
    bars, gaps = axes.containers
    assert [bar.get_x() for bar in bars] == pytest.approx(expected["low"].tolist())
    assert [bar.get_height() for bar in bars] == pytest.approx(expected["accuracy"].tolist())
    assert [bar.get_y() + bar.get_height() for bar in gaps] == pytest.approx(expected["confidence"].tolist())
    assert line(axes, "mean confidence")[1] == pytest.approx(expected["confidence"].tolist())
    assert words(axes) == [str(n) for n in expected["n"]]


def test_ece_is_that_of_each_seed():
    values = [calibration(*run(seed))["ece"] for seed in range(3)]
    axes = reliability_figure(curves(["baseline"], 3)).axes[0]
    assert axes.get_title() == f"baseline: ECE {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    axes = reliability_figure(curves(["baseline"], 1)).axes[0]
    assert axes.get_title() == f"baseline: ECE {values[0]:.3f}"


def test_reliability_has_a_panel_per_recipe():
    figure = reliability_figure(curves(["baseline", "msad", "full", "other"], 1))
    assert [axes.get_title().split(":")[0] for axes in figure.axes] == ["baseline", "MSAD alone", "full", "other"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean confidence", "accuracy", "gap"]


# ---- Robustness

CORRUPTED = pd.DataFrame(
    [
        (corruption, severity, recipe, seed, 0.85 - severity / 10 - seed / 10 - gap, clean + seed / 50)
        for corruption, severities, clean in (("blur", (2.0, 1.0), 0.9), ("low_resolution", (2.0, 4.0), 0.8))
        for severity in severities
        for recipe, gap in (("baseline", 0.05), ("full", 0))
        for seed in (0, 1)
    ],
    columns=["corruption", "severity", "recipe", "seed", "accuracy", "untouched_accuracy"],
)


def test_a_line_per_recipe_begins_with_the_clean_faces():
    figure = robustness_figure(CORRUPTED)
    blur, resolution = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["blur", "low resolution"]
    assert [axes.get_xlabel() for axes in figure.axes] == [SEVERITIES[n].unit for n in ("blur", "low_resolution")]
    # means over the seeds: 0.8 - severity / 10 - 0.05
    assert line(blur, "baseline") == [[0, 1, 2], pytest.approx([91, 65, 55])]
    assert line(blur, "full") == [[0, 1, 2], pytest.approx([91, 70, 60])]
    assert line(resolution, "baseline") == [[1, 2, 4], pytest.approx([81, 55, 35])]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["baseline", "full"]
    bars = blur.containers[0].lines[2][0].get_segments()
    assert [tuple(bar[:, 1].round(6)) for bar in bars] == [(90, 92), (60, 70), (50, 60)], "lowest and highest seed"


# ---- Sweeps

SWEEP = pd.DataFrame(
    [(2, 0, 0.6), (0, 0, 0.5), (0, 1, 0.52), (2, 1, 0.66)],
    columns=["first", "seed", "accuracy"],
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


def test_a_sweep_has_a_point_per_seed_and_a_line_through_the_means():
    (axes,) = sweep_figure(SWEEP, "LANets").axes
    assert line(axes, "one seed") == [[2, 0, 0, 2], [60, 50, 52, 66]]
    assert line(axes, "mean, 95 % interval") == [[0, 2], [51, 63]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("LANets", "accuracy (%)")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "2"]
    bars = [segment for bars in axes.collections for segment in bars.get_segments()]
    for bar, value in zip(bars, [summary([0.5, 0.52]), summary([0.6, 0.66])], strict=True):
        assert bar[:, 1] == pytest.approx([100 * value.ci95_low, 100 * value.ci95_high])


def test_a_sweep_over_names():
    named = SWEEP.assign(first=SWEEP["first"].map({0: "none", 2: "sqrt"}))
    (axes,) = sweep_figure(named, "upsample").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["none", "sqrt"]


def test_one_seed_has_no_bars():
    (axes,) = sweep_figure(SWEEP[SWEEP["seed"] == 0], "LANets").axes
    assert not axes.collections
    assert axes.get_legend() is None


def test_a_grid_has_a_cell_per_pair():
    (axes,) = grid_figure(GRID, ("p1", "p2")).axes
    shown = axes.images[0].get_array().filled(np.nan)
    assert shown == pytest.approx(np.array([[52, 60], [71, np.nan]]), nan_ok=True)
    assert words(axes) == ["52.00\n± 2.83", "60.00\n± 0.00", "71.00\n± 1.41", "–"]
    assert axes.images[0].origin == "lower"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("p1", "p2")
    assert words(grid_figure(GRID[GRID["seed"] == 0], ("p1", "p2")).axes[0]) == ["50.00", "60.00", "70.00", "–"]


# ---- The look


@pytest.mark.parametrize(
    "draw",
    [
        lambda: confusion_figure(MATRICES, CLASSES),
        lambda: curves_figure(HISTORY),
        lambda: reliability_figure(curves(["baseline", "full"], 2)),
        lambda: robustness_figure(CORRUPTED),
    ],
    ids=["confusion", "curves", "reliability", "robustness"],
)
def test_same_twice(draw, tmp_path):
    def drawn():
        with style():
            return draw()

    assert_same_twice(drawn, tmp_path)


def test_a_long_title_is_broken_where_the_figure_ends():
    with style():
        figure = Figure(figsize=(3, 3), layout="constrained")
        put_title(figure, "Accuracy", "ferplus-cpu, ferplus_dev_majority, val_selected, 3 seeds, 3,191 test faces")
    assert figure.get_suptitle().startswith("Accuracy\nferplus-cpu")
    assert title(figure).endswith("val_selected, 3 seeds, 3,191 test faces")
    figure.draw_without_rendering()
    extent = figure._suptitle.get_window_extent()
    assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width


def test_lines_differ_also_without_colours():
    styles = line_styles([f"recipe{i}" for i in range(40)])
    assert len({(each["linestyle"], each["marker"]) for each in styles.values()}) == 40
    assert all(sum(to_rgb(each["color"])) / 3 < 0.75 for each in styles.values()), "visible on white"


def test_the_style_leaves_no_trace():
    with matplotlib.rc_context({"axes.titlesize": 40}):
        with style():
            assert Figure().subplots().title.get_fontsize() == 8
        assert matplotlib.rcParams["axes.titlesize"] == 40
