"""Patient-level intervals, agreement between two methods, paired tests.

Intervals are expanded percentile bootstraps (Hesterberg, The American
Statistician 2015): the plain percentile interval is too short by sqrt(1 - 1/n)
and by normal instead of t quantiles; reading it at slightly wider levels mends
both to first order. Why not BCa: see docs/statistics.md, which has the measured
coverage of each.
"""

from collections.abc import Sequence
import dataclasses
import math

from jaxtyping import Float
import numpy as np
from scipy import stats

RESAMPLES = 10_000
ALPHA = 0.05
_CHUNK = 1_000  # Resamples drawn at a time, to bound memory on large sets.


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean over patients with its interval.

  Attributes:
    mean: mean over the patients with a value; NaN if there are none.
    ci95: (low, high) bootstrap interval over patients; NaN with fewer than
      two patients.
    sd: standard deviation over patients (ddof 1).
    median: median over patients.
    n: number of patients with a value.
  """

  mean: float
  ci95: tuple[float, float]
  sd: float
  median: float
  n: int


@dataclasses.dataclass(frozen=True)
class Agreement:
  """How a predicted quantity agrees with its reference, over patients.

  Attributes:
    n: pairs with both values finite.
    pearson_r: correlation; NaN below two pairs or without variation.
    bias: mean of prediction - reference.
    sd: standard deviation of the differences (ddof 1).
    loa: limits of agreement, bias -/+ 1.96 sd.
    mae: mean absolute difference.
    rmse: root mean square difference.
    slope: of the least-squares line prediction = slope * reference + icpt.
    intercept: of the same line.
    ci95: bootstrap intervals of pearson_r, bias, mae and rmse.
  """

  n: int
  pearson_r: float
  bias: float
  sd: float
  loa: tuple[float, float]
  mae: float
  rmse: float
  slope: float
  intercept: float
  ci95: dict[str, tuple[float, float]]


def interval_levels(count: int) -> tuple[float, float]:
  """Percentiles at which a bootstrap over few patients is read.

  With t the Student quantile of n - 1 degrees of freedom, the lower level is
  100 Phi(-sqrt(n / (n - 1)) t): 0.1 for n = 5, 0.9 for n = 10, 2.1 for n = 50
  in place of 2.5 (Hesterberg 2015).

  Args:
    count: n, patients; 2 or more.

  Returns:
    (low, high) in percent.
  """
  quantile = stats.t.ppf(1 - ALPHA / 2, count - 1)
  low = 100 * float(stats.norm.cdf(-math.sqrt(count / (count - 1)) * quantile))
  return low, 100 - low


def bootstrap_ci(
  values: Float[np.ndarray, 'n ...'],
  statistic,
  *,
  seed: int = 0,
  resamples: int = RESAMPLES,
) -> tuple[float, float]:
  """Expanded percentile bootstrap 95 % interval, resampling whole patients.

  Args:
    values: [N, ...] one row a patient, no NaN.
    statistic: maps [R, N, ...] to [R]; called on chunks of resamples.
    seed: of the resampling; the same seed gives the same interval.
    resamples: number of resamples.

  Returns:
    The statistic at `interval_levels`, resamples on which it is undefined
    left out; NaN with fewer than two patients.
  """
  values = np.asarray(values, np.float64)
  count = len(values)
  if count < 2:
    return math.nan, math.nan
  rng = np.random.default_rng(seed)
  drawn = []
  for start in range(0, resamples, _CHUNK):
    size = min(_CHUNK, resamples - start)
    drawn.append(statistic(values[rng.integers(count, size=(size, count))]))
  drawn = np.concatenate(drawn)
  drawn = drawn[np.isfinite(drawn)]
  if not drawn.size:
    return math.nan, math.nan
  low, high = np.percentile(drawn, interval_levels(count))
  return float(low), float(high)


def estimate(values, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
  """Mean over patients with its bootstrap interval.

  Args:
    values: [N] one value a patient; NaN values are left out.
    seed: of the resampling.
    resamples: number of resamples.

  Returns:
    The estimate; all NaN with n = 0 if no value is finite.
  """
  values = np.asarray(list(values), np.float64)
  values = values[np.isfinite(values)]
  if not values.size:
    return Estimate(math.nan, (math.nan, math.nan), math.nan, math.nan, 0)
  interval = bootstrap_ci(
    values, lambda x: x.mean(axis=1), seed=seed, resamples=resamples
  )
  sd = float(values.std(ddof=1)) if values.size > 1 else math.nan
  return Estimate(
    float(values.mean()),
    interval,
    sd,
    float(np.median(values)),
    int(values.size),
  )


def agreement(
  reference, prediction, *, seed: int = 0, resamples: int = RESAMPLES
) -> Agreement:
  """Correlation, bias and limits of agreement of paired values.

  Args:
    reference: [N] one value a patient; NaN where unknown.
    prediction: [N] in the same unit; NaN where it could not be measured.
    seed: of the resampling.
    resamples: number of resamples for the intervals.

  Returns:
    The agreement over the pairs of which both are finite.
  """
  reference = np.asarray(list(reference), np.float64)
  prediction = np.asarray(list(prediction), np.float64)
  usable = np.isfinite(reference) & np.isfinite(prediction)
  pairs = np.stack([reference[usable], prediction[usable]], axis=-1)
  nan = math.nan
  if not len(pairs):
    return Agreement(
      0,
      nan,
      nan,
      nan,
      (nan, nan),
      nan,
      nan,
      nan,
      nan,
      {k: (nan, nan) for k in _AGREEMENT},
    )
  difference = pairs[:, 1] - pairs[:, 0]
  sd = float(difference.std(ddof=1)) if len(pairs) > 1 else nan
  point = {k: float(f(pairs[None])[0]) for k, f in _AGREEMENT.items()}
  bias = point['bias']
  slope = intercept = nan
  if len(pairs) > 1 and np.ptp(pairs[:, 0]) > 0:
    slope, intercept = map(float, np.polyfit(pairs[:, 0], pairs[:, 1], 1))
  return Agreement(
    n=len(pairs),
    pearson_r=point['pearson_r'],
    bias=bias,
    sd=sd,
    loa=(bias - 1.96 * sd, bias + 1.96 * sd),
    mae=point['mae'],
    rmse=point['rmse'],
    slope=slope,
    intercept=intercept,
    ci95={
      k: bootstrap_ci(pairs, f, seed=seed, resamples=resamples)
      for k, f in _AGREEMENT.items()
    },
  )


def wilcoxon(first, second) -> dict[str, int | float]:
  """Wilcoxon signed-rank test of two methods over the same patients.

  Two-sided; patients without a difference are dropped (Wilcoxon's rule). Exact
  up to 50 differences without ties and up to 13 with them, else the normal
  approximation (`scipy.stats.wilcoxon`, method 'auto').

  Args:
    first: [N] one value a patient.
    second: [N] the other method's values, same patients in the same order.

  Returns:
    n: pairs with both values.
    n_different: those whose values differ; the test sees no others.
    median_difference: of first - second over the n pairs.
    statistic, p_value: of the test; p is 1 if all pairs are equal.
    smallest_p: what n_different patients who all agree would give,
      2^(1 - n_different): from .05 upwards the test can show nothing.

  Raises:
    ValueError: if the two have different lengths.
  """
  first, second = (np.asarray(list(x), np.float64) for x in (first, second))
  if first.shape != second.shape:
    raise ValueError(
      f'paired values wanted, found {first.size} and {second.size}: give '
      'both methods the same patients in the same order'
    )
  difference = first - second
  difference = difference[np.isfinite(difference)]
  if not difference.size:
    return {
      'n': 0,
      'n_different': 0,
      'median_difference': math.nan,
      'statistic': math.nan,
      'p_value': math.nan,
      'smallest_p': math.nan,
    }
  different = difference[difference != 0]
  statistic, p_value = 0.0, 1.0
  if different.size:
    result = stats.wilcoxon(different)
    statistic, p_value = float(result.statistic), float(result.pvalue)
  return {
    'n': int(difference.size),
    'n_different': int(different.size),
    'median_difference': float(np.median(difference)),
    'statistic': statistic,
    'p_value': p_value,
    'smallest_p': min(1.0, 2.0 ** (1 - different.size)),
  }


def holm(p_values: Sequence[float]) -> list[float]:
  """Holm's step-down adjustment: all tests together err with at most 5 %.

  The k-th smallest of m values is multiplied by m - k + 1; no adjusted value
  is below that of a smaller p (Holm 1979).

  Args:
    p_values: [M]; NaN values are no tests and do not count.

  Returns:
    [M] adjusted values, at most 1.
  """
  adjusted = [math.nan] * len(p_values)
  order = sorted(
    (k for k, p in enumerate(p_values) if not math.isnan(p)),
    key=lambda k: p_values[k],
  )
  largest = 0.0
  for rank, k in enumerate(order):
    largest = max(largest, min(1.0, (len(order) - rank) * p_values[k]))
    adjusted[k] = largest
  return adjusted


def pearson_r(pairs: np.ndarray) -> np.ndarray:
  """Pearson's correlation of many sets of pairs.

  Args:
    pairs: [R, N, 2].

  Returns:
    [R]; NaN where one side does not vary.
  """
  centred = pairs - pairs.mean(axis=1, keepdims=True)
  # Rounding leaves a constant column a variance of about eps squared.
  floor = (1e-12 * np.maximum(np.abs(pairs).max(axis=1), 1e-300)) ** 2
  variance = (centred**2).mean(axis=1)
  covariance = (centred[..., 0] * centred[..., 1]).mean(axis=1)
  with np.errstate(invalid='ignore', divide='ignore'):
    r = covariance / np.sqrt(variance[:, 0] * variance[:, 1])
  return np.where((variance > floor).all(axis=1), np.clip(r, -1, 1), np.nan)


_AGREEMENT = {
  'pearson_r': pearson_r,
  'bias': lambda p: (p[..., 1] - p[..., 0]).mean(axis=1),
  'mae': lambda p: np.abs(p[..., 1] - p[..., 0]).mean(axis=1),
  'rmse': lambda p: np.sqrt(((p[..., 1] - p[..., 0]) ** 2).mean(axis=1)),
}
