import itertools
import math

import numpy as np
import pytest
from scipy import stats

from echoforge_jax.metrics import statistics


def test_levels_by_hand():
  # t(.975, 9) = 2.262157; sqrt(10 / 9) times it = 2.384522; Phi(-2.384522).
  assert statistics.interval_levels(10) == pytest.approx((0.85512, 99.14488), abs=1e-4)
  assert statistics.interval_levels(100_000)[0] == pytest.approx(2.5, abs=1e-3)


def test_bootstrap_against_every_resample_of_four_patients():
  values = np.array([0.0, 1.0, 5.0, 7.0])
  means = [np.mean(c) for c in itertools.product(values, repeat=4)]
  exact = np.percentile(means, statistics.interval_levels(4), method='inverted_cdf')
  found = statistics.estimate(values, seed=1)
  assert found.ci95 == pytest.approx(tuple(exact), abs=0.26)
  assert found.mean == 3.25 and found.median == 3 and found.n == 4
  assert found.sd == pytest.approx(math.sqrt(32.75 / 3))


def test_bootstrap_agrees_with_scipy_and_is_seeded():
  values = np.random.default_rng(3).gamma(2.0, size=40)
  low, high = statistics.interval_levels(40)
  reference = stats.bootstrap(
    (values,),
    np.mean,
    method='percentile',
    n_resamples=20_000,
    confidence_level=(high - low) / 100,
    rng=np.random.default_rng(0),
  ).confidence_interval
  found = statistics.estimate(values, seed=5, resamples=20_000)
  assert found.ci95 == pytest.approx(tuple(reference), rel=0.02)
  assert found == statistics.estimate(values, seed=5, resamples=20_000)
  assert found != statistics.estimate(values, seed=6, resamples=20_000)


@pytest.mark.slow
@pytest.mark.parametrize('count, lowest', [(10, 0.90), (25, 0.92), (50, 0.93)])
def test_intervals_cover_the_true_mean(count, lowest):
  # Skewed like one minus Dice. 800 sets: standard error below .011. The plain
  # percentile interval covers .855 of the time with ten patients.
  rng = np.random.default_rng(count)
  hits = [0, 0]
  for k in range(800):
    values = rng.gamma(2.0, size=count)
    low, high = statistics.estimate(values, seed=k, resamples=1000).ci95
    hits[0] += low <= 2 <= high
    rest = np.random.default_rng(k).normal(size=count)
    low, high = statistics.estimate(rest, seed=k, resamples=1000).ci95
    hits[1] += low <= 0 <= high
  assert lowest - 0.01 <= hits[0] / 800 <= 0.975
  assert 0.93 <= hits[1] / 800 <= 0.975


def test_estimate_leaves_out_nan_and_needs_two_patients():
  found = statistics.estimate([1.0, math.nan, 3.0])
  assert found.n == 2 and found.mean == 2
  alone = statistics.estimate([4.0])
  assert alone.mean == 4 and math.isnan(alone.ci95[0])
  nobody = statistics.estimate([math.nan])
  assert nobody.n == 0 and math.isnan(nobody.mean)


def test_agreement_by_hand():
  reference = [50.0, 60.0, 40.0, math.nan]
  prediction = [52.0, 59.0, 46.0, 10.0]
  found = statistics.agreement(reference, prediction)
  # Differences +2, -1, +6.
  assert found.n == 3
  assert found.bias == pytest.approx(7 / 3)
  assert found.sd == pytest.approx(math.sqrt(37 / 3))
  assert found.loa == pytest.approx((found.bias - 1.96 * found.sd, found.bias + 1.96 * found.sd))
  assert found.mae == pytest.approx(3)
  assert found.rmse == pytest.approx(math.sqrt(41 / 3))
  assert found.pearson_r == pytest.approx(stats.pearsonr(reference[:3], prediction[:3]).statistic)
  line = stats.linregress(reference[:3], prediction[:3])
  assert (found.slope, found.intercept) == pytest.approx((line.slope, line.intercept))


def test_agreement_intervals_enclose_and_are_seeded():
  rng = np.random.default_rng(0)
  reference = rng.uniform(20, 70, 60)
  prediction = reference + rng.normal(1, 5, 60)
  found = statistics.agreement(reference, prediction, seed=2, resamples=2000)
  for name, (low, high) in found.ci95.items():
    assert low < getattr(found, name) < high
  again = statistics.agreement(reference, prediction, seed=2, resamples=2000)
  assert found == again


def test_agreement_without_variation_or_pairs():
  flat = statistics.agreement([50.1, 50.1], [49.0, 51.0])
  assert math.isnan(flat.pearson_r) and flat.bias == pytest.approx(-0.1)
  none = statistics.agreement([math.nan], [50.0])
  assert none.n == 0 and math.isnan(none.bias)
  one = statistics.agreement([50.0], [53.0])
  assert one.bias == 3 and math.isnan(one.sd)


