"""Scores whole clips without knowledge of ED and ES: the honest setting.

The papers' protocols cut a clip at the true ED and ES. In use nobody knows them. Here (ours) the
network sees every frame of the recording, ED and ES are read from the areas it predicts, and
volumes and EF come from those frames.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import math

import numpy as np

from echoforge_jax.evaluation.protocols import Protocol
from echoforge_jax.evaluation.scoring import Case, class_means, frame_rows
from echoforge_jax.metrics import ejection
from echoforge_jax.metrics.beats import read_curve


@dataclasses.dataclass(frozen=True)
class WholeScore:
  """What was measured on one whole clip.

  Attributes:
    patient: identifier.
    view: '2CH' or '4CH'.
    num_frames: of the clip.
    num_scored: labeled frames that were scored.
    means: class -> metric -> mean over the scored frames.
    fps: frames per second; NaN where unknown.
    ends: cavities at the (ED, ES) that were found; None where none is.
    found: (ED, ES) frames of the beat that was measured; None without any cavity.
    errors: distances (ED, ES) in frames from the true instants to the nearest ones found in any
      beat; NaN where either is unknown.
    flags: of `beats.read_curve`, 'no_cavity' and 'empty_frames'.
  """

  patient: str
  view: str
  num_frames: int
  num_scored: int
  means: dict[str, dict[str, float]]
  fps: float
  ends: tuple = (None, None)
  found: tuple[int, int] | None = None
  errors: tuple[float, float] = (math.nan, math.nan)
  flags: tuple[str, ...] = ()


def score_whole(
  cases: Iterable[Case], protocol: Protocol, classes: Sequence[str] = ('lv',)
) -> Iterator[WholeScore]:
  """Scores whole clips one at a time.

  Args:
    cases: whole clips in the order of time, `ed` and `es` set.
    protocol: `score` 'ends' scores the true ED and ES frames, 'all' every labeled frame.
    classes: names, in the order of the class ids; volumes need 'lv'.
  """
  for case in cases:
    yield _score(case, protocol, tuple(classes))


def _score(case: Case, protocol: Protocol, classes) -> WholeScore:
  count = len(case.truth)
  wanted = {case.ed, case.es} if protocol.score == 'ends' else set(range(count))
  use = case.known & np.isin(np.arange(count), sorted(wanted))
  spacing = case.spacing(protocol.metric_spacing)
  rows = frame_rows(case, sorted(wanted), classes, use, spacing)
  return WholeScore(
    case.patient,
    case.view,
    count,
    int(use.sum()),
    class_means(rows, classes),
    fps=case.fps,
    **(_beat(case, classes.index('lv') + 1, spacing) if 'lv' in classes else {}),
  )


def _beat(case: Case, label: int, spacing) -> dict:
  """Returns what `WholeScore` says of the predicted cavity."""
  lv = case.prediction == label
  area = lv.sum(axis=(1, 2)).astype(np.float64)
  empty = area < ejection.MIN_PIXELS
  if empty.all():
    return {'flags': ('no_cavity',)}
  _, beats, flags = read_curve(area, empty, case.fps if case.fps > 0 else math.nan)
  return {
    'found': beats[0].nearest,
    'ends': tuple(ejection.measure_cavity(lv[t], spacing) for t in beats[0].nearest),
    'errors': (
      float(min(abs(beat.ed - case.ed) for beat in beats)),
      float(min(abs(beat.es - case.es) for beat in beats)),
    ),
    'flags': (*flags, *(['empty_frames'] if empty.any() else [])),
  }
