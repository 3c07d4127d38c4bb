"""Intervals over patients and over seeds, agreement of two quantities, paired tests.

Intervals are expanded percentile bootstraps (Hesterberg, The American Statistician 2015): the plain
percentile interval is too short by sqrt(1 - 1/n) and by normal instead of t quantiles; slightly
wider levels mend both to first order. Why not BCa: docs/statistics.md, with measured coverage.

`seed` and `resamples` are those of the bootstrap: the same seed gives the same interval.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math

from jaxtyping import Float
import numpy as np
from scipy import stats

RESAMPLES = 10_000
ALPHA = 0.05
MIN_SEEDS = 8  # Of each method, for a claim that one is better.
TOO_FEW_SEEDS = 'too few seeds for a claim'
# Resamples drawn at a time, to bound memory on large sets.
_CHUNK, _CHUNK_OF_SEEDS = 1_000, 200


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over patients with its bootstrap interval; NaN where there are too few."""

  mean: float
  ci95: tuple[float, float]
  sd: float  # ddof 1
  median: float
  n: int  # Patients with a value.


@dataclasses.dataclass(frozen=True)
class Agreement:
  """How a predicted quantity agrees with its reference, over patients."""

  n: int  # Pairs with both values finite.
  pearson_r: float  # NaN below two pairs or without variation.
  bias: float  # Mean of prediction - reference.
  sd: float  # Of the differences, ddof 1.
  loa: tuple[float, float]  # Limits of agreement, bias -/+ 1.96 sd.
  mae: float
  rmse: float
  slope: float  # Least squares: prediction = slope * reference + intercept.
  intercept: float
  ci95: dict[str, tuple[float, float]]  # Of pearson_r, bias, mae and rmse.


def interval_levels(count: int) -> tuple[float, float]:
  """Returns the percentiles at which a bootstrap over n = count patients, 2 or more, is read.

  With t the Student quantile of n - 1 degrees of freedom, the lower level is 100 Phi(-sqrt(n / (n -
  1)) t): 0.1 for n = 5, 0.9 for n = 10, 2.1 for n = 50 in place of 2.5 (Hesterberg 2015).
  """
  quantile = stats.t.ppf(1 - ALPHA / 2, count - 1)
  low = 100 * float(stats.norm.cdf(-math.sqrt(count / (count - 1)) * quantile))
  return low, 100 - low


def bootstrap_ci(
  values: Float[np.ndarray, 'n ...'],
  statistic: Callable[[np.ndarray], np.ndarray],
  *,
  seed: int = 0,
  resamples: int = RESAMPLES,
) -> tuple[float, float]:
  """Returns the expanded percentile bootstrap 95 % interval, resampling whole patients.

  Resamples on which the statistic is undefined are left out; NaN with fewer than two patients.

  Args:
    values: [N, ...] one row per patient, no NaN.
    statistic: maps [R, N, ...] to [R]; called on chunks of resamples.
  """
  values = np.asarray(values, np.float64)
  count = len(values)
  if count < 2:
    return math.nan, math.nan
  rng = np.random.default_rng(seed)

  def draw(size):
    return statistic(values[rng.integers(count, size=(size, count))])

  return _percentiles(draw, resamples, _CHUNK, interval_levels(count))


def two_level_ci(
  table: Float[np.ndarray, 's n k'],
  statistic: Callable[[np.ndarray], np.ndarray],
  *,
  seed: int = 0,
  resamples: int = RESAMPLES,
) -> tuple[float, float]:
  """Returns the 95 % interval over draws of seeds and, independently, patients.

  It is of the mean over seeds of the statistic; NaN with fewer than two patients. The draws are
  crossed, not nested, as all seeds share the patients (Owen 2007); drawing from S seeds understates
  their variance by (S - 1) / S.

  Args:
    table: [S, N, K], K numbers of each patient in each run.
    statistic: maps [R, N, K] to [R].
  """
  seeds, patients = table.shape[:2]
  if patients < 2:
    return math.nan, math.nan
  rng = np.random.default_rng(seed)

  def draw(size):
    rows = rng.integers(seeds, size=(size, seeds, 1))
    columns = rng.integers(patients, size=(size, 1, patients))
    sample = table[rows, columns].reshape(size * seeds, patients, -1)
    return statistic(sample).reshape(size, seeds).mean(axis=1)

  return _percentiles(draw, resamples, _CHUNK_OF_SEEDS, (2.5, 97.5))


