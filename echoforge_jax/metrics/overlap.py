"""Dice and intersection over union of one frame, unsmoothed.

What an empty mask scores is decided here, for every table; `surface` decides it for distances.
"""

import math

from jaxtyping import Bool
import numpy as np

BOTH_EMPTY = math.nan  # Not applicable: left out of means, and counted.
ONE_EMPTY = 0.0  # A structure that was missed, or made up.


def dice(truth: Bool[np.ndarray, 'h w'], prediction: Bool[np.ndarray, 'h w']) -> float:
  """Returns 2 |A & B| / (|A| + |B|) in [0, 1]; see `ONE_EMPTY` and `BOTH_EMPTY`."""
  sizes = int(truth.sum()), int(prediction.sum())
  if not all(sizes):
    return ONE_EMPTY if any(sizes) else BOTH_EMPTY
  return 2 * int((truth & prediction).sum()) / sum(sizes)


def iou(truth: Bool[np.ndarray, 'h w'], prediction: Bool[np.ndarray, 'h w']) -> float:
  """Returns |A & B| / |A | B| in [0, 1]; see `ONE_EMPTY` and `BOTH_EMPTY`."""
  sizes = int(truth.sum()), int(prediction.sum())
  if not all(sizes):
    return ONE_EMPTY if any(sizes) else BOTH_EMPTY
  return int((truth & prediction).sum()) / int((truth | prediction).sum())
