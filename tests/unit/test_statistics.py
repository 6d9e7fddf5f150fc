import inspect
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from transfer.evaluation import calibration, statistics
from transfer.evaluation.statistics import Difference, Summary, holm, paired_difference, summary
from transfer.utils.errors import UserError


def faces(right, total=10, label=0):
    """Make `total` faces of which those numbered in `right` were classified correctly."""
    index = pd.MultiIndex.from_tuples([(f"t{i:03d}", label) for i in range(total)], names=["sample", "label"])
    return pd.Series([i in set(right) for i in range(total)], index=index)


def p_value(run, baseline):
    return paired_difference(run, baseline).p_value


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
    assert p_value(ours, base) == pytest.approx(2 * stats.t.sf(2 * math.sqrt(3), 2))
    assert p_value(ours, base) == pytest.approx(stats.ttest_rel([0.8, 0.9, 0.7], [0.6, 0.6, 0.6]).pvalue)
    assert p_value(base, ours) == pytest.approx(p_value(ours, base))


def test_pairs_are_made_by_seed_not_by_position():
    ours = {0: faces(range(5)), 1: faces(range(8)), 2: faces(range(9))}
    base = {2: faces(range(8)), 0: faces(range(3)), 1: faces(range(7))}
    assert p_value(ours, base) == pytest.approx(stats.ttest_rel([5, 8, 9], [3, 7, 8]).pvalue)


def test_without_variance_the_t_test_is_one_or_undefined():
    base = {0: faces(range(3)), 1: faces(range(7))}
    # other faces, the same number of them: no difference in accuracy for either seed
    assert p_value({0: faces([5, 6, 7]), 1: faces(range(3, 10))}, base) == 1.0
    assert p_value({0: faces(range(4)), 1: faces(range(8))}, base) is None


def test_one_seed_is_mcnemars_exact_test():
    ours, base = faces(range(9)), faces([0, 1, 2, 9])
    # 6 faces won (3..8), 1 lost (9): p = 2 * (C(7,0) + C(7,1)) / 2^7
    assert p_value({4: ours}, {4: base}) == pytest.approx(2 * (1 + 7) / 128)
    assert p_value({4: ours}, {4: base}) == pytest.approx(stats.binomtest(6, 7, 0.5).pvalue)
    assert p_value({4: base}, {4: ours}) == pytest.approx(2 * (1 + 7) / 128)
    assert p_value({4: ours}, {4: ours}) == 1.0


def test_unequal_seeds_or_faces_are_refused():
    with pytest.raises(UserError, match=r"seeds \[0, 1\] against seeds \[0, 2\]"):
        p_value({0: faces([1]), 1: faces([1])}, {0: faces([1]), 2: faces([1])})
    for other in (faces([1], total=9), faces([1], label=1)):
        with pytest.raises(UserError, match="different faces"):
            p_value({0: faces([1])}, {0: other})
        with pytest.raises(UserError, match="different faces"):
            p_value({0: faces([1]), 1: other}, {0: faces([1]), 1: faces([1])})


def table(both, won, lost, neither):
    """Make the two runs of a seed with these counts of faces that both, one or neither got right."""
    n = both + won + lost + neither
    return faces(range(both + won), n), faces([*range(both), *range(both + won, both + won + lost)], n)


def test_difference_over_seeds_by_hand():
    ours = {0: faces(range(8)), 1: faces(range(9)), 2: faces(range(7))}
    base = {0: faces(range(6)), 1: faces(range(6)), 2: faces(range(6))}
    result = paired_difference(ours, base)
    # differences 0.2, 0.3, 0.1 of 10 faces: mean 0.2, std 0.1; Hedges' factor with 2 degrees is 1 / sqrt(pi)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (result.n, result.effect_name) == (3, "hedges_gz")
    assert result.difference == pytest.approx(0.2)
    assert (result.ci95_low, result.ci95_high) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)
    assert result.p_value == pytest.approx(2 * stats.t.sf(2 * math.sqrt(3), 2))
    assert result.effect_size == pytest.approx(2 / math.sqrt(math.pi))


