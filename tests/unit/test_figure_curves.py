import pandas as pd
from drawn import assert_same_twice, title

from transfer.tables.kinds.recipes import curves_figure
from transfer.utils.plots import About

ABOUT = About("demo", "rafdb", None)
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


def test_a_column_per_recipe_with_its_mean_and_the_others():
    figure = curves_figure(HISTORY, ABOUT)
    loss, other_loss, accuracy, other_accuracy = figure.axes
    assert [axes.get_title() for axes in figure.axes[:2]] == ["baseline", "+ Local CNNs"]
    assert drawn_lines(loss) == ([[2.5, 1.5]], [[2.2, 1.3]])
    assert drawn_lines(other_loss) == ([[2.2, 1.3]], [[2.5, 1.5]])
    assert drawn_lines(accuracy) == ([[45.0, 63.0]], [[43.0, 72.0]])
    assert drawn_lines(other_accuracy) == ([[43.0, 72.0]], [[45.0, 63.0]])
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("training loss", "validation accuracy (%)")
    assert accuracy.get_xlabel() == "epoch"
    assert "demo, rafdb, n=2 seeds" in title(figure)


def test_the_band_goes_from_lowest_to_highest_seed():
    (band,) = curves_figure(HISTORY, ABOUT).axes[2].collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert corners == {(1, 40), (1, 50), (2, 60), (2, 66)}
    assert "band from lowest to highest seed" in title(curves_figure(HISTORY, ABOUT))


def test_one_seed_and_one_recipe():
    figure = curves_figure(HISTORY.query("recipe == 'baseline' and seed == 0"), ABOUT)
    assert title(figure) == "Learning curves demo, rafdb, n=1 seed"
    assert drawn_lines(figure.axes[0]) == ([[2.0, 1.0]], [])


def test_same_twice(tmp_path):
    assert_same_twice(lambda: curves_figure(HISTORY, ABOUT), tmp_path)
