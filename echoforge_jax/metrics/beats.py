"""ED and ES of every beat from a curve of cavity areas (ours)."""

import dataclasses
import itertools
import math

import numpy as np
from scipy import ndimage, signal

_SMOOTHING_S = 0.08
_SMOOTHING_FRAMES = 1.5
_MIN_BEAT_S = 0.33  # 180 a minute.
_MIN_PROMINENCE = 0.3  # A bump below this share of the curve's range is no beat (ours).
_MIN_CONTRACTION = 0.08
# A clip that starts below this share of its largest area starts after ED.
_WHOLE_ED = 0.9


@dataclasses.dataclass(frozen=True)
class Instants:
  """ED and ES of one beat, as frame numbers."""

  ed: int  # The curve's maximum.
  es: int  # The minimum after it.
  nearest: tuple[int, int]  # The frames with a cavity nearest to (ED, ES).
  whole: bool  # The clip shows the contraction from beginning to end.


def read_curve(
  area: np.ndarray, empty: np.ndarray, fps: float = math.nan
) -> tuple[np.ndarray, list[Instants], list[str]]:
  """Finds the beats of a clip: (smooth curve [T], beats, flags).

  The chosen beat comes first (see `find_beats`); there is at least one.

  Args:
    area: float64 [T] of the cavity, in any unit.
    empty: bool [T], frames without a cavity; not all.
    fps: frames per second; NaN where unknown.
  """
  smooth = smooth_curve(area, empty, fps)
  pairs, flags = find_beats(smooth, fps)
  usable = np.flatnonzero(~empty)
  beats = [
    Instants(
      *pair,
      tuple(int(usable[np.abs(usable - t).argmin()]) for t in pair),
      not _is_cut(pair, smooth),
    )
    for pair in pairs
  ]
  return smooth, beats, flags


def smooth_curve(area: np.ndarray, empty: np.ndarray, fps: float = math.nan) -> np.ndarray:
  """Returns the area curve without jitter, bridged where there is no cavity.

  It is a median of three, then a Gaussian of half 80 ms (1.5 frames where the rate is unknown;
  never over a twelfth of the clip).
  """
  curve = np.interp(np.arange(len(area)), np.flatnonzero(~empty), area[~empty])
  sigma = _SMOOTHING_S * fps / 2 if math.isfinite(fps) else _SMOOTHING_FRAMES
  sigma = min(sigma, len(area) / 12)
  if len(area) >= 5:
    curve = ndimage.median_filter(curve, 3, mode='nearest')
  return ndimage.gaussian_filter1d(curve, sigma, mode='nearest') if sigma > 0.3 else curve


def find_beats(smooth: np.ndarray, fps: float = math.nan):
  """Finds (ED, ES) of every beat, a maximum and the minimum that follows it, and flags.

  The chosen beat comes first: the one with the largest ED area whose contraction the clip shows
  whole. A beat that the clip's start or end cuts comes last and is flagged. Never empty.
  """
  spread = float(np.ptp(smooth))
  flags = []
  if spread < _MIN_CONTRACTION * smooth.max():
    flags = ['no_contraction', 'no_full_cycle']
    spread = max(spread, 1e-12)
  peaks = _extrema(smooth, spread, fps)
  troughs = _extrema(-smooth, spread, fps)
  beats = []
  for ed, end in itertools.pairwise([*peaks, len(smooth)]):
    between = [t for t in troughs if ed < t < end]
    if between:
      beats.append((ed, min(between, key=lambda t: smooth[t])))
  if not beats:
    ed, es = int(smooth.argmax()), int(smooth.argmin())
    more = ['es_before_ed'] if es < ed else []
    return [(ed, es)], list(dict.fromkeys([*flags, *more, 'no_full_cycle']))
  beats.sort(key=lambda beat: (_is_cut(beat, smooth), -smooth[beat[0]]))
  if not flags and (_is_cut(beats[0], smooth) or len(peaks) + len(troughs) < 3):
    flags = ['no_full_cycle']
  return beats, flags


def _is_cut(beat: tuple[int, int], smooth: np.ndarray) -> bool:
  """Returns whether the clip's start or end cuts a beat's contraction."""
  ed, es = beat
  return es == len(smooth) - 1 or es < ed or (ed == 0 and smooth[0] < _WHOLE_ED * smooth.max())


def _extrema(curve: np.ndarray, spread: float, fps: float) -> list[int]:
  """Returns maxima that stand out by 30 % of the range, ends included."""
  # A low wall on both sides lets a maximum at the clip's end count.
  low = curve.min() - spread
  distance = max(1, round(_MIN_BEAT_S * fps)) if math.isfinite(fps) else 1
  found, _ = signal.find_peaks(
    np.concatenate([[low], curve, [low]]), prominence=_MIN_PROMINENCE * spread, distance=distance
  )
  return [int(index) - 1 for index in found]
