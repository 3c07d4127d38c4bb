"""ED and ES of every beat from a curve of cavity areas (ours)."""

import math

import numpy as np
from scipy import ndimage, signal

_SMOOTHING_S = 0.08
_SMOOTHING_FRAMES = 1.5
# The shortest beat, 180 a minute, and a share of the curve's range below which
# a bump is no beat (ours).
_MIN_BEAT_S, _MIN_PROMINENCE = 0.33, 0.3
_MIN_CONTRACTION = 0.08
# A clip that starts below this share of its largest area starts after ED.
_WHOLE_ED = 0.9


def smooth_curve(
  area: np.ndarray, empty: np.ndarray, fps: float = math.nan
) -> np.ndarray:
  """The area curve without jitter; frames without a cavity are bridged.

  Args:
    area: float64 [T].
    empty: bool [T], frames to bridge linearly.
    fps: frames per second; NaN where unknown.

  Returns:
    float64 [T]: a median of three, then a Gaussian of half 80 ms (1.5 frames
    where the rate is unknown; never over a twelfth of the clip).
  """
  index = np.arange(len(area))
  curve = np.interp(index, index[~empty], area[~empty])
  sigma = _SMOOTHING_S * fps / 2 if math.isfinite(fps) else _SMOOTHING_FRAMES
  sigma = min(sigma, len(area) / 12)
  if len(area) >= 5:
    curve = ndimage.median_filter(curve, 3, mode='nearest')
  return (
    ndimage.gaussian_filter1d(curve, sigma, mode='nearest')
    if sigma > 0.3
    else curve
  )


def find_beats(smooth: np.ndarray, fps: float = math.nan):
  """ED and ES of every beat: a maximum and the minimum that follows it.

  Args:
    smooth: float64 [T] area curve.
    fps: frames per second; NaN where unknown.

  Returns:
    (beats, flags): [(ed, es), ...] with the chosen beat first: the one with
    the largest ED area whose contraction the clip shows whole; a beat that
    the clip's start or end cuts comes last and is flagged. Never empty.
  """
  spread = float(np.ptp(smooth))
  if spread < _MIN_CONTRACTION * smooth.max():
    flags = ['no_contraction', 'no_full_cycle']
    spread = max(spread, 1e-12)
  else:
    flags = []
  peaks = _extrema(smooth, spread, fps)
  troughs = _extrema(-smooth, spread, fps)
  beats = []
  for number, ed in enumerate(peaks):
    end = peaks[number + 1] if number + 1 < len(peaks) else len(smooth)
    between = [t for t in troughs if ed < t < end]
    if between:
      beats.append((ed, min(between, key=lambda t: smooth[t])))
  if not beats:
    ed, es = int(smooth.argmax()), int(smooth.argmin())
    more = ['es_before_ed'] if es < ed else []
    return [(ed, es)], list(dict.fromkeys([*flags, *more, 'no_full_cycle']))
  beats.sort(key=lambda beat: (is_cut(beat, smooth), -smooth[beat[0]]))
  if not flags and (is_cut(beats[0], smooth) or len(peaks) + len(troughs) < 3):
    flags = ['no_full_cycle']
  return beats, flags


def is_cut(beat: tuple[int, int], smooth: np.ndarray) -> bool:
  """Whether the clip's start or end cuts a beat's contraction.

  Args:
    beat: (ed, es) of `find_beats`.
    smooth: float64 [T], the curve they were found in.
  """
  ed, es = beat
  return (
    es == len(smooth) - 1
    or es < ed
    or (ed == 0 and smooth[0] < _WHOLE_ED * smooth.max())
  )


def _extrema(curve: np.ndarray, spread: float, fps: float) -> list[int]:
  """Maxima that stand out by 30 % of the range, ends included."""
  # A low wall on both sides lets a maximum at the clip's end count.
  low = curve.min() - spread
  distance = max(1, round(_MIN_BEAT_S * fps)) if math.isfinite(fps) else 1
  found, _ = signal.find_peaks(
    np.concatenate([[low], curve, [low]]),
    prominence=_MIN_PROMINENCE * spread,
    distance=distance,
  )
  return [int(index) - 1 for index in found]
