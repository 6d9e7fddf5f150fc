"""`transfer compare`: two folders of results, cell by cell."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from transfer.cli import app
from transfer.tables.compare import compare
from transfer.utils.errors import UserError

PUBLISHED = Path(__file__).parents[2] / "results/published/ferplus-quick"
FACES = "sample,split,label,class_name,sha256,source_sha256\n"


@pytest.fixture
def other(tmp_path):
    return shutil.copytree(PUBLISHED, tmp_path / "other")


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_same_results_are_equal(other):
    found = compare(PUBLISHED, other)
    assert found["verdict"] == "All 18 cells are equal." and not found["differences"]


def test_each_cell_against_the_others_interval(other):
    table = pd.read_csv(other / "table1.csv")
    low, high = table.loc[0, ["ci95_low", "ci95_high"]]
    table.loc[0, ["accuracy", "ci95_low", "ci95_high"]] += high - low
    table.loc[1, "accuracy"] += 0.01
    table.to_csv(other / "table1.csv", index=False)
    for env in other.glob("runs/*/*/seed*/env.json"):
        edit(env, cpu="another processor")
    found = compare(PUBLISHED, other)
    assert found["cells"]["within"].tolist() == [False] + [True] * 17
    assert found["cells"]["difference"].tolist()[:3] == pytest.approx([low - high, -0.01, 0])
    assert list(found["differences"]) == ["cpu"] and found["differences"]["cpu"][1] == "another processor"
    assert found["verdict"].startswith("17 of 18 cells lie within") and found["verdict"].endswith("Different: cpu.")


def test_faces_that_differ_are_counted(other, tmp_path):
    own = shutil.copytree(PUBLISHED, tmp_path / "own")
    for folder, lines in (
        (own, "a,test,0,x,1,1\nb,test,0,x,2,2\nc,val,0,x,3,3\n"),
        (other, "a,test,0,x,1,1\nb,test,0,x,9,2\n"),
    ):
        (folder / "data/ferplus_dev_majority/evaluation.csv").write_text(FACES + lines)
    for env in other.glob("runs/*/*/seed*/env.json"):
        edit(env, evaluation={"images": 2, "sha256": "0", "source_sha256": "0"})
    faces = compare(own, other)["faces"]["ferplus_dev_majority"]
    assert (faces["images"], faces["pixels"]) == (1, 1) and "such as b" in faces["text"]


def test_a_folder_without_results_and_one_of_another_experiment(tmp_path, other):
    with pytest.raises(UserError, match="table1.csv: missing; name a folder"):
        compare(PUBLISHED, tmp_path)
    table = pd.read_csv(other / "table1.csv")
    table.assign(dataset="another").to_csv(other / "table1.csv", index=False)
    with pytest.raises(UserError, match="no cell in common"):
        compare(PUBLISHED, other)


def test_the_verb_prints_cells_and_verdict(other):
    done = CliRunner().invoke(app, ["compare", str(PUBLISHED), str(other)])
    assert done.exit_code == 0 and done.output.rstrip().endswith("All 18 cells are equal.")
    assert "local_cnns_msad" in done.output and "within" in done.output
