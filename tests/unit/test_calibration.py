import math

import numpy as np
import pytest

from transfer.evaluation.calibration import BINS, calibration, reliability_curve


def two_classes(confidence, right):
    """Make probabilities of two classes and labels with these confidences in class 0."""
    confidence = np.asarray(confidence, dtype=float)
    return np.stack([confidence, 1 - confidence], axis=1), np.where(right, 0, 1)


def random_run(seed, n=400, classes=5, spread=2.0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=spread, size=(n, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, generator.integers(classes, size=n)


def test_a_case_by_hand():
    # bins of 1/15: 0.9 and 0.92 in (13/15, 14/15], 0.61 and 0.65 in (9/15, 10/15], 0.96 in (14/15, 1]
    probabilities, labels = two_classes([0.9, 0.92, 0.61, 0.65, 0.96], [True, False, True, True, False])
    result = calibration(probabilities, labels)
    gaps = abs(1 - 1.82) + abs(2 - 1.26) + abs(0 - 0.96)
    assert result["ece"] == pytest.approx(gaps / 5)
    assert result["nll"] == pytest.approx(-sum(map(math.log, [0.9, 0.08, 0.61, 0.65, 0.04])) / 5)
    assert result["brier"] == pytest.approx(2 * (0.1**2 + 0.92**2 + 0.39**2 + 0.35**2 + 0.96**2) / 5)
    # five faces in fifteen bins of as many each: every face has its own
    assert result["adaptive_ece"] == pytest.approx((0.1 + 0.92 + 0.39 + 0.35 + 0.96) / 5)


def test_reliability_curve_by_hand():
    probabilities, labels = two_classes([0.9, 0.92, 0.61, 0.65, 0.96], [True, False, True, True, False])
    curve = reliability_curve(probabilities, labels)
    assert list(curve.columns) == ["low", "high", "n", "confidence", "accuracy"]
    assert len(curve) == BINS == 15
    assert curve["n"].tolist() == [0] * 9 + [2, 0, 0, 0, 2, 1]
    assert curve.loc[[9, 13, 14], "confidence"].tolist() == pytest.approx([0.63, 0.91, 0.96])
    assert curve.loc[[9, 13, 14], "accuracy"].tolist() == [1.0, 0.5, 0.0]
    assert curve.loc[curve["n"] == 0, ["confidence", "accuracy"]].isna().all(axis=None)
    assert (curve["low"].iloc[0], curve["high"].iloc[-1]) == (0, 1)
    assert curve["low"].tolist()[1:] == curve["high"].tolist()[:-1]


def test_certainty_falls_into_the_last_bin_and_an_edge_into_the_lower_one():
    curve = reliability_curve(*two_classes([1.0, 0.6, 14 / 15], [True, True, True]))
    assert curve["n"].tolist() == [0] * 8 + [1, 0, 0, 0, 0, 1, 1]


def test_perfect_and_worst():
    certain = np.eye(3)[[0, 1, 2]]
    assert calibration(certain, np.array([0, 1, 2])) == {"ece": 0.0, "adaptive_ece": 0.0, "nll": 0.0, "brier": 0.0}
    worst = calibration(certain, np.array([1, 2, 0]))
    assert (worst["ece"], worst["adaptive_ece"], worst["brier"]) == (1.0, 1.0, 2.0)
    assert worst["nll"] == pytest.approx(-math.log(np.finfo(np.float32).tiny))  # finite


def test_uniform_probabilities_are_calibrated_at_one_over_the_classes():
    result = calibration(np.full((8, 4), 0.25), np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    assert result == pytest.approx({"ece": 0, "adaptive_ece": 0, "nll": math.log(4), "brier": 0.75})


def test_adaptive_bins_hold_as_many_faces_each():
    # 30 faces, two a bin: each pair is half right, at the mean confidence of the pair
    confidence = np.linspace(0.71, 0.99, 30)
    result = calibration(*two_classes(confidence, [i % 2 == 0 for i in range(30)]))
    assert result["adaptive_ece"] == pytest.approx(np.mean(confidence.reshape(15, 2).mean(axis=1) - 0.5))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_faces_does_not_matter_even_with_ties(seed):
    generator = np.random.default_rng(seed)
    probabilities, labels = two_classes(generator.integers(51, 60, 200) / 100, generator.random(200) < 0.7)
    order = generator.permutation(200)
    assert calibration(probabilities[order], labels[order]) == pytest.approx(calibration(probabilities, labels))


@pytest.mark.parametrize("seed", range(10))
def test_curve_and_error_agree(seed):
    probabilities, labels = random_run(seed)
    curve = reliability_curve(probabilities, labels)
    gaps = curve["n"] * (curve["accuracy"] - curve["confidence"]).abs()
    assert curve["n"].sum() == len(labels)
    assert gaps.sum() / len(labels) == pytest.approx(calibration(probabilities, labels)["ece"])


@pytest.mark.parametrize("seed", range(10))
def test_equal_to_torchmetrics(seed):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    probabilities, labels = random_run(seed)
    expected = functional.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=5, n_bins=15, norm="l1"
    )
    assert calibration(probabilities, labels)["ece"] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_equal_to_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    curves = pytest.importorskip("sklearn.calibration")
    probabilities, labels = random_run(seed)
    result = calibration(probabilities, labels)
    assert result["nll"] == pytest.approx(metrics.log_loss(labels, probabilities))
    assert result["brier"] == pytest.approx(
        metrics.brier_score_loss(labels, probabilities, labels=range(5), scale_by_half=False)
    )
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    accuracy, mean = curves.calibration_curve(right, confidence, n_bins=15)
    curve = reliability_curve(probabilities, labels).dropna()
    assert curve["accuracy"].to_numpy() == pytest.approx(accuracy)
    assert curve["confidence"].to_numpy() == pytest.approx(mean)
    assert np.isfinite(result["adaptive_ece"])


@pytest.mark.parametrize("seed", range(5))
def test_adaptive_error_is_that_of_scikit_learns_quantile_bins(seed):
    curves = pytest.importorskip("sklearn.calibration")
    probabilities, labels = random_run(seed, n=450)  # 30 faces a bin
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    accuracy, mean = curves.calibration_curve(right, confidence, n_bins=15, strategy="quantile")
    assert calibration(probabilities, labels)["adaptive_ece"] == pytest.approx(np.abs(accuracy - mean).mean(), abs=1e-9)
