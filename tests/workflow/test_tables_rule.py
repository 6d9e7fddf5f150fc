"""Every kind of table and its figure from one rule each, a table of one's own, and the report in a browser."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import shown
from browser import driver, wait_for  # noqa: F401
from repository import ROOT, SMALLEST, Repository

pytestmark = pytest.mark.workflow

DOCS = ROOT / "docs/tables.md"
DATASETS = ("demo_rafdb", "demo_ferplus")
TABLES = (
    *("table1", "table5", "protocols", "per_class", "calibration"),
    *("subgroups", "cross", "robustness", "diversity", "rates"),
)
# An entry is all that a table of one's own needs; here two values of the drop rate, on one dataset.
MINE = f"""
datasets: [{", ".join(DATASETS)}]
seeds: [0]
tables: [{", ".join(TABLES)}]
robustness: {{corruptions: {{blur: [0.05], occlude_mouth: [0.25, 0.5]}}}}
table_definitions:
  rates:
    kind: recipes
    datasets: [demo_rafdb]
    sweep: {{over: {{model.args.msad: [0, 0.5]}}}}
    baseline: full_msad0
"""


@pytest.fixture(scope="module")
def run(sources, tmp_path_factory) -> Repository:
    root = shutil.copytree(sources, tmp_path_factory.mktemp("tables") / "repository")
    (root / "mine.yaml").write_text(MINE)
    repository = Repository(root, *SMALLEST, "mine.yaml")
    done = repository.snakemake("tables")
    assert done.returncode == 0, done.stdout
    return repository


def test_every_table_and_figure_is_there_and_says_what_it_is(run):
    folder = run.root / "results/smallest"
    for name in TABLES:
        table = pd.read_csv(folder / f"{name}.csv")
        assert len(table), name
        assert {"experiment", "dataset", "protocol"} <= set(table.columns), name
        measured = table[table["reported"].isna()] if name == "table5" else table
        assert (measured["n_seeds"] == 1).all() and (measured["n_faces"] > 0).all(), "no number without its n"
        assert (folder / f"{name}.tex").read_text().count("\\begin{tabular}") >= 1
        text = (folder / f"{name}.md").read_text()
        assert "Selection of the epoch:" in text and "Environment: commit" in text
    assert list(pd.read_csv(folder / "rates.csv")["recipe"].unique()) == ["full_msad0", "full_msad05"]
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    of_tables = ("table1", "per_class", "calibration", "robustness", "diversity", "attention", "lanets")
    assert drawn == {f"{name}_{dataset}" for name in of_tables for dataset in DATASETS} | {"rates_demo_rafdb"}
    assert all((folder / "figures" / f"{name}.{kind}").stat().st_size for name in drawn for kind in ("svg", "json"))
    assert run.scheduled("tables") == {}


def test_a_table_alone_reruns_where_its_entry_changed(run):
    options = run.options
    try:
        run.options = (*options, "--config", "table_definitions={rates: {title: Other words}}")
        assert run.scheduled("tables") == {"make_table": 1, "draw_figure": 1, "tables": 1}
        run.options = (*options, "--config", "robustness={corruptions: {blur: [0.02]}}")
        rerun = run.scheduled("tables")
        assert (rerun["evaluate_robustness"], rerun["make_table"], rerun["draw_figure"]) == (4, 1, 2)
    finally:
        run.options = options


def test_a_kind_of_ones_own_is_the_file_that_the_docs_show(run):
    """The example of docs/tables.md as it stands there, and nothing else; no other table is out of date by it."""
    pattern = r"```python\n(# (transfer/tables/kinds/\w+\.py)\n.*?)```"
    ((text, path),) = re.findall(pattern, DOCS.read_text(), flags=re.DOTALL)
    (run.root / path).write_text(text)
    options = run.options
    try:
        run.options = (*options, "--config", "table_definitions={entropy: {kind: entropy}}")
        done = run.snakemake("results/smallest/entropy.csv")
        assert done.returncode == 0, done.stdout
        table = pd.read_csv(run.root / "results/smallest/entropy.csv")
        assert len(table) == 2 * 2 * 3 and table["entropy"].between(0, np.log(8)).all(), "datasets, recipes, protocols"
        assert run.scheduled("tables") == {}
    finally:
        run.options = options
        (run.root / path).unlink()


def test_the_report_shows_tables_and_pictures(run, driver):  # noqa: F811
    """Snakemake's own report, one file, as Chromium shows it: captions, labels, a table and a picture."""
    done = run.snakemake("tables", "--report", "results/report.html")
    assert done.returncode == 0, done.stdout
    report = run.root / "results/report.html"
    text = report.read_text(encoding="utf-8")
    assert text.count("Protocol") >= len(TABLES) and "rule majority" in text and "1 seed per recipe" in text
    listed = shown.report(driver, report.as_uri(), "Tables", "per_class")
    assert all(name in listed for name in TABLES) and "KIND" in listed, "labels to filter by"
    page = wait_for(lambda: driver.find_elements("tag name", "iframe"))[0]
    driver.switch_to.frame(page)
    cells = wait_for(lambda: driver.find_elements("xpath", "//table//td"))
    assert any("(n=1)" in cell.get_attribute("textContent") for cell in cells)
    driver.switch_to.default_content()

    listed = shown.report(driver, report.as_uri(), "Figures", "attention")
    assert "robustness" in listed and "PROTOCOL" in listed and "val_selected" in listed
    picture = wait_for(lambda: driver.find_elements("xpath", "//img[contains(@src, 'data:image/png')]"))[0]
    wait_for(lambda: driver.execute_script("return arguments[0].naturalWidth", picture) > 300)
