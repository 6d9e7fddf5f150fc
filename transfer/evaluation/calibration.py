"""Calibration, and its bootstrap intervals over test faces; see docs/statistics.md."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from transfer.runs.predictions import probabilities_of

BINS = 15
RESAMPLES = 10_000
SEED = 0
# Smallest normal float32: where softmax in float32 says 0, the loss stays finite (87.3 at most).
_LEAST = float(np.finfo(np.float32).tiny)
# Entries of the matrix of resamples in memory at a time: as many as a core's cache holds.
_ENTRIES = 2**16


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """ece, adaptive_ece, nll and brier of N faces from ``probabilities`` (N, C) and ``labels`` (N,).

    ece: expected calibration error of the most probable class, 15 bins of equal width (Guo et al., ICML 2017);
    adaptive_ece: the same with 15 bins of as many faces each (Nguyen and O'Connor, EMNLP 2015); both fractions.
    nll: mean of -log p(label), in nats. brier: mean over the faces of the sum over the classes of (p - truth)², 0 to 2.
    """
    confidence, right = _top_label(probabilities, labels)
    # equal confidences share a quantile bin, whatever their order
    quantiles = np.searchsorted(np.quantile(confidence, np.arange(1, BINS) / BINS), confidence)
    errors = {
        name: float(np.abs(np.bincount(bins, confidence - right)).sum() / len(confidence))
        for name, bins in (("ece", _equal_width(confidence)), ("adaptive_ece", quantiles))
    }
    means = {"nll": _losses(probabilities, labels).mean(), "brier": _squares(probabilities, labels).mean()}
    return errors | {name: float(value) for name, value in means.items()}


def reliability_curve(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """The reliability diagram: low < confidence <= high, n, mean confidence and accuracy (NaN if n is 0) by bin."""
    confidence, right = _top_label(probabilities, labels)
    bins = _equal_width(confidence)
    count = np.bincount(bins, minlength=BINS)
    edges = np.arange(BINS + 1) / BINS
    columns = {"low": edges[:-1], "high": edges[1:], "n": count}
    for name, values in (("confidence", confidence), ("accuracy", right)):
        total = np.bincount(bins, values, minlength=BINS)
        columns[name] = np.divide(total, count, out=np.full(BINS, np.nan), where=count > 0)
    return pd.DataFrame(columns)


def _top_label(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == np.asarray(labels)


def _equal_width(confidence: np.ndarray) -> np.ndarray:
    return np.asarray(np.searchsorted(np.arange(1, BINS) / BINS, confidence))


def _losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.asarray(-np.log(np.clip(probabilities[np.arange(len(labels)), labels], _LEAST, None)))


def _squares(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.asarray(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1))


def bootstrap_intervals(runs: Sequence[pd.DataFrame], resamples: int = RESAMPLES) -> dict[str, tuple[float, float]]:
    """The 95 % interval (low, high) over test faces of the mean over ``runs`` of each of ``METRICS``.

    ``runs``: for each seed the rows of predictions.parquet of one split and protocol, of the same faces in any order. A
    resample has as many faces, taken with replacement, the same ones for all seeds. Basic interval (Davison and
    Hinkley, 1997, 5.2): 2 x value - quantile, cut to what is possible.
    """
    faces = [run.sort_values(["label", "sample"]) for run in runs]
    labels = faces[0]["label"].to_numpy()
    probabilities = [probabilities_of(run) for run in faces]
    columns = [
        np.hstack([terms(values, labels) for values in probabilities]) / len(runs) for terms, _ in METRICS.values()
    ]
    sums = np.vstack([counts @ np.hstack(columns) for counts in _counts(len(labels), resamples)])
    parts = np.split(sums, np.cumsum([part.shape[1] for part in columns])[:-1], axis=1)
    intervals = {}
    for (name, (_, most)), part, resampled in zip(METRICS.items(), columns, parts, strict=True):
        value = np.abs(part.sum(axis=0)).sum()
        upper, lower = np.quantile(np.abs(resampled).sum(axis=1), [0.975, 0.025])
        low, high = np.clip([2 * value - upper, 2 * value - lower], 0.0, most)
        intervals[name] = (float(low), float(high))
    return intervals


def _counts(faces: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each face is in a resample, resamples x faces, in chunks."""
    generator = np.random.default_rng(SEED)
    rows = max(_ENTRIES // faces, 1)
    for done in range(0, resamples, rows):
        count = min(rows, resamples - done)
        cells = generator.integers(0, faces, (count, faces)) + faces * np.arange(count)[:, None]
        yield np.bincount(cells.ravel(), minlength=count * faces).reshape(count, faces).astype(float)


def _gaps(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    confidence, right = _top_label(probabilities, labels)
    return np.asarray(np.eye(BINS)[_equal_width(confidence)] * (confidence - right)[:, None] / len(labels))


METRICS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], float]] = {
    "ece": (_gaps, 1.0),
    "nll": (lambda *run: _losses(*run)[:, None] / len(run[1]), np.inf),
    "brier": (lambda *run: _squares(*run)[:, None] / len(run[1]), 2.0),
}
"""Each metric is the sum over columns of the absolute sum over the faces of the columns (N, k) that a function makes of
probabilities and labels; and its largest possible value, the least being 0."""
