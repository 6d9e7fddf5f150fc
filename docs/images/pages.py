"""Takes the pictures of MLflow, Optuna's dashboard and the report in the root, after the embedded default:

snakemake --cores all --use-conda tables search track
snakemake --cores all --use-conda tables --report results/report.html
PYTHONPATH=tests/workflow python docs/images/pages.py

The other pictures of MLflow and of `dvc plots` were taken by hand.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import shown
from browser import chromium
from PIL import Image

EXPERIMENT, DATASET, RUN, SEARCH = "demo", "demo_rafdb", "full/seed0", "searched"
FOLDER = Path("docs/images")
COLOURS = 128  # enough for pages, and half the bytes


@contextlib.contextmanager
def picture(name: str, height: int) -> Iterator:
    """A browser whose page becomes ``docs/images/<name>.png``, 1280 pixels wide."""
    with chromium(1280, height + 143) as driver:  # what Chromium keeps for its bars
        yield driver
        shown.settle(driver)
        page = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB").crop((0, 0, 1280, height))
        page.quantize(COLOURS, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


def main() -> None:
    """Start each server, look, end it."""
    with shown.mlflow(Path(), os.environ) as url:
        experiment, runs = shown.mlflow_ids(url, f"{EXPERIMENT}/{DATASET}")
        with picture("mlflow_run", 760) as driver:
            shown.mlflow_settle(driver, url)
            shown.mlflow_curves(driver, url, experiment, runs[RUN])
    params = f"results/{EXPERIMENT}/params.yaml"
    with shown.dashboard(Path(), os.environ, params) as url, picture("optuna_study", 650) as driver:
        shown.study(driver, url, shown.study_ids(url)[f"{EXPERIMENT}/{SEARCH}/{DATASET}"])
    with picture("report", 760) as driver:
        shown.report(driver, Path("results/report.html").absolute().as_uri(), "Tables", "table1")


if __name__ == "__main__":
    main()
