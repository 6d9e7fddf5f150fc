"""Alignment as an ablation: datasets of one archive that differ only in their faces block, as in docs/alignment.md."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.workflow

ROOT = Path(__file__).parents[2]
ARMS = {"rafdb_mtcnn": "arcface", "rafdb_supplied": "arcface", "rafdb_box": "box", "rafdb_as_is": "none"}


def example() -> str:
    """The parameter file that docs/alignment.md shows."""
    (block,) = re.findall(r"```yaml\n(# alignment\.yaml.*?)```", (ROOT / "docs/alignment.md").read_text(), re.DOTALL)
    return block


def test_the_example_of_the_documentation(fresh):
    real, replaced = "archive: rafdb, expect: official", "archive: demo_rafdb.zip, synthetic: 1, synthetic_scale: 0.1"
    drawn = example().replace(real, replaced)
    assert drawn != example()
    (fresh.root / "alignment.yaml").write_text(drawn)
    options = ("--configfile", "alignment.yaml", "tests/workflow/smallest.yaml", "--config", "experiment=alignment")
    grid = (*options, "datasets=[rafdb_mtcnn,rafdb_supplied,rafdb_box,rafdb_as_is]", "recipes=[baseline]", "seeds=[0]")
    jobs = fresh.scheduled(*grid)
    assert jobs["synthesize_archive"] == 1, "one archive"
    assert jobs["align_faces"] == jobs["inspect_faces"] == jobs["train_model"] == 4
    pages = [f"results/alignment/data/{dataset}/faces.html" for dataset in ARMS]
    done = fresh.snakemake(*pages, *grid)
    assert done.returncode == 0, done.stdout
    reports, stores, samples = {}, {}, {}
    for dataset, template in ARMS.items():
        data = fresh.root / "results/alignment/data" / dataset
        reports[dataset] = json.loads((data / "faces.json").read_text())
        assert reports[dataset]["policies"]["template"] == template
        stores[dataset] = np.load(data / "aligned.npy")
        samples[dataset] = pd.read_csv(data / "evaluation.csv")["sample"].tolist()
        assert samples[dataset] == samples["rafdb_mtcnn"], "the same test faces"
    digests = {name: report["evaluation"] for name, report in reports.items()}
    assert len({digest["sha256"] for digest in digests.values()}) == 4, "four alignments"
    files = {name: digest["source_sha256"] for name, digest in digests.items()}
    assert files["rafdb_mtcnn"] == files["rafdb_supplied"] == files["rafdb_box"] != files["rafdb_as_is"]
    assert reports["rafdb_mtcnn"]["agreement"]["faces"] > 0 and reports["rafdb_as_is"]["agreement"] is None
    # The drawn landmarks are known exactly, and MTCNN's are near them: so are the pictures.
    difference = np.abs(stores["rafdb_mtcnn"].astype(int) - stores["rafdb_supplied"]).mean()
    assert 0 < difference < np.abs(stores["rafdb_mtcnn"].astype(int) - stores["rafdb_box"]).mean()
    assert fresh.scheduled(*pages, *grid) == {}
    shared = fresh.scheduled("--configfile", "tests/workflow/smallest.yaml", "--config", "datasets=[demo_rafdb]")
    assert "synthesize_archive" not in shared, "another experiment's dataset of the same archive does not draw it anew"
