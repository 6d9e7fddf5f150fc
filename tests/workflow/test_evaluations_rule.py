"""What a finished training is asked besides: made where it is asked for, again only where it is out of date."""

import pandas as pd
import pytest

pytestmark = pytest.mark.workflow

ONE = ["datasets=[demo_rafdb, demo_affectnet]", "recipes=[baseline]", "seeds=[0]", "tracking=false"]
OF_RUN = "demo_rafdb/baseline/seed0"
ROBUSTNESS = f"results/smallest/evaluations/robustness/{OF_RUN}/robustness.parquet"
CROSS = f"results/smallest/evaluations/cross/{OF_RUN}/demo_affectnet.parquet"


def test_evaluations_are_made_and_follow_their_parameters(smallest):
    smallest.options += ("--config", *ONE)
    assert not {"evaluate_robustness", "evaluate_cross"} & set(smallest.scheduled("results/table1.csv"))
    done = smallest.snakemake(ROBUSTNESS, CROSS)
    assert done.returncode == 0, done.stdout
    table, frame = pd.read_parquet(smallest.root / ROBUSTNESS), pd.read_parquet(smallest.root / CROSS)
    assert table.groupby(["corruption", "severity"]).ngroups == 19 and set(frame["test_dataset"]) == {"demo_affectnet"}
    assert smallest.scheduled(ROBUSTNESS, CROSS) == {}

    smallest.options += ("robustness={corruptions: {noise: [], blur: [0.1]}}",)
    assert smallest.scheduled(ROBUSTNESS, CROSS) == {"evaluate_robustness": 1}
    smallest.options = smallest.options[:-1]
    smallest.replace("transfer/evaluation/cross.py", 'attrs = {"left_out"', 'attrs = {"absent"')
    assert smallest.scheduled(ROBUSTNESS, CROSS) == {"evaluate_cross": 1}
    smallest.replace("transfer/evaluation/robustness.py", "GREY = 0.5", "GREY = 0.4")
    assert smallest.scheduled(ROBUSTNESS, CROSS) == {"evaluate_robustness": 1, "evaluate_cross": 1}
