"""The pages that people look at: each is opened, and waited for until what it is about is there."""

import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from browser import free_port, serving, wait_for

Environment = Mapping[str, str]


def text(driver) -> str:
    """All that can be read on the page."""
    return driver.find_element("tag name", "body").text


def settle(driver) -> None:
    """Wait until the page moves no more: two pictures of it, a second apart, are the same."""
    before = None
    while before != (before := driver.get_screenshot_as_png()):
        time.sleep(1)


def _fresh(driver, url: str) -> None:
    """Open a page from nothing; another address after the # alone would keep what an earlier page has loaded."""
    driver.get("about:blank")
    driver.get(url)


# --- MLflow ---


@contextlib.contextmanager
def mlflow(root: Path, environment: Environment) -> Iterator[str]:
    """What `make mlflow` starts; yields its address."""
    url = f"http://127.0.0.1:{free_port()}/"
    store = ["--backend-store-uri", "sqlite:///mlflow.db", "--port", url.strip("/").rpartition(":")[2]]
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--workers", "1", *store]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with serving(command, url, root, {**environment, **settings}):
        yield url


def mlflow_ids(url: str, experiment: str) -> tuple[str, dict[str, str]]:
    """The id of an experiment, and those of its runs by their names."""
    asked = {"filter": f"name = '{experiment}'", "max_results": 1}
    (found,) = _ask(url, "experiments/search", asked)["experiments"]
    runs = _ask(url, "runs/search", {"experiment_ids": [found["experiment_id"]], "max_results": 1000})["runs"]
    return found["experiment_id"], {run["info"]["run_name"]: run["info"]["run_id"] for run in runs}


def _ask(url: str, path: str, content: dict) -> dict:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}api/2.0/mlflow/{path}", json.dumps(content).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def mlflow_settle(driver, url: str) -> None:
    """MLflow as one leaves it after a first visit: `Model training` chosen, the assistant closed."""
    driver.get(url)
    wait_for(lambda: "Experiments" in text(driver))
    left = {"mlflow.workflowType_v1": '"machine_learning"', "mlflow.assistant.panelOpen_v1": "false"}
    for key, value in left.items():
        driver.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, value)


def mlflow_experiments(driver, url: str, expected: list[str]) -> None:
    """The list of experiments."""
    _fresh(driver, f"{url}#/experiments")
    wait_for(lambda: all(name in text(driver) for name in expected))


def mlflow_runs(driver, url: str, experiment: str, expected: list[str], opened: str = "") -> None:
    """The table of an experiment's runs; below the run ``opened`` its seeds."""
    _fresh(driver, f"{url}#/experiments/{experiment}/runs")
    wait_for(lambda: set(expected) <= set(_names(driver)))
    if opened:
        row = next(row for row in driver.find_elements("css selector", ".ag-row") if opened in row.text.split("\n"))
        row.find_element("css selector", "button").click()
        wait_for(lambda: any(name.startswith(f"{opened}/seed") for name in _names(driver)))


def _names(driver) -> list[str]:
    return [link.text for link in driver.find_elements("css selector", ".ag-row a")]


def mlflow_curves(driver, url: str, experiment: str, run: str, count: int) -> dict[str, int]:
    """The model metrics of a run, once ``count`` are drawn; the number of points of each curve, by its metric."""
    _fresh(driver, f"{url}#/experiments/{experiment}/runs/{run}/model-metrics")
    wait_for(lambda: len(plotly_lines(driver, "metricKey")) >= count)
    return plotly_lines(driver, "metricKey")


# Of each Plotly chart its lines that are drawn, as paths that lead somewhere.
_LINES = """
const found = {};
for (const chart of document.querySelectorAll('.js-plotly-plot')) {
  const paths = [...chart.querySelectorAll('.scatterlayer path.js-line')];
  const drawn = paths.some(path => path.getAttribute('d').includes('L'));
  for (const trace of chart.data || []) {
    if (drawn && trace.mode && trace.mode.includes('lines') && trace[arguments[0]]) {
      found[trace[arguments[0]]] = trace.y.length;
    }
  }
}
return found;
"""


def plotly_lines(driver, key: str) -> dict[str, int]:
    """The number of points of each line that is drawn, by the value of its ``key``."""
    return driver.execute_script(_LINES, key)


# --- Optuna ---


@contextlib.contextmanager
def dashboard(root: Path, environment: Environment, params: str) -> Iterator[str]:
    """What `make dashboard` starts; yields its address."""
    url = f"http://127.0.0.1:{free_port()}/"
    journal = Path(params).with_name("search") / "journal.log"
    command = ["optuna-dashboard", str(journal), "--host", "127.0.0.1"]
    with serving([*command, "--port", url.strip("/").rpartition(":")[2]], url, root, environment):
        yield url


def study_ids(url: str) -> dict[str, int]:
    """The numbers of the studies by their names."""
    with urllib.request.urlopen(f"{url}api/studies", timeout=60) as answer:
        return {found["study_name"]: found["study_id"] for found in json.load(answer)["study_summaries"]}


def studies(driver, url: str, expected: list[str]) -> None:
    """The list of studies."""
    _fresh(driver, f"{url}dashboard")
    wait_for(lambda: all(name in text(driver) for name in expected))


def study(driver, url: str, number: int) -> dict[str, int]:
    """A study's page, once its best values are drawn; the number of points of each line of its history."""
    _fresh(driver, f"{url}dashboard/studies/{number}")
    wait_for(lambda: "Hyperparameter Importance" in text(driver))
    wait_for(lambda: any(line.startswith("Best Value") for line in plotly_lines(driver, "name")))
    return plotly_lines(driver, "name")


def trials(driver, url: str, number: int, expected: Iterable[int]) -> None:
    """A study's list of trials."""
    _fresh(driver, f"{url}dashboard/studies/{number}/trials")
    wait_for(lambda: all(f"Trial {trial}" in text(driver) for trial in expected))


# --- Snakemake's report ---


def report(driver, url: str, category: str, row: str) -> str:
    """The report after a click on a category and, in its list, on the eye of a row; all that can be read then."""
    _fresh(driver, url)
    for path in (f"//a[normalize-space()='{category}']", f"//tr[contains(., '{row}')]//a[@iconname='eye']"):
        links = wait_for(lambda path=path: driver.find_elements("xpath", path))
        driver.execute_script("arguments[0].click()", links[0])
    return text(driver)
