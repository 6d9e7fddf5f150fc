"""Statistics over seeds and faces: mean, spread, interval, comparison with a baseline; see docs/statistics.md."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special, stats

from transfer.utils.errors import UserError


@dataclass(frozen=True)
class Summary:
    """n values, their mean, standard deviation (ddof 1) and 95 % interval; None where undefined."""

    n: int
    mean: float
    std: float | None
    ci95_low: float | None
    ci95_high: float | None


def summary(
    values: Sequence[float], faces: tuple[int, int] | None = None, within: tuple[float, float] = (0.0, 1.0)
) -> Summary:
    """Summarise one value per seed, all NaN if one is.

    Two seeds or more: Student's t interval of the mean, cut to the range ``within``. One seed: no standard deviation,
    and the interval is Wilson's over the test faces, ``faces`` = (correct, total); without ``faces`` there is none.
    """
    mean = float(np.mean(values))
    if len(values) == 1:
        if faces is None:
            return Summary(1, mean, None, None, None)
        return Summary(1, mean, None, *_wilson(*faces))
    std = float(np.std(values, ddof=1))
    half = _student_half(std, len(values))
    low, high = np.clip([mean - half, mean + half], *within)
    return Summary(len(values), mean, std, float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """A recipe against the baseline, paired by seed and face: fractions in [-1, 1]; None where undefined.

    ``n`` seeds; ``difference`` of the accuracies' means; its 95 % interval; two-sided ``p_value``; ``effect_size``,
    which is ``effect_name``: "hedges_gz" for two seeds or more, "cohens_g" for one.
    """

    n: int
    difference: float
    ci95_low: float | None
    ci95_high: float | None
    p_value: float | None
    effect_size: float | None
    effect_name: str


def paired_difference(run: Mapping[int, pd.Series], baseline: Mapping[int, pd.Series]) -> Difference:
    """Compare ``run`` with ``baseline``: seed -> ``correct_faces`` of the test split.

    Two seeds or more: Student's t interval and test of the differences, seed by seed, and Hedges' g_z. If all seeds
    differ by the same number of faces there is no variance to measure against: no interval, no effect size, and the
    p-value is 1.0 where that number is 0, else None. One seed: Newcombe's interval for matched proportions (1998,
    method 10), the exact McNemar test over the faces, and Cohen's g, None if no face tells the two apart. Raises
    UserError for unequal seeds or different test faces.
    """
    if run.keys() != baseline.keys():
        raise UserError(
            f"paired test: seeds {sorted(run)} against seeds {sorted(baseline)} of the baseline, expected the same; "
            "train the missing ones"
        )
    first = next(iter(baseline.values()))
    if not all(first.index.equals(faces.index) for faces in (*run.values(), *baseline.values())):
        raise UserError("paired test: the runs were tested on different faces, expected the same; evaluate them again")
    if len(run) == 1:
        ((ours, theirs),) = ((run[seed].to_numpy(), baseline[seed].to_numpy()) for seed in run)
        return _over_faces(ours, theirs)
    # counts, not fractions: integer differences tell "no variance" from rounding
    return _over_seeds(np.array([int(run[seed].sum()) - int(baseline[seed].sum()) for seed in run]), len(first))


def faces_and_seeds(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Two-sided p-value of a difference in mean accuracy between methods of any seeds, tested on the same N faces.

    ``ours`` (n, N) and ``theirs`` (m, N) say which faces each seed got right. One seed each: exact McNemar test.
    Otherwise a t-test whose variance is that of the differences over the faces plus that of each method over its seeds,
    with Welch and Satterthwaite's degrees of freedom; both hold the noise of single answers, so it errs on the safe
    side. A single run is taken to vary over seeds as much as the other method does.
    """
    if len(ours) == len(theirs) == 1:
        return float(_over_faces(ours[0], theirs[0]).p_value or 0.0)
    apart = ours.mean(axis=0) - theirs.mean(axis=0)
    spreads = [(runs.mean(axis=1).var(ddof=1), len(runs)) for runs in (ours, theirs) if len(runs) > 1]
    parts = [(apart.var(ddof=1) / len(apart), len(apart) - 1)]
    for runs in (ours, theirs):
        spread, n = (runs.mean(axis=1).var(ddof=1), len(runs)) if len(runs) > 1 else spreads[0]
        parts.append((spread / len(runs), n - 1))
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return float(apart.mean() == 0)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    return float(2 * stats.t.sf(abs(apart.mean()) / math.sqrt(variance), freedom))


