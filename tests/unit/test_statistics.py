import inspect
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from transfer.errors import UserError
from transfer.evaluation import statistics
from transfer.evaluation.statistics import Summary, paired_p_value, summary


def faces(right, total=10, label=0):
    """Make `total` faces of which those numbered in `right` were classified correctly."""
    index = pd.MultiIndex.from_tuples([(f"t{i:03d}", label) for i in range(total)], names=["sample", "label"])
    return pd.Series([i in set(right) for i in range(total)], index=index)


def test_summary_by_hand():
    # 0.8, 0.9, 0.7: mean 0.8, std 0.1, t(0.975, 2) = 4.3027
    result = summary([0.8, 0.9, 0.7])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert result.n == 3
    assert result.mean == pytest.approx(0.8)
    assert result.std == pytest.approx(0.1)
    assert result.ci95_low == pytest.approx(0.8 - half, abs=1e-6)
    assert result.ci95_high == 1.0  # 0.8 + half = 1.048, and no accuracy is above 1


@pytest.mark.parametrize("values", [[0.5, 0.52], [0.81, 0.83, 0.8], [0.91, 0.905, 0.9, 0.92, 0.915]])
def test_interval_is_that_of_scipy(values):
    result = summary(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (result.ci95_low, result.ci95_high) == pytest.approx((low, high))
    assert result.std == pytest.approx(pd.Series(values).std())


def test_equal_seeds_have_no_width():
    assert summary([0.5, 0.5]) == Summary(2, 0.5, 0.0, 0.5, 0.5)


def test_one_seed_has_wilsons_interval_and_no_deviation():
    result = summary([0.8], faces=(8, 10))
    z = 1.959964
    centre = (8 + z**2 / 2) / (10 + z**2)
    half = z / (10 + z**2) * math.sqrt(8 * 2 / 10 + z**2 / 4)
    assert (result.n, result.mean, result.std) == (1, 0.8, None)
    assert (result.ci95_low, result.ci95_high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert summary([0.8]) == Summary(1, 0.8, None, None, None)


def test_paired_t_is_that_of_scipy():
    ours = {0: faces(range(8)), 1: faces(range(9)), 2: faces(range(7))}
    base = {0: faces(range(6)), 1: faces(range(6)), 2: faces(range(6))}
    # differences 2, 3, 1: mean 2, std 1, t = 2 / (1 / sqrt 3) = 3.4641
    assert paired_p_value(ours, base) == pytest.approx(2 * stats.t.sf(2 * math.sqrt(3), 2))
    assert paired_p_value(ours, base) == pytest.approx(stats.ttest_rel([0.8, 0.9, 0.7], [0.6, 0.6, 0.6]).pvalue)
    assert paired_p_value(base, ours) == pytest.approx(paired_p_value(ours, base))


def test_pairs_are_made_by_seed_not_by_position():
    ours = {0: faces(range(5)), 1: faces(range(8)), 2: faces(range(9))}
    base = {2: faces(range(8)), 0: faces(range(3)), 1: faces(range(7))}
    assert paired_p_value(ours, base) == pytest.approx(stats.ttest_rel([5, 8, 9], [3, 7, 8]).pvalue)


def test_without_variance_the_t_test_is_one_or_undefined():
    base = {0: faces(range(3)), 1: faces(range(7))}
    # other faces, the same number of them: no difference in accuracy for either seed
    assert paired_p_value({0: faces([5, 6, 7]), 1: faces(range(3, 10))}, base) == 1.0
    assert paired_p_value({0: faces(range(4)), 1: faces(range(8))}, base) is None


def test_one_seed_is_mcnemars_exact_test():
    ours, base = faces(range(9)), faces([0, 1, 2, 9])
    # 6 faces won (3..8), 1 lost (9): p = 2 * (C(7,0) + C(7,1)) / 2^7
    assert paired_p_value({4: ours}, {4: base}) == pytest.approx(2 * (1 + 7) / 128)
    assert paired_p_value({4: ours}, {4: base}) == pytest.approx(stats.binomtest(6, 7, 0.5).pvalue)
    assert paired_p_value({4: base}, {4: ours}) == pytest.approx(2 * (1 + 7) / 128)
    assert paired_p_value({4: ours}, {4: ours}) == 1.0


def test_unequal_seeds_or_faces_are_refused():
    with pytest.raises(UserError, match=r"seeds \[0, 1\] against seeds \[0, 2\]"):
        paired_p_value({0: faces([1]), 1: faces([1])}, {0: faces([1]), 2: faces([1])})
    for other in (faces([1], total=9), faces([1], label=1)):
        with pytest.raises(UserError, match="different faces"):
            paired_p_value({0: faces([1])}, {0: other})
        with pytest.raises(UserError, match="different faces"):
            paired_p_value({0: faces([1]), 1: other}, {0: faces([1]), 1: faces([1])})


def test_nothing_returns_the_largest_seed():
    assert [
        name for name, _ in inspect.getmembers(statistics, inspect.isfunction) if "max" in name or "best" in name
    ] == []
    values = [0.5, 0.6, 0.9]
    result = summary(values)
    assert max(values) not in (result.mean, result.ci95_low, result.ci95_high)
