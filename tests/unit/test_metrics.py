import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from transfer.runs.metrics import evaluate, metrics, read_metrics, run_metrics
from transfer.runs.predictions import predictions_frame, write_predictions
from transfer.utils.errors import UserError
from transfer.utils.files import sha256

CLASSES = ["surprise", "fear", "disgust"]
IDENTITY = {"experiment": "demo", "dataset": "demo_rafdb", "recipe": "full", "seed": 1}


def one_hot(predicted, count=3):
    return np.eye(count)[predicted]


def test_a_case_by_hand():
    # truth 0 0 0 0 1 1, predicted 0 0 0 1 1 0: recalls 3/4 and 1/2, no face of class 2
    result = metrics(one_hot([0, 0, 0, 1, 1, 0]), np.array([0, 0, 0, 0, 1, 1]), CLASSES)
    assert result["n"] == 6
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert result["mean_class_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert result["macro_f1"] == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert result["per_class_recall"] == {"surprise": 0.75, "fear": 0.5, "disgust": None}
    assert result["confusion"] == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_rows_of_the_confusion_matrix_are_the_truth():
    assert metrics(one_hot([2]), np.array([0]), CLASSES)["confusion"] == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_ties_go_to_the_first_class():
    assert metrics(np.array([[0.4, 0.4, 0.2]]), np.array([0]), CLASSES)["accuracy"] == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_scikit_learn(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(seed)
    count, n = int(generator.integers(2, 9)), int(generator.integers(1, 60))
    # the fourth power leaves the last classes empty now and then
    labels = (generator.random(n) ** 4 * count).astype(np.int64)
    probabilities = generator.dirichlet(np.ones(count), size=n)
    predicted = probabilities.argmax(axis=1)
    result = metrics(probabilities, labels, [str(i) for i in range(count)])
    present = np.unique(labels)
    recall = sklearn.recall_score(labels, predicted, labels=range(count), average=None, zero_division=np.nan)
    assert result["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, predicted))
    assert result["mean_class_accuracy"] == pytest.approx(
        sklearn.recall_score(labels, predicted, labels=present, average="macro", zero_division=0)
    )
    assert result["macro_f1"] == pytest.approx(sklearn.f1_score(labels, predicted, average="macro", zero_division=0))
    assert result["confusion"] == sklearn.confusion_matrix(labels, predicted, labels=range(count)).tolist()
    for name, value in result["per_class_recall"].items():
        assert value == (None if int(name) not in present else pytest.approx(recall[int(name)]))


def predictions():
    def part(predicted, split, protocol, epoch, prefix):
        samples = [f"{prefix}{i}" for i in range(len(predicted))]
        labels = [i % 3 for i in range(len(predicted))]
        return predictions_frame(
            samples, labels, one_hot(predicted), CLASSES, split=split, protocol=protocol, epoch=epoch
        )

    return pd.concat(
        [
            part([0, 1, 2, 0], "test", "last", 9, "t"),
            part([0, 0, 0], "val", "last", 9, "v"),
            part([1, 1, 1, 1], "test", "test_selected", 4, "t"),
        ],
        ignore_index=True,
    )


def test_run_metrics_are_per_protocol_and_split():
    protocols = run_metrics(predictions())["protocols"]
    assert list(protocols) == ["last", "test_selected"]
    assert protocols["last"]["epoch"] == 9
    assert protocols["test_selected"]["epoch"] == 4
    assert list(protocols["last"]["splits"]) == ["val", "test"]
    assert list(protocols["test_selected"]["splits"]) == ["test"]
    assert protocols["last"]["splits"]["test"]["accuracy"] == 1.0
    assert protocols["last"]["splits"]["val"]["accuracy"] == pytest.approx(1 / 3)
    assert protocols["test_selected"]["splits"]["test"]["accuracy"] == 0.25


def test_evaluate_writes_what_it_returns(tmp_path):
    write_predictions(tmp_path / "predictions.parquet", predictions())
    content = evaluate(tmp_path, **IDENTITY)
    assert json.loads((tmp_path / "metrics.json").read_text()) == content
    assert list(content) == ["experiment", "dataset", "recipe", "seed", "classes", "protocols", "predictions_sha256"]
    assert {key: content[key] for key in IDENTITY} == IDENTITY
    assert content["predictions_sha256"] == sha256(tmp_path / "predictions.parquet")
    assert read_metrics(tmp_path, **IDENTITY) == content


def test_subsets_are_parts_of_the_test_split():
    names = [("occlusion", "t0"), ("occlusion", "t3"), ("pose30", "t1"), ("pose30", "v0"), ("pose45", "nobody")]
    subsets = pd.DataFrame(names, columns=["subset", "sample"])
    protocols = run_metrics(predictions(), subsets)["protocols"]
    assert list(protocols["last"]["subsets"]) == ["occlusion", "pose30"]
    assert protocols["last"]["subsets"]["occlusion"]["n"] == 2
    assert protocols["last"]["subsets"]["occlusion"]["accuracy"] == 1.0
    assert protocols["last"]["subsets"]["pose30"]["n"] == 1, "v0 is no test face"
    assert protocols["test_selected"]["subsets"]["occlusion"]["accuracy"] == 0.0
    assert protocols["test_selected"]["subsets"]["pose30"]["accuracy"] == 1.0
    whole = pd.DataFrame({"subset": "all", "sample": ["t0", "t1", "t2", "t3"]})
    last = run_metrics(predictions(), whole)["protocols"]["last"]
    assert last["subsets"]["all"] == last["splits"]["test"]


def test_evaluate_notes_which_subsets(tmp_path):
    write_predictions(tmp_path / "predictions.parquet", predictions())
    file = tmp_path / "subsets.parquet"
    pd.DataFrame({"sample": ["t1"], "subset": ["pose30"]}).to_parquet(file)
    content = evaluate(tmp_path, **IDENTITY, subsets=file)
    assert content["subsets_sha256"] == sha256(file)
    assert content["protocols"]["last"]["subsets"]["pose30"]["n"] == 1
    assert read_metrics(tmp_path, **IDENTITY) == content


@pytest.fixture
def evaluated(tmp_path):
    write_predictions(tmp_path / "predictions.parquet", predictions())
    evaluate(tmp_path, **IDENTITY)
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value"), [("experiment", "other"), ("dataset", "rafdb"), ("recipe", "msad"), ("seed", 2)]
)
def test_metrics_of_another_run_are_refused(evaluated, key, value):
    with pytest.raises(UserError, match=f"metrics.json: {key} is .*, expected {value!r}; .*snakemake"):
        read_metrics(evaluated, **IDENTITY | {key: value})


def test_truncated_missing_and_outdated_metrics_are_refused(evaluated):
    path = evaluated / "metrics.json"
    text = path.read_text()
    path.write_text(text[:-20])
    with pytest.raises(UserError, match="metrics.json: not valid JSON") as error:
        read_metrics(evaluated, **IDENTITY)
    assert "\n" not in str(error.value)
    path.write_text("[]")
    with pytest.raises(UserError, match="metrics.json: not a JSON object"):
        read_metrics(evaluated, **IDENTITY)
    path.unlink()
    with pytest.raises(UserError, match=f"metrics.json: missing.*snakemake --cores all {path}"):
        read_metrics(evaluated, **IDENTITY)
    path.write_text(text)
    write_predictions(evaluated / "predictions.parquet", predictions().iloc[1:])
    with pytest.raises(UserError, match="metrics.json: not computed from the present predictions.parquet"):
        read_metrics(evaluated, **IDENTITY)
    (evaluated / "predictions.parquet").unlink()
    with pytest.raises(UserError, match="predictions.parquet: missing"):
        read_metrics(evaluated, **IDENTITY)


def test_metrics_are_computed_without_pandas_and_runs_are_read_without_torch(evaluated):
    """`transfer evaluate` runs once per training: what it imports is most of its time."""
    code = f"""
import sys
from transfer.runs.metrics import evaluate
evaluate({str(evaluated)!r}, experiment="demo", dataset="demo_rafdb", recipe="full", seed=1)
assert not {{"pandas", "torch", "scipy"}} & set(sys.modules)
import transfer.runs.read, transfer.runs.evaluations
assert not {{"torch", "scipy", "timm"}} & set(sys.modules)
"""
    before = (evaluated / "metrics.json").read_bytes()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (evaluated / "metrics.json").read_bytes() == before