def test_difference_over_seeds_is_that_of_scipy():
    ours, base = [51, 48, 50, 55, 47], [49, 47, 44, 50, 48]
    result = paired_difference(
        {seed: faces(range(n), 60) for seed, n in enumerate(ours)},
        {seed: faces(range(n), 60) for seed, n in enumerate(base)},
    )
    expected = stats.ttest_rel(np.array(ours) / 60, np.array(base) / 60)
    interval = expected.confidence_interval(0.95)
    assert (result.ci95_low, result.ci95_high) == pytest.approx((interval.low, interval.high))
    assert result.p_value == pytest.approx(expected.pvalue)
    # d_z = t / sqrt(n); the usual approximation of the factor is 1 - 3 / (4 df - 1)
    assert result.effect_size == pytest.approx(expected.statistic / math.sqrt(5) * (1 - 3 / 15), rel=3e-3)


def test_effect_size_over_seeds_has_no_bias():
    # four seeds each, and a true effect of 2; without the factor the mean would be 2.76
    differences = np.random.default_rng(0).normal(2, 1, size=(200_000, 4))
    effects = statistics._hedges(3) * differences.mean(axis=1) / differences.std(axis=1, ddof=1)
    assert effects.mean() == pytest.approx(2, abs=0.02)


def test_two_seeds_have_an_interval_but_no_effect_size():
    result = paired_difference({0: faces(range(8)), 1: faces(range(9))}, {0: faces(range(7)), 1: faces(range(7))})
    assert result.effect_size is None
    # 0.1 and 0.2: mean 0.15, std 0.0707, 12.7062 * std / sqrt(2) = 0.6353
    assert (result.ci95_low, result.ci95_high) == pytest.approx((0.15 - 0.63531, 0.15 + 0.63531), abs=1e-5)


def test_difference_without_variance_has_no_interval():
    base = {0: faces(range(3)), 1: faces(range(7))}
    same = {0: faces([5, 6, 7]), 1: faces(range(3, 10))}
    assert paired_difference(same, base) == Difference(2, 0.0, None, None, 1.0, None, "hedges_gz")
    better = {0: faces(range(4)), 1: faces(range(8))}
    assert paired_difference(better, base) == Difference(2, 0.1, None, None, None, None, "hedges_gz")


def test_the_interval_of_the_difference_stays_possible():
    wide = paired_difference({0: faces(range(10)), 1: faces([])}, {0: faces([]), 1: faces(range(9))})
    assert (wide.ci95_low, wide.ci95_high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("counts", "difference", "low", "high"),
    [
        # worked examples of Newcombe's method 10: Fagerland, Lydersen and Laake (Statistics in Medicine 33, 2014),
        # airways and chemotherapy; Altman et al., Statistics with Confidence (2000), p. 52, thallium stress
        ((1, 1, 7, 12), -0.286, -0.507, -0.026),
        ((59, 6, 16, 80), -0.0621, -0.1186, -0.0046),
        ((14, 5, 0, 22), 0.122, 0.011, 0.226),
    ],
)
def test_difference_of_one_seed_is_that_of_newcombe(counts, difference, low, high):
    ours, base = table(*counts)
    result = paired_difference({0: ours}, {0: base})
    digits = 0.5 * 10.0 ** -max(len(str(number).split(".")[1]) for number in (difference, low, high))
    assert (result.difference, result.ci95_low, result.ci95_high) == pytest.approx((difference, low, high), abs=digits)
    assert (result.n, result.effect_name) == (1, "cohens_g")


def test_many_faces_have_the_interval_of_the_bootstrap():
    ours, base = table(2300, 190, 110, 400)
    result = paired_difference({0: ours}, {0: base})
    pairs = ours.to_numpy().astype(int) - base.to_numpy().astype(int)
    drawn = stats.bootstrap((pairs,), np.mean, n_resamples=2000, batch=200, method="basic", rng=0).confidence_interval
    assert (result.ci95_low, result.ci95_high) == pytest.approx((drawn.low, drawn.high), abs=1e-3)


def test_effect_of_one_seed_is_the_share_of_decided_faces_above_a_half():
    ours, base = table(3, 6, 1, 0)
    result = paired_difference({0: ours}, {0: base})
    assert result.effect_size == pytest.approx(6 / 7 - 1 / 2)
    assert result.p_value == pytest.approx(2 * (1 + 7) / 128)
    alone, other = table(3, 4, 0, 3)
    assert paired_difference({0: alone}, {0: other}).effect_size == 0.5


