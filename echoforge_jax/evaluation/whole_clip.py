"""Scores whole clips without knowledge of ED and ES: the honest setting.

The papers' protocols cut a clip at the true ED and ES. In use nobody knows
them. Here (ours) the network sees every frame of the recording, ED and ES are
read from the areas it predicts, and volumes and EF come from those frames.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import math

import numpy as np

from echoforge_jax.evaluation.protocols import Protocol
from echoforge_jax.evaluation.scoring import METRICS, Case, frame_rows
from echoforge_jax.metrics import beats, ejection


@dataclasses.dataclass(frozen=True)
class WholeScore:
  """What was measured on one whole clip.

  Attributes:
    patient: identifier.
    view: '2CH' or '4CH'.
    num_frames: of the clip.
    num_scored: labeled frames that were scored.
    means: class -> metric -> mean over the scored frames.
    ends: cavities at the (ED, ES) that were found; None where none is.
    found: (ED, ES) frame numbers of the beat that was measured; None without
      any cavity.
    errors: mean-free distances (ED, ES) in frames from the true instants to
      the nearest ones found in any beat; NaN where either is unknown.
    fps: frames per second; NaN where unknown.
    flags: of `beats.find_beats`, and 'empty_frames'.
  """

  patient: str
  view: str
  num_frames: int
  num_scored: int
  means: dict[str, dict[str, float]]
  ends: tuple
  found: tuple[int, int] | None
  errors: tuple[float, float]
  fps: float
  flags: tuple[str, ...]


def score_whole(
  cases: Iterable[Case], protocol: Protocol, classes: Sequence[str] = ('lv',)
) -> Iterator[WholeScore]:
  """Scores whole clips one at a time.

  Args:
    cases: whole clips in the order of time, `ed` and `es` set.
    protocol: `score` 'ends' scores the true ED and ES frames, 'all' every
      labeled frame.
    classes: names, in the order of the class ids; volumes need 'lv'.

  Yields:
    One score a clip.
  """
  for case in cases:
    yield _score(case, protocol, tuple(classes))


def _score(case: Case, protocol: Protocol, classes) -> WholeScore:
  count = len(case.truth)
  labeled = (
    np.ones(count, bool)
    if case.labeled is None
    else np.asarray(case.labeled, bool)
  )
  wanted = {case.ed, case.es} if protocol.score == 'ends' else set(range(count))
  use = labeled & np.isin(np.arange(count), sorted(wanted))
  spacing = case.spacing(protocol.metric_spacing)
  rows = frame_rows(case, sorted(wanted), classes, use, spacing)
  means = {
    name: {m: _mean(r[m] for r in rows if r['class'] == name) for m in METRICS}
    for name in classes
  }
  found, errors, ends, flags = None, (math.nan, math.nan), (None, None), ()
  if 'lv' in classes:
    found, errors, ends, flags = _beat(
      case, case.prediction == classes.index('lv') + 1, spacing
    )
  return WholeScore(
    case.patient,
    case.view,
    count,
    int(use.sum()),
    means,
    ends,
    found,
    errors,
    case.fps,
    flags,
  )


def _beat(case: Case, lv: np.ndarray, spacing):
  """(found, errors, ends, flags) of a clip's predicted cavities [T, H, W]."""
  area = lv.sum(axis=(1, 2)).astype(np.float64)
  empty = area < ejection.MIN_PIXELS
  if empty.all():
    return None, (math.nan, math.nan), (None, None), ('no_cavity',)
  fps = case.fps if case.fps > 0 else math.nan
  smooth = beats.smooth_curve(area, empty, fps)
  pairs, flags = beats.find_beats(smooth, fps)
  if empty.any():
    flags = [*flags, 'empty_frames']
  usable = np.flatnonzero(~empty)
  found = tuple(int(usable[np.abs(usable - t).argmin()]) for t in pairs[0])
  errors = tuple(
    float(min(abs(pair[k] - true) for pair in pairs))
    for k, true in enumerate((case.ed, case.es))
  )
  ends = tuple(ejection.measure_cavity(lv[t], spacing) for t in found)
  return found, errors, ends, tuple(flags)


def _mean(values) -> float:
  values = np.asarray(list(values), np.float64)
  values = values[np.isfinite(values)]
  return float(values.mean()) if values.size else math.nan
