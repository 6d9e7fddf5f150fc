"""What a grid of trainings takes, against numbers computed by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from transfer.bench.grid import Images, any_order, estimate, grid, makespan
from transfer.layout import Layout
from transfer.params import read as config
from transfer.utils.errors import UserError


@pytest.fixture
def paper():
    return config.load(["params/paper.yaml"])


def test_the_papers_grid_from_the_official_numbers(paper, tmp_path):
    images = grid(paper, Layout("paper", tmp_path))
    assert len(images) == 3 * 6
    # Happiness 4,772: a tenth validates (477), and the other six classes are drawn up to the 4,295 that are left; 234
    # whole batches of 128, 40 epochs. Validation: a tenth of each class, rounded; the 3,068 test images each epoch too.
    validated = sum(round(n / 10) for n in (1290, 281, 717, 4772, 1982, 705, 2524))
    assert images["rafdb", "full"] == Images(40 * 234 * 128, 40 * (validated + 3068))
    # FERPlus has a validation part of its own.
    assert images["ferplus_majority", "baseline"] == Images(40 * (8 * 8740 // 128) * 128, 40 * (3199 + 3153))
    kept = 134415 - round(134415 / 10)
    assert images["affectnet7", "msad"].trained == 40 * (7 * kept // 128) * 128


def test_fewer_images_without_balance_and_without_a_choice_on_the_test_set(tmp_path):
    values = ["sampling.upsample=none", "protocols=[val_selected]", "train.hflip_tta=true", "train.epochs=10"]
    params = config.load(["params/paper.yaml"], ["datasets=[ferplus_majority]", *values])
    images = grid(params, Layout("paper", tmp_path))
    assert images["ferplus_majority", "full"] == Images(10 * (25060 // 128) * 128, 2 * (10 * 3199 + 3153))


def test_what_was_sampled_counts(paper, tmp_path):
    layout = Layout("paper", tmp_path)
    data = layout.data("rafdb")
    data.mkdir(parents=True)
    pd.DataFrame({"split": ["train"] * 50 + ["val"] * 4 + ["test"] * 6}).to_parquet(data / "split.parquet")
    np.save(layout.plan("rafdb", "full"), np.arange(300))
    assert grid(paper, layout)["rafdb", "full"] == Images(40 * 256, 40 * 10)


@pytest.mark.parametrize("name", ["demo_rafdb", "ferplus_dev_majority"])
def test_a_dataset_of_unknown_size_is_refused(name, tmp_path):
    params = config.load([], [f"datasets=[{name}]"])
    with pytest.raises(UserError, match=f"dataset {name}: how many images .*split.parquet first"):
        grid(params, Layout("demo", tmp_path))


def test_schedules():
    assert makespan([2, 3, 2, 3, 2], 2) == 7  # 3 + 2 + 2, while the other has 3 + 2
    assert any_order([2, 3, 2, 3, 2], 2) == 7.5
    assert makespan([2, 3, 2], 1) == any_order([2, 3, 2], 1) == 7
    assert makespan([2, 3, 2], 8) == 3
    rng = np.random.default_rng(0)
    for devices in (2, 3, 7):
        hours = rng.uniform(1, 5, 20).tolist()
        free = [0.0] * devices
        for each in hours:  # in the order in which they come
            free[free.index(min(free))] += each
        lower = max(sum(hours) / devices, max(hours))
        assert lower <= makespan(hours, devices) and max(free) <= any_order(hours, devices)


def test_the_estimate_adds_up(paper, tmp_path, transfer):
    result = estimate(paper, Layout("paper", tmp_path), 100, None, [1, 90])
    assert (result["trainings"], result["predicted_per_second"]) == (90, 300)
    images = grid(paper, Layout("paper", tmp_path))
    seconds = sum(each.trained / 100 + each.predicted / 300 for each in images.values()) * 5
    assert result["hours"] == pytest.approx(seconds / 3600)
    one, all_at_once = result["devices"]
    assert one["hours"] == pytest.approx(result["hours"])
    assert all_at_once["hours"] == max(each["longest_hours"] for each in result["datasets"])
    options = ["--params", "params/paper.yaml", "--images-per-second", "100", "--devices", "1", "--devices", "90"]
    code, out, _ = transfer("bench", "grid", *options, "--json")
    assert code == 0 and json.loads(out) == result
    code, out, _ = transfer("bench", "grid", *options)
    assert code == 0 and f"{result['hours']:,.1f} h" in out and "35,942,400" in out