def _percentiles(draw, resamples: int, chunk: int, levels):
  """Returns percentiles of a statistic drawn in chunks, where it is defined."""
  sizes = [min(chunk, resamples - k) for k in range(0, resamples, chunk)]
  drawn = np.concatenate([draw(size) for size in sizes])
  drawn = drawn[np.isfinite(drawn)]
  if not drawn.size:
    return math.nan, math.nan
  low, high = np.percentile(drawn, levels)
  return float(low), float(high)


def estimate(values, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
  """Takes the mean over patients, [N] values of which NaN are left out, with its interval."""
  values = np.asarray(list(values), np.float64)
  values = values[np.isfinite(values)]
  if not values.size:
    return Estimate(math.nan, (math.nan, math.nan), math.nan, math.nan, 0)
  return Estimate(
    mean=float(values.mean()),
    ci95=bootstrap_ci(values, lambda x: x.mean(axis=1), seed=seed, resamples=resamples),
    sd=_sd(values),
    median=float(np.median(values)),
    n=int(values.size),
  )


def _sd(values: np.ndarray) -> float:
  return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def agreement(reference, prediction, *, seed: int = 0, resamples: int = RESAMPLES) -> Agreement:
  """Measures correlation, bias and limits of agreement of the pairs that are both finite."""
  pairs = np.stack([list(reference), list(prediction)], -1).astype(np.float64)
  pairs = pairs[np.isfinite(pairs).all(axis=1)]
  point = dict.fromkeys(_AGREEMENT, math.nan)
  if len(pairs):
    point = {k: float(f(pairs[None])[0]) for k, f in _AGREEMENT.items()}
  sd = _sd(pairs[:, 1] - pairs[:, 0])
  slope = intercept = math.nan
  if len(pairs) > 1 and np.ptp(pairs[:, 0]) > 0:
    slope, intercept = map(float, np.polyfit(pairs[:, 0], pairs[:, 1], 1))
  return Agreement(
    n=len(pairs),
    sd=sd,
    loa=(point['bias'] - 1.96 * sd, point['bias'] + 1.96 * sd),
    slope=slope,
    intercept=intercept,
    ci95={k: bootstrap_ci(pairs, f, seed=seed, resamples=resamples) for k, f in _AGREEMENT.items()},
    **point,
  )


def pearson_r(pairs: np.ndarray) -> np.ndarray:
  """Returns Pearson's correlation, [R, N, 2] -> [R]; NaN where one side does not vary."""
  centred = pairs - pairs.mean(axis=1, keepdims=True)
  # Rounding leaves a constant column a variance of about eps squared.
  floor = (1e-12 * np.maximum(np.abs(pairs).max(axis=1), 1e-300)) ** 2
  variance = (centred**2).mean(axis=1)
  covariance = (centred[..., 0] * centred[..., 1]).mean(axis=1)
  with np.errstate(invalid='ignore', divide='ignore'):
    r = covariance / np.sqrt(variance[:, 0] * variance[:, 1])
  return np.where((variance > floor).all(axis=1), np.clip(r, -1, 1), np.nan)


def bias(pairs: np.ndarray) -> np.ndarray:
  """Returns the mean of second minus first, [R, N, 2] -> [R]."""
  return (pairs[..., 1] - pairs[..., 0]).mean(axis=1)


_AGREEMENT = {
  'pearson_r': pearson_r,
  'bias': bias,
  'mae': lambda p: np.abs(p[..., 1] - p[..., 0]).mean(axis=1),
  'rmse': lambda p: np.sqrt(((p[..., 1] - p[..., 0]) ** 2).mean(axis=1)),
}


def first_mean(table: np.ndarray) -> np.ndarray:
  """Returns the mean over patients of the first number, [R, N, K] -> [R]."""
  return table[..., 0].mean(axis=1)


def over_seeds(
  table: Float[np.ndarray, 's n k'],
  statistic: Callable[[np.ndarray], np.ndarray] = first_mean,
  *,
  seed: int = 0,
  resamples: int = RESAMPLES,
) -> dict:
  """Aggregates runs that differ in their training seed only.

  Args:
    table: [S, N, K], K numbers of each of N patients in each of S runs.
    statistic: maps [R, N, K] to [R].

  Returns:
    values: the statistic of each run; mean and sd (ddof 1) of these; t_ci95: Student's interval,
    which covers another training on these patients; ci95: `two_level_ci`, which covers other
    patients, too; n_patients.
  """
  values = statistic(table)
  return {
    'values': values.tolist(),
    'mean': float(values.mean()),
    'sd': _sd(values),
    't_ci95': t_interval(values),
    'ci95': list(two_level_ci(table, statistic, seed=seed, resamples=resamples)),
    'n_patients': table.shape[1],
  }


def t_interval(values: np.ndarray) -> list[float]:
  """Returns Student's 95 % interval of the mean of [S] values; NaN for a single one."""
  mean, quantile = float(values.mean()), stats.t.ppf(1 - ALPHA / 2, len(values) - 1)
  half = float(quantile * _sd(values) / math.sqrt(len(values)))
  return [mean - half, mean + half]


def paired_seeds(
  first: Float[np.ndarray, 's n'],
  second: Float[np.ndarray, 's n'],
  *,
  seed: int = 0,
  resamples: int = RESAMPLES,
) -> dict:
  """Compares two methods, [S, N] each: run s of both has the same seed, the N patients are shared.

  A run is the unit: another training, with other labeled patients, is what a claim about a method
  must survive. A test over patients, of the mean of a few runs, takes the luck of these runs for
  the method's (docs/statistics.md).

  Returns:
    values: first - second of each seed, means over the patients; difference: the mean of these;
    t_ci95 and p_value: of Student's paired t over seeds, on these patients; enough: there are
    `MIN_SEEDS`; patients_ci95: bootstrap over patients of the same difference, of these runs.
  """
  apart = first - second
  values = apart.mean(axis=1)
  p_value = math.nan
  if len(values) > 1:
    varies = np.ptp(values) > 1e-12 * np.abs(values).max()  # More than rounding does.
    p_value = float(stats.ttest_1samp(values, 0).pvalue) if varies else float(not values.any())
  options = dict(seed=seed, resamples=resamples)
  return {
    'values': values.tolist(),
    'difference': float(values.mean()),
    't_ci95': t_interval(values),
    'p_value': p_value,
    'enough': len(values) >= MIN_SEEDS,
    'patients_ci95': list(estimate(apart.mean(axis=0), **options).ci95),
  }


def wilcoxon(first, second) -> dict[str, int | float]:
  """Runs the Wilcoxon signed-rank test of two methods, [N] each, over the same patients.

  Two-sided; patients without a difference are dropped (Wilcoxon's rule). Exact up to 50 differences
  without ties and up to 13 with them, else the normal approximation (`scipy.stats.wilcoxon`).

  Returns:
    n: pairs with both values; n_different: those whose values differ; median_difference: of first -
    second over the n pairs; statistic, p_value: of the test, p is 1 if all pairs are equal;
    smallest_p: what n_different patients who all agree would give, 2^(1 - n_different): from .05
    upwards the test can show nothing.
  """
  first, second = (np.asarray(list(x), np.float64) for x in (first, second))
  if first.shape != second.shape:
    raise ValueError(
      f'paired values wanted, found {first.size} and {second.size}: give '
      'both methods the same patients in the same order'
    )
  difference = first - second
  difference = difference[np.isfinite(difference)]
  different = difference[difference != 0]
  median = statistic = p_value = smallest = math.nan
  if difference.size:
    median, statistic, p_value = float(np.median(difference)), 0.0, 1.0
    smallest = min(1.0, 2.0 ** (1 - different.size))
  if different.size:
    result = stats.wilcoxon(different)
    statistic, p_value = float(result.statistic), float(result.pvalue)
  return {
    'n': int(difference.size),
    'n_different': int(different.size),
    'median_difference': median,
    'statistic': statistic,
    'p_value': p_value,
    'smallest_p': smallest,
  }


def holm(p_values: Sequence[float]) -> list[float]:
  """Adjusts p values by Holm: all tests together err with at most 5 %.

  The k-th smallest of m values is multiplied by m - k + 1; no adjusted value is below that of a
  smaller p (Holm 1979). NaN values are no tests.
  """
  adjusted = [math.nan] * len(p_values)
  order = sorted(
    (k for k, p in enumerate(p_values) if not math.isnan(p)), key=lambda k: p_values[k]
  )
  largest = 0.0
  for rank, k in enumerate(order):
    largest = max(largest, min(1.0, (len(order) - rank) * p_values[k]))
    adjusted[k] = largest
  return adjusted