def test_one_seed_without_a_decided_face():
    for right in (range(10), [], range(4)):
        result = paired_difference({0: faces(right)}, {0: faces(right)})
        assert (result.difference, result.p_value, result.effect_size) == (0.0, 1.0, None)
        assert result.ci95_low == pytest.approx(-result.ci95_high)
    # each of 2 faces lies within Wilson's interval of 0 of 2, 0 to 0.658; all right, so nothing to correlate
    result = paired_difference({0: faces([0, 1], 2)}, {0: faces([0, 1], 2)})
    assert result.ci95_high == pytest.approx(3.841459 / (2 + 3.841459), abs=1e-6)


@pytest.mark.parametrize("seeds", [1, 3])
def test_exchange_turns_the_sign(seeds):
    generator = np.random.default_rng(seeds)
    for _ in range(15):
        ours, base = (
            {k: faces(np.flatnonzero(generator.random(300) < share), 300) for k in range(seeds)} for share in (0.7, 0.6)
        )
        there, back = paired_difference(ours, base), paired_difference(base, ours)
        assert there.difference == pytest.approx(-back.difference)
        assert (there.ci95_low, there.ci95_high) == pytest.approx((-back.ci95_high, -back.ci95_low))
        assert there.ci95_low <= there.difference <= there.ci95_high
        assert there.p_value == pytest.approx(back.p_value) == p_value(ours, base)
        assert there.effect_size == pytest.approx(-back.effect_size)


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04: x4 = 0.04, x3 = 0.06, x2 = 0.06, x1 = 0.04 raised to 0.06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.3, 0.4]) == pytest.approx([0.6, 0.6])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_leaves_what_is_undefined_and_does_not_count_it():
    corrected = holm([None, 0.02, math.nan, 0.01])
    assert corrected[0] is None
    assert math.isnan(corrected[2])
    assert [corrected[1], corrected[3]] == pytest.approx([0.02, 0.02])
    assert holm([None, None]) == [None, None]


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_that_of_statsmodels(seed):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    generator = np.random.default_rng(seed)
    values = np.round(generator.random(generator.integers(1, 40)) ** 3, 2)  # with ties, and zeros
    corrected = holm(list(values))
    assert corrected == pytest.approx(multitest.multipletests(values, method="holm")[1])
    assert all(after >= before for before, after in zip(values, corrected, strict=True))
    assert holm(list(values[::-1])) == pytest.approx(corrected[::-1])


@pytest.mark.parametrize("seed", range(10))
def test_mcnemar_and_wilson_are_those_of_statsmodels(seed):
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    both, won, lost, neither = (int(n) for n in np.random.default_rng(seed).integers(1, 30, 4))
    ours, base = table(both, won, lost, neither)
    expected = tables.mcnemar([[both, won], [lost, neither]], exact=True).pvalue
    assert paired_difference({0: ours}, {0: base}).p_value == pytest.approx(min(expected, 1.0))
    result = summary([ours.mean()], faces=(int(ours.sum()), len(ours)))
    expected = proportion.proportion_confint(int(ours.sum()), len(ours), method="wilson")
    assert (result.ci95_low, result.ci95_high) == pytest.approx(expected)


def test_nothing_returns_the_largest_seed():
    for module in (statistics, calibration):
        assert [
            name for name, _ in inspect.getmembers(module, inspect.isfunction) if "max" in name or "best" in name
        ] == []
    values = [0.5, 0.6, 0.9]
    result = summary(values)
    assert max(values) not in (result.mean, result.ci95_low, result.ci95_high)


def test_intervals_over_seeds_by_hand():
    # values 0.1, 0.3, 0.5: mean 0.3, std 0.2, half the width t(0.975, 2) * 0.2 / sqrt(3) = 4.302653 * 0.1154701
    found = vars(summary([0.1, 0.3, 0.5], within=(-1.0, 1.0)))
    expected = {"n": 3, "mean": 0.3, "std": 0.2, "ci95_low": 0.3 - 0.496827, "ci95_high": 0.3 + 0.496827}
    assert found == pytest.approx(expected, abs=1e-5)
    assert summary([0.1, 0.3, 0.5]).ci95_low == 0
    one = vars(summary([-0.5], within=(-1.0, 1.0)))
    assert list(one.values()) == [1, -0.5, None, None, None]
    assert np.isnan(list(vars(summary([0.5, np.nan])).values())[1:]).all()
