"""Scores whole clips without knowledge of ED and ES.

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
  """What was measured on one whole clip."""

  patient: str
  view: str
  num_frames: int
  num_scored: int  # Labeled frames that were scored.
  means: dict[str, dict[str, float]]  # class -> metric -> mean over the scored frames.
  fps: float
  ends: tuple = (None, None)  # Cavities at the (ED, ES) that were found.
  found: tuple[int, int] | None = None  # (ED, ES) frames; None without any cavity.
  # Frames (ED, ES) from the true instants to the nearest ones found in any beat; NaN if unknown.
  errors: tuple[float, float] = (math.nan, math.nan)
  flags: tuple[str, ...] = ()  # Of `beats.read_curve`, 'no_cavity' and 'empty_frames'.


def score_whole(
  cases: Iterable[Case], protocol: Protocol, classes: Sequence[str] = ('lv',)
) -> Iterator[WholeScore]:
  """Scores whole clips, in the order of time and with `ed` and `es` set, one at a time.

  The protocol's `score` 'ends' scores the true ED and ES frames, 'all' every labeled frame.
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
    'errors': tuple(
      float(min(abs(getattr(beat, t) - getattr(case, t)) for beat in beats)) for t in ('ed', 'es')
    ),
    'flags': (*flags, *(['empty_frames'] if empty.any() else [])),
  }
