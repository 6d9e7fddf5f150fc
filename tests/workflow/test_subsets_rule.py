"""Challenge subsets in the workflow: their lists may come after the training."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.workflow

RUN = "results/smallest/runs/mine/baseline/seed0"
# A dataset that is taken for a real one: only these have challenge subsets.
MINE = ["datasets=[mine]", "recipes=[baseline]", "seeds=[0]", "train={epochs: 1}", "tracking=false"]
MINE += ["dataset_definitions={mine: {parser: rafdb, archive: demo_rafdb.zip}}"]


def test_lists_that_come_later_change_the_evaluation_alone(smallest):
    draw = [sys.executable, "-m", "transfer", "synthesize", "--dataset", "demo_rafdb"]
    draw += ["--params", smallest.options[1]]
    subprocess.run(draw, cwd=smallest.root, env=smallest.environment, check=True)
    target = f"{RUN}/metrics.json"
    done = smallest.snakemake(target, "--config", *MINE)
    assert done.returncode == 0, done.stdout
    before = json.loads((smallest.root / target).read_text())
    assert "subsets" not in before["protocols"]["last"] and "subsets_sha256" not in before

    lists = smallest.root / "data/raw/challenge_lists/RAF_DB_dir"
    lists.mkdir(parents=True)
    (lists / "val_raf_db_list.txt").write_text("0/test_0001_aligned.jpg\n3/test_0002_aligned.jpg\n")
    assert smallest.scheduled(target, "--config", *MINE) == {"find_subsets": 1, "evaluate_run": 1}
    done = smallest.snakemake(target, "--config", *MINE)
    assert done.returncode == 0, done.stdout
    after = json.loads((smallest.root / target).read_text())
    assert after["predictions_sha256"] == before["predictions_sha256"]
    assert {protocol: part["subsets"]["pose30"]["n"] for protocol, part in after["protocols"].items()} == dict.fromkeys(
        before["protocols"], 2
    )
    for part in (*before["protocols"].values(), *after["protocols"].values()):
        part.pop("subsets", None)
    assert after["protocols"] == before["protocols"]
