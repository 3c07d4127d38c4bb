"""Whether the probabilities mean what they say, and what confidence is worth (ours).

The probability is that of one class (the ventricle). Pixels far from any outline are certain and
right in every model, and would drown the rest: only a band around the outlines counts.
"""

import dataclasses
import math
import operator

from jaxtyping import Bool, Float
import numpy as np
from scipy import ndimage

BINS = 15
BAND_PIXELS = 8
REGION = f'labeled frames, pixels within {BAND_PIXELS} of the outline of truth or prediction'
_CROSS = ndimage.generate_binary_structure(2, 1)[None]


@dataclasses.dataclass(frozen=True)
class Bins:
  """Counts of pixels in K equal bins of the predicted probability; add them to pool clips."""

  count: np.ndarray  # float64 [K]
  confidence_sum: np.ndarray  # float64 [K], sum of their probabilities.
  correct_sum: np.ndarray  # float64 [K], how many of them belong to the class.

  def __add__(self, other: 'Bins') -> 'Bins':
    return Bins(*map(operator.add, dataclasses.astuple(self), dataclasses.astuple(other)))


def count_bins(
  probability: Float[np.ndarray, 't h w'],
  truth: Bool[np.ndarray, 't h w'],
  *,
  where: Bool[np.ndarray, 't h w'] | None = None,
  bins: int = BINS,
) -> Bins:
  """Counts pixels by their probability of the class, in [0, 1]; `where` None counts all."""
  where = np.ones(truth.shape, bool) if where is None else where
  p = probability[where].astype(np.float64)
  index = np.minimum((p * bins).astype(np.int64), bins - 1)
  weights = (np.ones_like(p), p, truth[where].astype(np.float64))
  return Bins(*(np.bincount(index, w, bins) for w in weights))


def ece(found: Bins) -> float:
  """Returns the expected calibration error, in [0, 1]; NaN without pixels.

  ECE = sum_k n_k / n |correct_k / n_k - confidence_k / n_k|.
  """
  total = found.count.sum()
  gap = np.abs(found.correct_sum - found.confidence_sum).sum()
  return float(gap / total) if total else math.nan


def boundary_band(
  truth: Bool[np.ndarray, 't h w'],
  prediction: Bool[np.ndarray, 't h w'],
  width_px: int = BAND_PIXELS,
) -> Bool[np.ndarray, 't h w']:
  """Finds the pixels within `width_px`, in city blocks, of the outline of either mask.

  It is False everywhere on frames on which both are empty.
  """
  band = np.zeros(truth.shape, bool)
  for masks in (truth, prediction):
    grown = ndimage.binary_dilation(masks, _CROSS, iterations=width_px)
    shrunk = ndimage.binary_erosion(masks, _CROSS, iterations=width_px, border_value=1)
    band |= grown & ~shrunk
  return band


def clip_confidence(
  probability: Float[np.ndarray, 't h w'], prediction: Bool[np.ndarray, 't h w']
) -> float:
  """Returns the mean |2 p - 1| around the predicted outlines, in [0, 1]; 0 if a frame is empty."""
  if not prediction.any(axis=(1, 2)).all():
    return 0.0
  band = boundary_band(prediction, prediction)
  return float(np.abs(2 * probability[band].astype(np.float64) - 1).mean())


def risk_coverage(
  confidence: Float[np.ndarray, ' n'],
  error: Float[np.ndarray, ' n'],
  *,
  seed: int = 0,
  resamples: int = 10_000,
) -> dict:
  """Measures the mean error of the most confident share of patients.

  Args:
    confidence: [N] one value per patient; ties count in the order given.
    error: [N] the patients' errors, no NaN.

  Returns:
    n; aurc, the mean risk over coverages 1/N ... 1, with its bootstrap interval aurc_ci95;
    aurc_random, that of an uninformative confidence (the mean error); aurc_oracle, that of the
    order of the errors themselves; curve: [{'coverage', 'risk'}].
  """
  pairs = np.stack([confidence, error], axis=-1).astype(np.float64)
  risk = _risks(pairs[None])[0]
  rng = np.random.default_rng(seed)
  count = len(pairs)
  drawn = np.concatenate(
    [
      _risks(pairs[rng.integers(count, size=(500, count))]).mean(axis=1)
      for _ in range(max(resamples // 500, 1))
    ]
  )
  oracle = np.stack([-pairs[:, 1], pairs[:, 1]], axis=-1)
  return {
    'n': count,
    'aurc': float(risk.mean()),
    'aurc_ci95': [float(v) for v in np.percentile(drawn, [2.5, 97.5])],
    'aurc_random': float(pairs[:, 1].mean()),
    'aurc_oracle': float(_risks(oracle[None]).mean()),
    'curve': [{'coverage': (k + 1) / count, 'risk': float(v)} for k, v in enumerate(risk)],
  }


def _risks(pairs: np.ndarray) -> np.ndarray:
  """Returns the mean error of the first k of (confidence, error), [R, N, 2] -> [R, N]."""
  order = np.argsort(-pairs[..., 0], axis=1, kind='stable')
  errors = np.take_along_axis(pairs[..., 1], order, axis=1)
  return errors.cumsum(axis=1) / np.arange(1, errors.shape[1] + 1)
