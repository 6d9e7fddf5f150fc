"""Statistics over seeds: mean, spread, interval, and the paired comparison with a baseline; see docs/statistics.md."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from transfer.errors import UserError


@dataclass(frozen=True)
class Summary:
    """n values, their mean, standard deviation (ddof 1) and 95 % interval; None where undefined."""

    n: int
    mean: float
    std: float | None
    ci95_low: float | None
    ci95_high: float | None


def summary(values: Sequence[float], faces: tuple[int, int] | None = None) -> Summary:
    """Summarise one fraction in [0, 1] per seed.

    Two seeds or more: Student's t interval of the mean, cut to [0, 1]. One seed: no standard deviation, and the
    interval is Wilson's over the test faces, ``faces`` = (correct, total); without ``faces`` there is none.
    """
    mean = float(np.mean(values))
    if len(values) == 1:
        if faces is None:
            return Summary(1, mean, None, None, None)
        interval = stats.binomtest(*faces).proportion_ci(0.95, method="wilson")
        return Summary(1, mean, None, float(interval.low), float(interval.high))
    std = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return Summary(len(values), mean, std, max(mean - half, 0.0), min(mean + half, 1.0))


def paired_p_value(run: Mapping[int, pd.Series], baseline: Mapping[int, pd.Series]) -> float | None:
    """Return the two-sided p-value of ``run`` against ``baseline``: seed -> correct_faces of the test split.

    Two seeds or more: paired t test of the numbers of correct faces, seed by seed. One seed: exact McNemar test over
    the faces. If all seeds differ by the same number of faces, the t test has no variance to measure against: 1.0
    where that number is 0, else None. Raises UserError for unequal seeds or different test faces.
    """
    if run.keys() != baseline.keys():
        raise UserError(
            f"paired test: seeds {sorted(run)} against seeds {sorted(baseline)} of the baseline, expected the same; "
            "train the missing ones"
        )
    first = next(iter(baseline.values()))
    if not all(same_faces(first, faces) for faces in (*run.values(), *baseline.values())):
        raise UserError("paired test: the runs were tested on different faces, expected the same; evaluate them again")
    if len(run) == 1:
        ((ours, theirs),) = ((run[seed], baseline[seed]) for seed in run)
        won, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
        return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    # counts, not fractions: integer differences tell "no variance" from rounding
    differences = np.array([int(run[seed].sum()) - int(baseline[seed].sum()) for seed in run])
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else None
    return float(stats.ttest_1samp(differences, 0).pvalue)


def same_faces(first: pd.Series, second: pd.Series) -> bool:
    """Say whether two series of ``correct_faces`` hold the same samples with the same labels."""
    return first.index.equals(second.index)
