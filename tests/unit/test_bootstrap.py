import numpy as np
import pandas as pd
import pytest
from scipy import stats

from transfer.evaluation.calibration import METRICS, bootstrap_intervals, calibration
from transfer.runs.metrics import metrics
from transfer.runs.predictions import predictions_frame, probabilities_of
from transfer.utils.errors import UserError

CLASSES = ["surprise", "fear", "disgust"]
# The generator and its seed are part of the result.
GOLDEN = {
    "accuracy": (0.729917, 0.823333),
    "mean_class_accuracy": (0.768915, 0.86281),
    "ece": (0.081261, 0.149949),
    "nll": (0.516271, 0.632052),
    "brier": (0.281558, 0.358851),
}


def run(seed=0, n=300, shares=(0.6, 0.3, 0.1), skill=1.5):
    """Make the predictions of a network of some skill; the faces are the same for every seed."""
    labels = np.random.default_rng(99).choice(3, size=n, p=shares)
    logits = np.random.default_rng(seed).normal(size=(n, 3))
    logits[np.arange(n), labels] += skill
    return frame(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels)


def frame(probabilities, labels):
    samples = [f"t{i:04d}" for i in range(len(labels))]
    return predictions_frame(samples, labels, probabilities, CLASSES, split="test", protocol="last", epoch=1)


def values(predictions):
    probabilities, labels = probabilities_of(predictions), predictions["label"].to_numpy()
    return metrics(probabilities, labels, CLASSES) | calibration(probabilities, labels)


def test_every_metric_is_the_one_of_its_name():
    predictions = run()
    probabilities, labels = probabilities_of(predictions), predictions["label"].to_numpy()
    expected = values(predictions)
    for name, (terms_of, _) in METRICS.items():
        terms = terms_of(probabilities, labels)
        assert np.abs(terms.sum(axis=0)).sum() == pytest.approx(expected[name])
        low, high = bootstrap_intervals([predictions], [name], 500)[name]
        assert low < expected[name] < high


def test_basic_interval_by_hand():
    # one face of two is right: a resample has 0, 1 or 2 right ones with 1/4, 1/2, 1/4, so the quantiles are 0 and 1
    halves = frame(np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]]), [0, 1])
    assert bootstrap_intervals([halves], ["accuracy"], 400)["accuracy"] == (0.0, 1.0)
    # drawn within its class, each face is always there
    assert bootstrap_intervals([halves], ["mean_class_accuracy"], 400)["mean_class_accuracy"] == (0.5, 0.5)


def test_accuracy_has_the_quantiles_of_the_binomial():
    predictions = run(n=1000)
    right = round(values(predictions)["accuracy"] * 1000)
    low, high = bootstrap_intervals([predictions], ["accuracy"])["accuracy"]
    assert low == pytest.approx((2 * right - stats.binom.ppf(0.975, 1000, right / 1000)) / 1000, abs=0.0011)
    assert high == pytest.approx((2 * right - stats.binom.ppf(0.025, 1000, right / 1000)) / 1000, abs=0.0011)
    wilson = stats.binomtest(right, 1000).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=0.004)


@pytest.mark.parametrize("name", ["ece", "nll", "brier"])
def test_equal_to_scipys_basic_interval(name):
    predictions = run()
    probabilities, labels = probabilities_of(predictions), predictions["label"].to_numpy()
    expected = stats.bootstrap(
        (np.arange(len(labels)),),
        lambda faces: calibration(probabilities[faces], labels[faces])[name],
        n_resamples=1500,
        vectorized=False,
        method="basic",
        rng=0,
    )
    low, high = bootstrap_intervals([predictions], [name])[name]
    tolerance = 0.2 * expected.standard_error
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=tolerance)


def test_mean_class_accuracy_is_drawn_within_the_classes():
    predictions = run()
    labels = predictions["label"].to_numpy()
    right = probabilities_of(predictions).argmax(axis=1) == labels
    expected = stats.bootstrap(
        [right[labels == label].astype(float) for label in range(3)],
        lambda *classes, axis: np.mean([part.mean(axis=axis) for part in classes], axis=0),
        n_resamples=10_000,
        method="basic",
        rng=0,
    )
    found = bootstrap_intervals([predictions], ["mean_class_accuracy"])["mean_class_accuracy"]
    assert found == pytest.approx(tuple(expected.confidence_interval), abs=0.25 * expected.standard_error)


