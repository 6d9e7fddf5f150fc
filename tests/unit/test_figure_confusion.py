import numpy as np
import pytest
from drawn import assert_same_twice, title, words

from transfer.tables.kinds.per_class import confusion_figure
from transfer.utils.plots import About

ABOUT = About("demo", "rafdb", "last")
CLASSES = ["fear", "anger", "neutral"]
MATRICES = {
    "baseline": [np.array([[3, 1, 0], [0, 600, 400], [0, 0, 0]]), np.array([[2, 2, 0], [0, 500, 500], [0, 0, 0]])],
    "full": [np.array([[4, 0, 0], [0, 1000, 0], [0, 0, 0]])] * 2,
}


def test_numbers_are_summed_over_the_seeds_and_shares_are_of_the_true_class():
    figure = confusion_figure(MATRICES, CLASSES, ABOUT)
    baseline, full = figure.axes
    # fear: 5 and 3 of 8; anger: 1100 and 900 of 2000; neutral has no face
    assert words(baseline) == ["62", "5", "38", "3", "55", "1,100", "45", "900"]
    assert words(full) == ["100", "8", "100", "2,000"]
    assert baseline.images[0].get_array().filled() == pytest.approx(np.array([[62.5, 37.5, 0], [0, 55, 45], [0, 0, 0]]))
    assert baseline.images[0].get_clim() == (0, 100)
    assert [axes.get_title() for axes in figure.axes] == ["baseline: 55.03 % of 2,008", "full: 100.00 % of 2,008"]
    assert "demo, rafdb, last, n=2 seeds" in title(figure)


def test_classes_are_named_on_both_sides():
    figure = confusion_figure(MATRICES, CLASSES, ABOUT)
    for labels in (figure.axes[0].get_xticklabels(), figure.axes[0].get_yticklabels()):
        assert [label.get_text() for label in labels] == CLASSES
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("predicted", "true")


def test_letters_are_seen_on_their_cell():
    colours = {text.get_text(): text.get_color() for text in confusion_figure(MATRICES, CLASSES, ABOUT).axes[0].texts}
    assert (colours["62"], colours["55"], colours["38"]) == ("white", "black", "black")


def test_no_empty_panels_are_left():
    four = {str(i): MATRICES["full"] for i in range(4)}
    panels = confusion_figure(four, CLASSES, ABOUT).axes
    assert [axes.get_title().split(":")[0] for axes in panels] == list("0123")
    assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in panels] == [False, True, True, True]


def test_same_twice(tmp_path):
    assert_same_twice(lambda: confusion_figure(MATRICES, CLASSES, ABOUT), tmp_path)
