import numpy as np
import pandas as pd
import pytest
from drawn import assert_same_twice, line, title

from transfer.evaluation.calibration import calibration, reliability_curve
from transfer.tables.kinds.calibration import reliability_figure
from transfer.utils.plots import About

ABOUT = About("demo", "rafdb", "last")


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
    figure = reliability_figure(curves(["baseline"], 2), ABOUT)
    axes, below = figure.axes
    probabilities, labels = (np.concatenate(parts) for parts in zip(run(0), run(1), strict=True))
    expected = reliability_curve(probabilities, labels).dropna()
    bars, gaps = axes.containers
    assert [bar.get_x() for bar in bars] == pytest.approx(expected["low"].tolist())
    assert [bar.get_height() for bar in bars] == pytest.approx(expected["accuracy"].tolist())
    assert [bar.get_y() + bar.get_height() for bar in gaps] == pytest.approx(expected["confidence"].tolist())
    assert line(axes, "mean confidence")[1] == pytest.approx(expected["confidence"].tolist())
    assert [bar.get_height() for bar in below.containers[0]] == expected["n"].tolist()
    assert title(figure) == "Reliability, bins summed over the seeds demo, rafdb, last, n=2 seeds"


def test_ece_is_that_of_each_seed():
    values = [calibration(*run(seed))["ece"] for seed in range(3)]
    axes = reliability_figure(curves(["baseline"], 3), ABOUT).axes[0]
    assert axes.get_title() == f"baseline: ECE {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    axes = reliability_figure(curves(["baseline"], 1), ABOUT).axes[0]
    assert axes.get_title() == f"baseline: ECE {values[0]:.3f}"


def test_a_panel_per_recipe_and_no_empty_ones():
    figure = reliability_figure(curves(["baseline", "msad", "full", "other"], 1), ABOUT)
    titles = [axes.get_title().split(":")[0] for axes in figure.axes if axes.get_title()]
    assert titles == ["baseline", "MSAD alone", "full", "other"]
    assert len(figure.axes) == 8
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean confidence", "accuracy", "gap"]


def test_same_twice(tmp_path):
    assert_same_twice(lambda: reliability_figure(curves(["baseline", "full"], 2), ABOUT), tmp_path)