def test_wilcoxon():
  rng = np.random.default_rng(1)
  first = rng.normal(size=30)
  second = first - 0.4 + 0.3 * rng.normal(size=30)
  found = statistics.wilcoxon(first, second)
  expected = stats.wilcoxon(first, second)
  assert found['p_value'] == pytest.approx(expected.pvalue)
  assert found['n'] == 30 and found['median_difference'] > 0
  assert statistics.wilcoxon(first, first)['p_value'] == 1
  with pytest.raises(ValueError, match='30 and 3'):
    statistics.wilcoxon(first, first[:3])


def test_wilcoxon_of_few_patients_says_what_it_cannot_show():
  five = statistics.wilcoxon([2.0, 4.0, 6.0, 8.0, 10.0], [1.0, 2.0, 3.0, 4.0, 5.0])
  assert five['p_value'] == five['smallest_p'] == 2 / 2**5
  six = statistics.wilcoxon([*range(1, 7), 3.0], [0.0] * 6 + [3.0])
  assert six['n'] == 7 and six['n_different'] == 6
  assert six['p_value'] == six['smallest_p'] == 2 / 2**6
  nobody = statistics.wilcoxon([math.nan], [1.0])
  assert nobody['n'] == 0 and math.isnan(nobody['p_value'])


def test_wilcoxon_with_ties_against_every_sign():
  difference = np.array([1.0, 1.0, 2.0, -1.0, 3.0, 3.0])
  ranks = stats.rankdata(np.abs(difference))
  sums = [
    sum(r for r, s in zip(ranks, signs) if s) for signs in itertools.product((0, 1), repeat=6)
  ]
  found = ranks[difference > 0].sum()
  middle = ranks.sum() / 2
  exact = np.mean([abs(s - middle) >= abs(found - middle) for s in sums])
  assert statistics.wilcoxon(difference, np.zeros(6))['p_value'] == pytest.approx(exact)


def test_wilcoxon_errs_as_often_as_it_says():
  rng = np.random.default_rng(0)
  found = [
    statistics.wilcoxon(rng.normal(size=12), rng.normal(size=12))['p_value'] < 0.05
    for _ in range(600)
  ]
  assert 0.025 < np.mean(found) < 0.07


def test_seeds_are_paired():
  rng = np.random.default_rng(3)
  second = rng.normal(0.8, 0.05, (8, 20))
  first = second + rng.normal(0.02, 0.01, (8, 1)) + rng.normal(0, 0.01, (8, 20))
  found = statistics.paired_seeds(first, second, resamples=500)
  means = first.mean(1), second.mean(1)
  expected = stats.ttest_rel(*means)
  assert found['values'] == pytest.approx(means[0] - means[1])
  assert found['p_value'] == pytest.approx(expected.pvalue)
  assert found['t_ci95'] == pytest.approx([*expected.confidence_interval()])
  over = statistics.estimate((first - second).mean(0), resamples=500)
  assert found['patients_ci95'] == pytest.approx([*over.ci95])
  assert found['enough'] and found['difference'] == pytest.approx(over.mean)
  few = statistics.paired_seeds(first[:7], second[:7], resamples=10)
  assert not few['enough'] and few['p_value'] < 1


def test_seeds_that_do_not_differ_and_a_single_one():
  table = np.full((8, 5), 0.5)
  assert statistics.paired_seeds(table, table, resamples=10)['p_value'] == 1
  assert statistics.paired_seeds(table + 0.1, table, resamples=10)['p_value'] == 0
  one = statistics.paired_seeds(table[:1] + 0.1, table[:1], resamples=10)
  assert math.isnan(one['p_value']) and math.isnan(one['t_ci95'][0]) and not one['enough']
  assert one['difference'] == pytest.approx(0.1)


@pytest.mark.slow
def test_a_test_over_patients_takes_luck_of_the_seeds_for_the_method():
  """Two equal methods, trained thrice: seeds differ by an SD of .7, patients by 4."""
  rng = np.random.default_rng(0)
  drawn = 0.7 * rng.normal(size=(400, 3, 1)) + 4 * rng.normal(size=(400, 3, 40))
  found = [
    (
      statistics.paired_seeds(table, 0 * table, resamples=1)['p_value'],
      statistics.wilcoxon(table.mean(0), 0 * table[0])['p_value'],
    )
    for table in drawn
  ]
  over_seeds, over_patients = (np.array(found) < 0.05).mean(axis=0)
  assert 0.02 < over_seeds < 0.08 and over_patients > 0.12


def test_holm_by_hand():
  # Sorted: .01 x 4, .02 x 3 = .06, .03 x 2 = .06, .5 x 1.
  assert statistics.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
  with_gap = statistics.holm([0.04, math.nan, 0.9])
  assert with_gap[0] == pytest.approx(0.08) and math.isnan(with_gap[1])
  assert statistics.holm([0.9, 0.8]) == [1.0, 1.0] and statistics.holm([]) == []