def visible_difference(faces: int, disagreement: float, tests: int = 1) -> float | None:
    """Least difference in accuracy, a fraction, that tells two single runs apart at 5 % by the exact McNemar test.

    They differ in who is right on the share ``disagreement`` of the ``faces``; ``tests`` is the size of the family that
    Bonferroni, and Holm at its first step, correct for. None if no difference would do.
    """
    apart = round(disagreement * faces)
    won = np.arange(apart // 2, apart + 1)
    enough = won[2 * stats.binom.sf(won - 1, apart, 0.5) * tests < 0.05]
    return float(2 * enough[0] - apart) / faces if len(enough) else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values of one family, corrected so that all its claims together err with at most 5 % at 0.05.

    Holm's step-down method (Scandinavian Journal of Statistics 6, 1979), which assumes nothing of how the tests hang
    together. Undefined ones (None or NaN) stay, and do not count.
    """
    values = np.array([np.nan if p is None else p for p in p_values], dtype=float)
    defined = np.flatnonzero(~np.isnan(values))
    order = defined[np.argsort(values[defined], kind="stable")]
    # the smallest of m is multiplied by m, the next by m - 1, ...; a larger p never ends below a smaller one
    values[order] = np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return [p if p is None or np.isnan(p) else float(value) for p, value in zip(p_values, values, strict=True)]


def _over_seeds(differences: np.ndarray, faces: int) -> Difference:
    """The paired comparison from the differences of correct faces, one per seed, of ``faces``."""
    n, mean = len(differences), float(differences.mean()) / faces
    if np.ptp(differences) == 0:
        return Difference(n, mean, None, None, 1.0 if differences[0] == 0 else None, None, "hedges_gz")
    std = float(differences.std(ddof=1)) / faces
    half = _student_half(std, n)
    return Difference(
        n,
        mean,
        max(mean - half, -1.0),
        min(mean + half, 1.0),
        float(stats.ttest_1samp(differences, 0).pvalue),
        # with one degree of freedom the factor is 0: two seeds do not tell how large an effect is
        _hedges(n - 1) * mean / std if n > 2 else None,
        "hedges_gz",
    )


def _over_faces(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """The paired comparison of one seed, from which faces each of the two got right."""
    total = len(ours)
    won, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    low, high = _newcombe(int((ours & theirs).sum()), won, lost, int((~ours & ~theirs).sum()))
    p_value = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    effect = won / (won + lost) - 0.5 if won + lost else None
    return Difference(1, (won - lost) / total, low, high, p_value, effect, "cohens_g")


def _hedges(degrees: int) -> float:
    """Exact factor that takes the bias from a standardised difference (Hedges, J. Educ. Stat. 6, 1981)."""
    return math.exp(special.gammaln(degrees / 2) - special.gammaln((degrees - 1) / 2)) / math.sqrt(degrees / 2)


def _student_half(std: float, n: int) -> float:
    return float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)


def _wilson(right: int, total: int) -> tuple[float, float]:
    interval = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def _newcombe(both: int, won: int, lost: int, neither: int) -> tuple[float, float]:
    """95 % interval of (won - lost) / faces (Newcombe, Statistics in Medicine 17, 2635-2650, 1998, method 10).

    The distances from the two accuracies to the ends of their Wilson intervals, added in squares as for two correlated
    numbers; a positive correlation is corrected for continuity.
    """
    n = both + won + lost + neither
    ours, theirs = (both + won) / n, (both + lost) / n
    (our_low, our_high), (their_low, their_high) = _wilson(both + won, n), _wilson(both + lost, n)
    covariance: float = both * neither - won * lost
    if covariance > 0:
        covariance = max(covariance - n / 2, 0)
    margins = (both + won) * (lost + neither) * (both + lost) * (won + neither)
    correlation = covariance / math.sqrt(margins) if margins else 0.0

    def add(first: float, second: float) -> float:
        # never below 0 but by rounding
        return math.sqrt(max(first**2 - 2 * correlation * first * second + second**2, 0.0))

    difference = ours - theirs
    low = difference - add(ours - our_low, their_high - theirs)
    return low, difference + add(our_high - ours, theirs - their_low)
