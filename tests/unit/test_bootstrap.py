import numpy as np
import pytest
from scipy import stats

from transfer.evaluation.calibration import METRICS, bootstrap_intervals, calibration
from transfer.runs.metrics import metrics
from transfer.runs.predictions import predictions_frame, probabilities_of

CLASSES = ["surprise", "fear", "disgust"]
# The generator and its seed are part of the result.
GOLDEN = {
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
        low, high = bootstrap_intervals([predictions], 500)[name]
        assert low < expected[name] < high


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
    low, high = bootstrap_intervals([predictions])[name]
    tolerance = 0.2 * expected.standard_error
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=tolerance)


def test_a_face_of_several_seeds_is_one_observation():
    one = bootstrap_intervals([run(0)])
    # three times the same run says no more than the run
    for name, interval in bootstrap_intervals([run(0)] * 3).items():
        assert interval == pytest.approx(one[name])


def test_several_seeds_have_the_mean_of_their_metric_not_the_metric_of_the_mean():
    several = [run(0, skill=0.5), run(1, skill=3)]
    low, high = bootstrap_intervals(several)["ece"]
    assert low < np.mean([values(part)["ece"] for part in several]) < high


def test_reproducible_to_the_digit_whatever_the_order_of_the_rows():
    predictions = run()
    first = bootstrap_intervals([predictions], 1000)
    assert bootstrap_intervals([predictions], 1000) == first
    assert bootstrap_intervals([predictions.sample(frac=1, random_state=1)], 1000) == first
    assert {name: tuple(round(end, 6) for end in interval) for name, interval in first.items()} == GOLDEN


def test_a_perfect_network_has_no_width():
    perfect = frame(np.eye(3)[[0, 1, 2, 0]], [0, 1, 2, 0])
    assert bootstrap_intervals([perfect], 100) == {
        "ece": (0.0, 0.0),
        "nll": (0.0, 0.0),
        "brier": (0.0, 0.0),
    }


def test_intervals_are_cut_to_what_is_possible():
    nearly = run(n=30, skill=4)
    intervals = bootstrap_intervals([nearly], 1000)
    assert all(0 <= low <= high for low, high in intervals.values())
    assert intervals["ece"][0] == 0.0 or intervals["ece"][1] < 1.0


def test_chunks_do_not_change_how_often_faces_are_drawn(monkeypatch):
    from transfer.evaluation import calibration as bootstrap

    monkeypatch.setattr(bootstrap, "_ENTRIES", 50)
    parts = list(bootstrap._counts(7, 25))
    assert [len(part) for part in parts] == [7, 7, 7, 4]
    counts = np.vstack(parts)
    assert (counts.sum(axis=1) == 7).all()
    assert len(np.unique(counts, axis=0)) > 20
