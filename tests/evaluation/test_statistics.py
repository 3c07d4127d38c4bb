import itertools
import math

import numpy as np
import pytest
from scipy import stats

from echoforge_jax.evaluation import statistics


def test_bootstrap_against_every_resample_of_three_patients():
  values = np.array([0., 1., 5.])
  means = [np.mean(c) for c in itertools.product(values, repeat=3)]
  exact = np.percentile(means, [2.5, 97.5], method='inverted_cdf')
  found = statistics.estimate(values, seed=1)
  assert found.ci95 == pytest.approx(tuple(exact), abs=1e-12)
  assert found.mean == 2 and found.median == 1 and found.n == 3
  assert found.sd == pytest.approx(math.sqrt(7))


def test_bootstrap_agrees_with_scipy_and_is_seeded():
  values = np.random.default_rng(3).gamma(2., size=40)
  reference = stats.bootstrap(
      (values,), np.mean, method='percentile', n_resamples=20_000,
      rng=np.random.default_rng(0)).confidence_interval
  found = statistics.estimate(values, seed=5, resamples=20_000)
  assert found.ci95 == pytest.approx(tuple(reference), rel=.02)
  assert found == statistics.estimate(values, seed=5, resamples=20_000)
  assert found != statistics.estimate(values, seed=6, resamples=20_000)


def test_estimate_leaves_out_nan_and_needs_two_patients():
  found = statistics.estimate([1., math.nan, 3.])
  assert found.n == 2 and found.mean == 2
  alone = statistics.estimate([4.])
  assert alone.mean == 4 and math.isnan(alone.ci95[0])
  nobody = statistics.estimate([math.nan])
  assert nobody.n == 0 and math.isnan(nobody.mean)


def test_agreement_by_hand():
  reference = [50., 60., 40., math.nan]
  prediction = [52., 59., 46., 10.]
  found = statistics.agreement(reference, prediction)
  # Differences +2, -1, +6.
  assert found.n == 3
  assert found.bias == pytest.approx(7 / 3)
  assert found.sd == pytest.approx(math.sqrt(37 / 3))
  assert found.loa == pytest.approx((found.bias - 1.96 * found.sd,
                                     found.bias + 1.96 * found.sd))
  assert found.mae == pytest.approx(3)
  assert found.rmse == pytest.approx(math.sqrt(41 / 3))
  assert found.pearson_r == pytest.approx(
      stats.pearsonr(reference[:3], prediction[:3]).statistic)
  line = stats.linregress(reference[:3], prediction[:3])
  assert (found.slope, found.intercept) == pytest.approx(
      (line.slope, line.intercept))


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
  flat = statistics.agreement([50.1, 50.1], [49., 51.])
  assert math.isnan(flat.pearson_r) and flat.bias == pytest.approx(-.1)
  none = statistics.agreement([math.nan], [50.])
  assert none.n == 0 and math.isnan(none.bias)
  one = statistics.agreement([50.], [53.])
  assert one.bias == 3 and math.isnan(one.sd)


def test_wilcoxon():
  rng = np.random.default_rng(1)
  first = rng.normal(size=30)
  second = first - .4 + .3 * rng.normal(size=30)
  found = statistics.wilcoxon(first, second)
  expected = stats.wilcoxon(first, second)
  assert found['p_value'] == pytest.approx(expected.pvalue)
  assert found['n'] == 30 and found['median_difference'] > 0
  assert statistics.wilcoxon(first, first)['p_value'] == 1
  with pytest.raises(ValueError, match='30 and 3'):
    statistics.wilcoxon(first, first[:3])