def test_a_face_of_several_seeds_is_one_observation():
    one = bootstrap_intervals([run(0)], ["accuracy", "ece"])
    # three times the same run says no more than the run
    for name, interval in bootstrap_intervals([run(0)] * 3, ["accuracy", "ece"]).items():
        assert interval == pytest.approx(one[name])
    several = [run(seed) for seed in range(3)]
    low, high = bootstrap_intervals(several, ["accuracy"])["accuracy"]
    hits = np.mean([probabilities_of(part).argmax(axis=1) == part["label"] for part in several], axis=0)
    spread = 1.96 * hits.std() / np.sqrt(len(hits))
    assert (low, high) == pytest.approx((hits.mean() - spread, hits.mean() + spread), abs=0.004)


def test_several_seeds_have_the_mean_of_their_metric_not_the_metric_of_the_mean():
    several = [run(0, skill=0.5), run(1, skill=3)]
    low, high = bootstrap_intervals(several, ["ece"])["ece"]
    assert low < np.mean([values(part)["ece"] for part in several]) < high


def test_reproducible_to_the_digit_whatever_the_order_of_the_rows():
    predictions = run()
    first = bootstrap_intervals([predictions], list(METRICS), 1000)
    assert bootstrap_intervals([predictions], list(METRICS), 1000) == first
    assert bootstrap_intervals([predictions.sample(frac=1, random_state=1)], list(METRICS), 1000) == first
    assert {name: tuple(round(end, 6) for end in interval) for name, interval in first.items()} == GOLDEN
    for name in METRICS:  # alone as together with others
        assert bootstrap_intervals([predictions], [name], 1000)[name] == pytest.approx(first[name])


def test_a_perfect_network_has_no_width():
    perfect = frame(np.eye(3)[[0, 1, 2, 0]], [0, 1, 2, 0])
    assert bootstrap_intervals([perfect], list(METRICS), 100) == {
        "accuracy": (1.0, 1.0),
        "mean_class_accuracy": (1.0, 1.0),
        "ece": (0.0, 0.0),
        "nll": (0.0, 0.0),
        "brier": (0.0, 0.0),
    }


def test_intervals_are_cut_to_what_is_possible():
    nearly = run(n=30, skill=4)
    intervals = bootstrap_intervals([nearly], list(METRICS), 1000)
    assert all(0 <= low <= high for low, high in intervals.values())
    assert intervals["accuracy"][1] == 1.0


def test_classes_without_faces_do_not_count():
    two = run(shares=(0.7, 0.3, 0.0))
    low, high = bootstrap_intervals([two], ["mean_class_accuracy"], 1000)["mean_class_accuracy"]
    assert low < values(two)["mean_class_accuracy"] < high


def test_refused():
    predictions = run()
    with pytest.raises(UserError, match="a face twice"):
        bootstrap_intervals([pd.concat([predictions, predictions])], ["accuracy"])
    with pytest.raises(UserError, match="no faces"):
        bootstrap_intervals([predictions.head(0)], ["accuracy"])
    for other in (
        predictions.head(299),
        predictions.assign(label=0),
        predictions.assign(sample=predictions["sample"] + "x"),
    ):
        with pytest.raises(UserError, match="different faces"):
            bootstrap_intervals([predictions, other], ["accuracy"])


def test_chunks_do_not_change_how_often_faces_are_drawn(monkeypatch):
    from transfer.evaluation import calibration as bootstrap

    monkeypatch.setattr(bootstrap, "_ENTRIES", 50)
    parts = list(bootstrap._counts(np.array([3, 4]), 25))
    assert [len(part) for part in parts] == [7, 7, 7, 4]
    counts = np.vstack(parts)
    assert (counts[:, :3].sum(axis=1) == 3).all()
    assert (counts[:, 3:].sum(axis=1) == 4).all()
    assert len(np.unique(counts, axis=0)) > 20
