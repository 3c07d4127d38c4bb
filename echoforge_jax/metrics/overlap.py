"""Dice and intersection over union of one frame, unsmoothed."""

import math

from jaxtyping import Bool
import numpy as np


def dice(
  truth: Bool[np.ndarray, 'h w'], prediction: Bool[np.ndarray, 'h w']
) -> float:
  """Dice coefficient 2 |A & B| / (|A| + |B|), with no smoothing term.

  Args:
    truth: bool [H, W].
    prediction: bool [H, W].

  Returns:
    A share in [0, 1]; 0 when exactly one mask is empty, NaN (not applicable)
    when both are.
  """
  total = int(truth.sum()) + int(prediction.sum())
  if not total:
    return math.nan
  return 2 * int((truth & prediction).sum()) / total


def iou(
  truth: Bool[np.ndarray, 'h w'], prediction: Bool[np.ndarray, 'h w']
) -> float:
  """Intersection over union |A & B| / |A | B|, with no smoothing term.

  Args:
    truth: bool [H, W].
    prediction: bool [H, W].

  Returns:
    A share in [0, 1]; 0 when exactly one mask is empty, NaN (not applicable)
    when both are.
  """
  union = int((truth | prediction).sum())
  if not union:
    return math.nan
  return int((truth & prediction).sum()) / union
