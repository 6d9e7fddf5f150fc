"""The leaderboard in a browser: sorted, filtered, followed to the files, and equal to its csv."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import driver  # noqa: F401
from repository import SMALLEST, Repository

from transfer.leaderboard.entries import PLACEHOLDERS

pytestmark = pytest.mark.workflow

TASK = "demo_ferplus"


@pytest.fixture(scope="module")
def run(sources, tmp_path_factory) -> Repository:
    """The board of one dataset, with two recipes, two seeds and an entry from outside."""
    root = shutil.copytree(sources, tmp_path_factory.mktemp("board") / "repository")
    (root / "one.yaml").write_text(f"datasets: [{TASK}]\nseeds: [0, 1]\n")
    repository = Repository(root, *SMALLEST, "one.yaml")
    options = ("--params", SMALLEST[1], "--params", "one.yaml")
    done = repository.snakemake(f"results/smallest/data/{TASK}/index.parquet")
    assert done.returncode == 0, done.stdout
    for command in (("task", TASK, "--why", "a small archive"), ("new", "guess", "--task", TASK)):
        done = repository.process("python", "-m", "transfer", "board", *command, *options)
        assert done.returncode == 0, done.stdout
    join(root / "leaderboard/entries/guess")
    done = repository.snakemake("leaderboard")
    assert done.returncode == 0, done.stdout
    return repository


def join(folder: Path) -> None:
    """Random predictions, and the declaration filled in as its comments say."""
    import hashlib

    table = pd.read_csv(folder / "seed0.csv")
    table.iloc[:, 1:] = np.random.default_rng(0).dirichlet(np.ones(table.shape[1] - 1), len(table))
    table.to_csv(folder / "seed0.csv", index=False)
    text = (folder / "entry.yaml").read_text()
    digest = hashlib.sha256((folder / "seed0.csv").read_bytes()).hexdigest()
    text = text.replace("0" * 64, digest).replace('single_run: ""', "single_run: nothing is trained")
    for placeholder, value in zip(PLACEHOLDERS.values(), ("Guessing <i>at random</i>", "A", "B", "draws"), strict=True):
        text = text.replace(placeholder, value)
    (folder / "entry.yaml").write_text(text)


def test_in_a_browser(run, driver):  # noqa: F811
    from selenium.webdriver.support.ui import Select

    folder = run.root / "results/leaderboard"
    table = pd.read_csv(folder / "leaderboard.csv").set_index("name")
    driver.get((folder / "index.html").as_uri())
    assert driver.title == "Leaderboard"
    driver.find_element("partial link text", "FERPlus's layout").click()

    def text(selector: str) -> list[str]:
        found = driver.find_elements("css selector", selector)
        return [cell.get_attribute("textContent").strip() for cell in found if cell.is_displayed()]

    def column(head: str, table: str = "measured") -> list[str]:
        heads = [name.split(" (")[0] for name in text(f"#{table} th")]
        return text(f"#{table} tbody td:nth-child({heads.index(head) + 1})") if head in heads else []

    for tier in ("measured", "verified"):
        shown = dict(zip(column("Entry", tier), column("Accuracy", tier), strict=True))
        of_tier = table[table["tier"] == tier]
        assert len(shown) == len(of_tier)
        for row in of_tier.itertuples():
            mark = " single run" if row.n_seeds == 1 else ""
            assert float(shown[f"{row.title}{mark}"].split()[0]) == pytest.approx(row.accuracy, abs=0.006)
    measured = table[table["tier"] == "measured"].set_index("title")
    for head, name in (("Parameters", "parameters"), ("MACs", "macs"), ("Faces/s", "faces_per_second"), ("NLL", "nll")):
        for title, text_of in zip(column("Entry"), column(head), strict=True):
            assert float(text_of.replace(",", "")) == pytest.approx(measured.loc[title, name], rel=0.01, abs=0.6)
    assert "Guessing <i>at random</i> single run" in column("Entry", "verified")

    button = driver.find_element("xpath", "//table[@id='measured']//button[starts-with(text(), 'NLL')]")
    button.click()
    falling = [float(value) for value in column("NLL")]
    button.click()
    rising = [float(value) for value in column("NLL")]
    assert falling == sorted(falling, reverse=True) and rising == sorted(falling)

    tier = Select(driver.find_element("css selector", "select[data-by=tier]"))
    tier.select_by_visible_text("verified")
    assert column("Entry") == [] and len(column("Entry", "verified")) == 1
    tier.select_by_visible_text("all")
    driver.find_element("css selector", "input[type=search]").send_keys("FULL")
    assert column("Entry") == ["full"] and column("Entry", "verified") == []
    driver.find_element("link text", "full").click()
    files = [link.get_attribute("href") for link in driver.find_elements("css selector", "li a")]
    names = [Path(file.removeprefix("file://")).name for file in files]
    exports = ["params.yaml", "README.md", f"{TASK}.yaml"]
    assert names == ["metrics.json", "env.json"] * 2 + exports, "all within two clicks of a number"
    assert all(Path(file.removeprefix("file://")).is_file() for file in files)
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    driver.set_window_size(500, 800)
    for page in sorted(folder.rglob("*.html")):
        driver.get(page.as_uri())
        assert driver.execute_script(wide) == 0, f"{page} scrolls sideways on a telephone"
        assert "http" not in page.read_text().replace("http://www.w3.org", ""), "nothing from the network"
    severe = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def test_an_edited_entry_makes_the_board_again_and_nothing_else(run):
    assert run.scheduled("leaderboard") == {}
    file = run.root / "leaderboard/entries/guess/entry.yaml"
    file.write_text(file.read_text().replace("attempts: 1", "attempts: 2"))
    assert run.scheduled("leaderboard") == {"leaderboard": 1}
    table = pd.read_csv(run.root / "leaderboard/entries/guess/seed0.csv")
    table.iloc[1:].to_csv(run.root / "leaderboard/entries/guess/seed0.csv", index=False)
    done = run.snakemake("leaderboard")
    assert done.returncode == 1 and "guess: files: sha256 is" in done.stdout
