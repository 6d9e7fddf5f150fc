"""Calibration: whether a network is right as often as it says; see docs/statistics.md."""

import numpy as np
import pandas as pd

BINS = 15
# Smallest normal float32: where softmax in float32 says 0, the loss stays finite (87.3 at most).
_LEAST = float(np.finfo(np.float32).tiny)


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return ece, adaptive_ece, nll and brier of N faces from ``probabilities`` (N, C) and ``labels`` (N,).

    ece: expected calibration error of the most probable class, 15 bins of equal width (Guo et al., ICML 2017);
    adaptive_ece: the same with 15 bins of as many faces each (Nguyen and O'Connor, EMNLP 2015); both fractions.
    nll: mean of -log p(label), in nats. brier: mean over the faces of the sum over the classes of (p - truth)², 0 to 2.
    """
    confidence, right = top_label(probabilities, labels)
    return {
        "ece": _error(confidence, right, equal_width(confidence)),
        "adaptive_ece": _error(confidence, right, _equal_mass(confidence)),
        "nll": float(losses(probabilities, labels).mean()),
        "brier": float(squares(probabilities, labels).mean()),
    }


def reliability_curve(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Return the reliability diagram of N faces: a row per bin of equal width, also where no face falls into it.

    Columns low and high (the bin is low < confidence <= high), n faces, their mean confidence and their accuracy, both
    NaN where n is 0.
    """
    confidence, right = top_label(probabilities, labels)
    bins = equal_width(confidence)
    count = np.bincount(bins, minlength=BINS)
    edges = np.arange(BINS + 1) / BINS

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(bins, values, minlength=BINS)
        return np.divide(total, count, out=np.full(BINS, np.nan), where=count > 0)

    return pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "n": count, "confidence": mean(confidence), "accuracy": mean(right)}
    )


def top_label(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each face's most probable class, and whether it is the label; on a tie the first."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == np.asarray(labels)


def equal_width(confidence: np.ndarray) -> np.ndarray:
    """Return each face's bin, 0 to ``BINS`` - 1; a confidence on an edge belongs to the bin below it."""
    return np.searchsorted(np.arange(1, BINS) / BINS, confidence)


def losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return -log p(label) of each face, in nats."""
    return -np.log(np.clip(probabilities[np.arange(len(labels)), labels], _LEAST, None))


def squares(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the squared distance of each face's probabilities from its label's, 0 to 2."""
    return ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)


def _equal_mass(confidence: np.ndarray) -> np.ndarray:
    """Each face's bin between quantiles of all confidences; equal confidences share a bin, whatever their order."""
    return np.searchsorted(np.quantile(confidence, np.arange(1, BINS) / BINS), confidence)


def _error(confidence: np.ndarray, right: np.ndarray, bins: np.ndarray) -> float:
    """Mean over the faces of |accuracy - confidence| of their bin."""
    return float(np.abs(np.bincount(bins, confidence - right)).sum() / len(confidence))
