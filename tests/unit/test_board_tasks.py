"""Tasks of the leaderboard: versions, digests, and what fills them."""

import json
from pathlib import Path

import pandas as pd
import pytest
from boards import place, tested_faces  # noqa: F401
from finished_runs import params_of_two

from transfer.datasets import registry
from transfer.leaderboard import entries, tasks
from transfer.params import read
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def test_the_repositorys_tasks_name_the_classes_of_their_datasets():
    params = read.load([ROOT / "params/default.yaml"])
    for name, task in tasks.load_tasks(ROOT / tasks.FOLDER).items():
        definition = params.dataset_definitions[task.dataset]
        assert task.classes == registry.get(definition.parser).classes(**definition.options), name


def test_schemas_are_current():
    for model, file in ((tasks.Task, tasks.SCHEMA), (entries.Entry, entries.SCHEMA)):
        assert (ROOT / file).read_text() == read.schema_text(model, partial=False), "run: transfer schema"
        json.loads((ROOT / file).read_text())


def test_the_digest_is_of_samples_and_labels_in_any_order_of_the_rows(place):  # noqa: F811
    file = place.layout.data("faces") / "index.parquet"
    assert tasks.checked_truth("small", place.task, place.layout).samples == place.truth.samples
    index = pd.read_parquet(file)
    shuffled = index.sample(frac=1, random_state=9)
    other = type(place.layout)("other", place.root / "results")
    other.data("faces").mkdir(parents=True)
    shuffled.to_parquet(other.data("faces") / "index.parquet", index=False)
    tasks.checked_truth("small", place.task, other)
    row = shuffled.index[shuffled["split"] == "test"][0]
    shuffled.loc[row, "class_name"] = next(
        name for name in place.task.classes if name != shuffled.loc[row, "class_name"]
    )
    shuffled.to_parquet(other.data("faces") / "index.parquet", index=False)
    with pytest.raises(UserError, match=r"digest .* make a new version: transfer board task small --why"):
        tasks.checked_truth("small", place.task, other)

    params = params_of_two(experiment="other")
    with pytest.raises(UserError, match="a new version; say --why"):
        tasks.fill("small", params, other, None)
    assert "small@2" in tasks.fill("small", params, other, "a label was wrong")
    filled = tasks.load_tasks()["small"]
    assert filled.version == 2 and [change.version for change in filled.changelog] == [1, 2]
    assert "as it says" in tasks.fill("small", params, other, None)


def test_an_unfilled_task_says_how_to_fill_it(place):  # noqa: F811
    empty = place.task.model_copy(update={"faces": None, "digest": None})
    with pytest.raises(UserError, match="transfer board task small"):
        tasks.checked_truth("small", empty, place.layout)
    tasks.write_task(tasks.FOLDER / "small.yaml", empty)
    tasks.fill("small", params_of_two(), place.layout, None)
    assert tasks.load_tasks()["small"] == place.task


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "changelog: expected versions 1 to 2"),
        ({"digest": None}, "faces and digest come together"),
        ({"classes": ["happy", "happy"]}, "appears twice"),
        ({"digset": 1}, "did you mean digest"),
    ],
)
def test_a_wrong_task_is_one_line(place, change, said):  # noqa: F811
    import yaml

    file = tasks.FOLDER / "small.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    with pytest.raises(UserError, match=said):
        tasks.load_tasks()
