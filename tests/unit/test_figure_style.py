import matplotlib
from drawn import title
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from transfer.utils.plots import About, line_styles, styled


def test_title_says_what_it_is_of():
    figure = Figure(figsize=(9, 3))
    About("demo", "demo_rafdb", "last", "drawn faces").put_on(figure, "Accuracy", 3)
    assert figure.get_suptitle() == "Accuracy\ndemo, demo_rafdb (drawn faces), last, n=3\N{NO-BREAK SPACE}seeds"
    About("demo", "rafdb", None).put_on(figure, "Accuracy", 1)
    assert figure.get_suptitle() == "Accuracy\ndemo, rafdb, n=1\N{NO-BREAK SPACE}seed"


def test_a_long_title_is_broken_where_the_figure_ends():
    @styled
    def draw():
        figure = Figure(figsize=(3, 3), layout="constrained")
        About("ferplus-cpu", "ferplus_dev_majority", "val_selected", "development split").put_on(figure, "Accuracy", 3)
        return figure

    narrow = draw()
    assert title(narrow) == "Accuracy ferplus-cpu, ferplus_dev_majority (development split), val_selected, n=3 seeds"
    narrow.draw_without_rendering()
    extent = narrow._suptitle.get_window_extent()
    assert 0 <= extent.x0 < extent.x1 <= narrow.bbox.width


def test_lines_differ_also_without_colours():
    styles = line_styles([f"recipe{i}" for i in range(40)])
    assert len({(style["linestyle"], style["marker"]) for style in styles.values()}) == 40
    colours = {style["color"] for style in styles.values()}
    assert all(sum(to_rgb(colour)) / 3 < 0.75 for colour in colours)  # seen on white


def test_style_is_the_figures_own_and_leaves_no_trace():
    @styled
    def draw():
        figure = Figure()
        figure.subplots().set_title("a")
        return figure

    with matplotlib.rc_context({"axes.titlesize": 40}):
        assert draw().axes[0].title.get_fontsize() == 8
        assert matplotlib.rcParams["axes.titlesize"] == 40
