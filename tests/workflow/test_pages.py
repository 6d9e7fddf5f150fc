"""MLflow and the Optuna dashboard after a real run, as a browser shows them."""

import re
import shutil

import pandas as pd
import pytest
import shown
from browser import driver  # noqa: F401
from repository import SMALLEST, Repository

pytestmark = pytest.mark.workflow

EPOCHS = 3
RECIPES = ("baseline", "full")
# What MLflow's own pages write to the console without accounts, and while they are laid out.
THEIRS = re.compile(r"/mlflow/users/current |ResizeObserver loop |/favicon\.ico ")


@pytest.fixture(scope="module")
def run(sources, tmp_path_factory) -> Repository:
    """Two recipes, two seeds and a search on one dataset, for some epochs, and all that the pages show of them."""
    root = shutil.copytree(sources, tmp_path_factory.mktemp("pages") / "repository")
    more = root / "pages.yaml"
    more.write_text(f"datasets: [demo_rafdb]\ntrain: {{epochs: {EPOCHS}}}\n")
    repository = Repository(root, *SMALLEST, more.name)
    done = repository.snakemake("tables", "search", "track")
    assert done.returncode == 0, done.stdout
    return repository


@pytest.fixture
def page(driver):  # noqa: F811
    """The browser; afterwards nothing on the pages may have failed."""
    yield driver
    severe = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert [message for message in severe if not THEIRS.search(message)] == []


def test_mlflow(run, page):
    with shown.mlflow(run.root, run.environment) as url:
        shown.mlflow_settle(page, url)
        shown.mlflow_experiments(page, url, ["smallest/demo_rafdb", "smallest/search/searched/demo_rafdb"])
        assert "A run per recipe with the means over its seeds" in shown.text(page)

        experiment, runs = shown.mlflow_ids(url, "smallest/demo_rafdb")
        shown.mlflow_runs(page, url, experiment, [*RECIPES], opened="full")
        table = shown.text(page)
        assert all(f"full/seed{seed}" in table for seed in (0, 1)) and "baseline/seed0" not in table
        no_errors(page)

        history = pd.read_csv(run.root / "results/smallest/runs/demo_rafdb/full/seed1/history.csv")
        expected = {f"epoch/{name}": EPOCHS for name in history.columns.drop("epoch")}
        assert shown.mlflow_curves(page, url, experiment, runs["full/seed1"], len(expected)) == expected
        groups = re.findall(r"(\w+)\s*\((\d+)\)", shown.text(page).partition("Auto-refresh")[2])
        assert groups[0] == ("epoch", "6"), groups
        no_errors(page)

        searched, _ = shown.mlflow_ids(url, "smallest/search/searched/demo_rafdb")
        shown.mlflow_runs(page, url, searched, [f"trial{number}" for number in range(4)])
        page.get("about:blank")  # which asks the server for nothing while it ends


def test_optuna(run, page):
    with shown.dashboard(run.root, run.environment, "results/smallest/params.yaml") as url:
        name = "smallest/searched/demo_rafdb"
        shown.studies(page, url, [name])
        trials = pd.read_csv(run.root / "results/smallest/search/searched/demo_rafdb/trials.csv")
        lines = shown.study(page, url, 0)
        page_text = shown.text(page)
        assert name in page_text and "validation accuracy" in page_text and "Objective 0" not in page_text
        assert all(parameter in page_text for parameter in ("mad", "msad", "num_lanets", "upsample"))
        best = trials.loc[trials["val_accuracy"].idxmax()]
        numbers = [float(number) for number in re.findall(r"\b0\.\d+\b", page_text)]
        assert any(abs(number - best["val_accuracy"]) < 5e-4 for number in numbers), page_text
        assert [points for line, points in lines.items() if line.startswith("Best Value")], lines
        shown.trials(page, url, 0, trials["trial"])
        assert all(f"Trial {number}" in shown.text(page) for number in trials["trial"])
        assert f"{len(trials)} Trials" in shown.text(page)
        page.get("about:blank")


def no_errors(page) -> None:
    words = ("Something went wrong", "went wrong", "No chart data", "Failed to", "Error loading", "not found")
    assert not [word for word in words if word in shown.text(page)]
