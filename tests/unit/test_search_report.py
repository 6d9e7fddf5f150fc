"""The report of a search: best.yaml, tables, importances, figures."""

import json

import pandas as pd
import pytest
import yaml
from PIL import Image
from tiny_search import GRID, GRID_CELLS, LANETS, MAD, MSAD, scripted, search_params
from tiny_training import tiny_dataset

from transfer.params import Params, merge
from transfer.search.report import report
from transfer.search.worker import work
from transfer.training.epoch import Diverged
from transfer.utils.errors import UserError

FIGURES = ("history.png", "slices.png", "contour.png", "importances.png")


@pytest.fixture
def layout(tmp_path):
    return tiny_dataset(tmp_path)


@pytest.fixture
def searched(layout):
    """Run a search whose runs are scripted: ``accuracies(run)`` are those of its epochs; then report it."""

    def run(accuracies, params=None, **changes):
        params = params or search_params(**changes)
        work(params, "searched", "faces", 0, layout, train=scripted(accuracies))
        report(params, "searched", layout)
        return params, layout.search("searched")

    return run


def looked_at(folder) -> None:
    """The figures are pictures with something on them."""
    for name in FIGURES:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100 and len(picture.convert("RGB").getcolors(1 << 24)) > 10, name


def test_the_best_trial_is_the_recipe_searched(searched):
    params, folder = searched(lambda run: [0.9 - abs(run.settings.model.args["msad"] - 0.3)], trials=8)
    text = (folder / "best.yaml").read_text()
    trials = pd.read_csv(folder / "faces" / "trials.csv")
    best = trials.loc[trials["val_accuracy"].idxmax()]  # the first of equals
    assert f"# faces: trial {best['trial']}, validation accuracy 0.9000, best of 8 completed and 0 pruned" in text
    written = yaml.safe_load(text)
    assert written["recipes"] == ["baseline", "full", "searched"]
    read = Params.model_validate(merge(params.model_dump(mode="json", exclude_unset=True), written))
    run = read.run("faces", "searched")
    assert [run.model.args[key] for key in ("mad", "msad", "num_lanets")] == list(best[[MAD, MSAD, LANETS]])
    assert run.train == params.run("faces", "full").train, "the recipe does not take over search.epochs"
    assert read.run("faces", "full") == params.run("faces", "full")
    looked_at(folder / "faces")


def test_tables_of_trials_and_cells(searched):
    params, folder = searched(
        lambda run: [0.5 + run.settings.model.args["num_lanets"] / 10 + (run.seed - 0.5) / 50], seeds=[0, 1], **GRID
    )
    trials = pd.read_csv(folder / "faces" / "trials.csv")
    assert len(trials) == GRID_CELLS and (trials["state"] == "complete").all()
    grid = pd.read_csv(folder / "faces" / "grid.csv")
    names = [MAD, LANETS, "n_trials", "n_seeds", "val_accuracy", "val_accuracy_std"]
    assert grid.columns.tolist() == names
    assert grid[[MAD, LANETS]].to_numpy().tolist() == [[0, 1], [0, 2], [0, 3], [0.5, 2], [0.5, 3]]
    assert grid["val_accuracy"].tolist() == pytest.approx([0.6, 0.7, 0.8, 0.7, 0.8])
    assert grid["val_accuracy_std"].tolist() == pytest.approx([0.02 / 2**0.5] * GRID_CELLS)
    assert (grid["n_trials"] == 1).all() and (grid["n_seeds"] == 2).all()
    importances = json.loads((folder / "faces" / "importances.json").read_text())
    assert list(importances)[0] == LANETS and sum(importances.values()) == pytest.approx(1)
    looked_at(folder / "faces")


def test_pruned_trials_are_shown_and_never_best(searched):
    runs = iter([[0.5, 0.6], [0.4, 0.99], [0.5, 0.6]])
    pruner = {"startup_trials": 1, "warmup_epochs": 1}
    _, folder = searched(lambda run: next(runs), trials=3, pruner=pruner)
    trials = pd.read_csv(folder / "faces" / "trials.csv")
    assert trials["state"].tolist() == ["complete", "pruned", "complete"]
    assert trials["val_accuracy"].isna().tolist() == [False, True, False]
    assert "trial 0, validation accuracy 0.6000, best of 2 completed and 1 pruned" in (folder / "best.yaml").read_text()
    assert pd.read_csv(folder / "faces" / "grid.csv")["n_trials"].sum() == 2
    assert json.loads((folder / "faces" / "importances.json").read_text()) == {}, "all completed trials are alike"
    looked_at(folder / "faces")


def test_one_parameter_and_one_trial_have_figures_too(searched):
    _, folder = searched(lambda run: [0.5], trials=1, space={"upsample": ["full", "none"]})
    looked_at(folder / "faces")


def test_a_recipe_that_is_searched_again_is_listed_once(searched):
    again = search_params(trials=1).model_copy(update={"recipes": ["baseline", "searched", "full"]})
    _, folder = searched(lambda run: [0.5], params=again)
    assert yaml.safe_load((folder / "best.yaml").read_text())["recipes"] == ["baseline", "full", "searched"]


def test_an_unfinished_search_has_no_result(searched, layout):
    with pytest.raises(UserError, match="study tiny/searched/faces: not in .*journal.log; run it with"):
        report(search_params(), "searched", layout)
    searched(lambda run: [0.5], trials=2)
    (layout.search("searched") / "best.yaml").unlink()
    with pytest.raises(UserError, match="study tiny/searched/faces: 2 of 3 trials are finished; start its workers"):
        report(search_params(trials=3), "searched", layout)
    assert not (layout.search("searched") / "best.yaml").exists()


def test_a_search_without_a_completed_trial_says_so(searched):
    def diverging(run):
        raise Diverged("the loss is not finite")

    with pytest.raises(UserError, match="study tiny/searched/faces: no completed trial"):
        searched(diverging, trials=2)
