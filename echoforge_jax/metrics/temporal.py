"""How smoothly a segmentation follows the heart from frame to frame.

Painchaud et al. (IEEE TMI 2022) compare an attribute of each frame, scaled to [0, 1] by its range,
with the mean of its two neighbours, and call a frame inconsistent when any deviates by more than a
threshold. The thresholds are theirs; the ranges (ours) are those of the truth over the evaluated
clips, whose frames lie farther apart than theirs. The share of the truth is therefore the floor,
not zero.
"""

from collections.abc import Mapping, Sequence
import math

import numpy as np
from scipy import ndimage

from echoforge_jax.metrics.ejection import Cavity

THRESHOLDS = {
  'area': 0.016,
  'base_width': 0.0969,
  'length': 0.0262,
  'orientation': 0.0229,
  'myo_area': 0.0321,
  'centre_x': 0.0046,
  'centre_y': 0.011,
}


def neighbour_deviation(series) -> np.ndarray:
  """Returns a_t minus the mean of its neighbours: [T] -> [T - 2]."""
  series = np.asarray(series, np.float64)
  return series[1:-1] - (series[:-2] + series[2:]) / 2


def roughness(series) -> float:
  """Returns the RMS deviation of [T] areas from their neighbours over the mean (ours).

  It is a share (0.01 = 1 %); NaN below three frames or without area.
  """
  deviation = neighbour_deviation(series)
  mean = np.mean(series) if len(series) else 0.0
  if not deviation.size or not np.isfinite(mean) or mean <= 0:
    return math.nan
  return float(np.sqrt(np.mean(deviation**2)) / mean)


def attributes(
  cavities: Sequence[Cavity | None],
  myo: np.ndarray | None,
  lv: np.ndarray,
  spacing: tuple[float, float],
) -> dict[str, np.ndarray]:
  """Measures Painchaud's attributes on every frame of a clip.

  Args:
    cavities: T measured cavities; None where there is none.
    myo: bool [T, H, W] myocardium, or None if it is not a class.
    lv: bool [T, H, W] cavity.
    spacing: size of a pixel (row, column).

  Returns:
    [T] arrays by name, NaN where a frame has no cavity: area, base_width, length, orientation (of
    the principal axis, radians from vertical) and, with a myocardium, myo_area and the epicardium's
    centre as a share of the image.
  """
  measured = np.full((len(cavities), 4), math.nan)
  for t, cavity in enumerate(cavities):
    if cavity is not None:
      width = np.linalg.norm(cavity.base_ends[1] - cavity.base_ends[0])
      measured[t] = cavity.area, width, cavity.length, _orientation(lv[t], spacing)
  rows = dict(zip(('area', 'base_width', 'length', 'orientation'), measured.T))
  if myo is not None:
    rows['myo_area'] = myo.sum(axis=(1, 2)) * spacing[0] * spacing[1]
    centres = [ndimage.center_of_mass(m) if m.any() else (math.nan,) * 2 for m in (myo | lv)]
    rows['centre_y'], rows['centre_x'] = (np.asarray(centres) / lv.shape[1:]).T
  return {name: np.asarray(v, np.float64) for name, v in rows.items()}


def _orientation(mask: np.ndarray, spacing: tuple[float, float]) -> float:
  """Returns the principal axis of a mask's pixels, radians from vertical.

  The axis from base to apex jumps with the base's end points by a few degrees from frame to frame,
  even where the motion is smooth; second moments do not.
  """
  points = np.argwhere(mask) * np.asarray(spacing)
  rows, columns = (points - points.mean(axis=0)).T
  return 0.5 * math.atan2(-2 * float(rows @ columns), float(rows @ rows - columns @ columns))


def attribute_ranges(clips: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
  """Returns each attribute's largest minus smallest value over the clips; NaN if never measured."""
  ranges = {}
  for name in {n for clip in clips for n in clip}:
    values = np.concatenate([clip[name] for clip in clips if name in clip])
    values = values[np.isfinite(values)]
    ranges[name] = float(np.ptp(values)) if values.size else math.nan
  return ranges


def inconsistent_frames(clip: Mapping[str, np.ndarray], ranges: Mapping[str, float]) -> np.ndarray:
  """Finds the inner frames, bool [T - 2], on which an attribute deviates beyond its threshold.

  A frame that has no cavity, or is next to one without, is inconsistent. `ranges` are the truth's.
  """
  bad = np.zeros(max(len(clip['area']) - 2, 0), bool)
  for name, series in clip.items():
    if ranges.get(name, 0) > 0:
      deviation = np.abs(neighbour_deviation(series)) / ranges[name]
      bad |= ~(deviation <= THRESHOLDS[name])
  return bad


def inconsistent_share(clip: Mapping[str, np.ndarray], ranges: Mapping[str, float]) -> float:
  """Returns the share of inner frames that are inconsistent; NaN if unknown or without three
  frames.
  """
  bad = inconsistent_frames(clip, ranges) if clip and ranges else np.zeros(0)
  return float(bad.mean()) if bad.size else math.nan


def attribute_deviations(
  clip: Mapping[str, np.ndarray], ranges: Mapping[str, float]
) -> dict[str, float]:
  """Returns each attribute's mean absolute deviation over its range; NaN if unknown."""
  found = {}
  for name, series in clip.items():
    if ranges.get(name, 0) > 0:
      deviation = np.abs(neighbour_deviation(series)) / ranges[name]
      deviation = deviation[np.isfinite(deviation)]
      found[name] = float(deviation.mean()) if deviation.size else math.nan
  return found
