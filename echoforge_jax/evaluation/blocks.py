"""The blocks of metrics.json beside overlap and EF, from clips' scores."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import math
import operator

import numpy as np

from echoforge_jax.evaluation import ef_scores
from echoforge_jax.evaluation.scoring import METRICS, ClipScore, finite_mean
from echoforge_jax.evaluation.whole_clip import WholeScore
from echoforge_jax.metrics import calibration, statistics, temporal


def pool(pairs: Iterable[tuple[str, float]], options: Mapping) -> dict:
  """Takes the mean of finite (patient, value) within each patient, then over the patients.

  `options` are seed and resamples of the bootstrap over patients.
  """
  values: dict[str, list[float]] = {}
  for patient, value in pairs:
    values.setdefault(patient, []).append(value)
  found = statistics.estimate(map(finite_mean, values.values()), **options)
  return {**dataclasses.asdict(found), 'ci95': list(found.ci95)}


def over_time(clip: ClipScore, ranges: Mapping[str, float]) -> dict[str, tuple[float, float]]:
  """Measures how smoothly a clip moves, as (prediction, truth); NaN where unknown.

  `ranges` are `temporal.attribute_ranges` of the truth over all clips. Beside roughness and shares,
  the result has the mean deviation of each of Painchaud's attributes.
  """
  both = clip.attributes, clip.complete_truth
  deviations = [temporal.attribute_deviations(a, ranges) for a in both]
  return {
    'area_roughness': (temporal.roughness(clip.areas), temporal.roughness(clip.truth_areas)),
    'inconsistent_share': tuple(temporal.inconsistent_share(a, ranges) for a in both),
    'valid_share': (clip.valid, clip.truth_valid),
    **{name: tuple(d.get(name, math.nan) for d in deviations) for name in temporal.THRESHOLDS},
  }


def temporal_block(
  clips: Sequence[ClipScore],
  series: Sequence[Mapping],
  ranges: Mapping[str, float],
  options: Mapping,
) -> dict:
  """Pools what `over_time` measured, with the truth's own beside it."""

  def both(name):
    predicted, truth = (
      pool(((c.case.patient, s[name][k]) for c, s in zip(clips, series)), options) for k in (0, 1)
    )
    return {**predicted, 'truth': truth}

  return {
    'area_roughness': both('area_roughness'),
    'inconsistent_share': {**both('inconsistent_share'), 'thresholds': dict(temporal.THRESHOLDS)},
    'attributes': {name: both(name) for name in temporal.THRESHOLDS if name in ranges},
    'valid_share': both('valid_share'),
  }


def whole_block(
  wholes: Iterable[WholeScore],
  found: Sequence[ef_scores.PatientEjection],
  classes: Sequence[str],
  options: Mapping,
) -> dict | None:
  """Pools whole clips, ED and ES unknown; None without any."""
  wholes = list(wholes)
  if not wholes:
    return None
  measured = [e for e in found if e.whole]
  flags = ef_scores.flag_counts([e.whole for e in measured])
  # 'no_cavity' is counted by the EF already.
  for _, flag in {(w.patient, f) for w in wholes for f in w.flags}:
    if flag != 'no_cavity':
      flags[flag] = flags.get(flag, 0) + 1

  def errors(k, ms):
    for w in wholes:
      frame_ms = 1000 / w.fps if w.fps > 0 else math.nan
      yield w.patient, w.errors[k] * (frame_ms if ms else 1)

  return {
    'n_patients': len({w.patient for w in wholes}),
    'n_clips': len(wholes),
    'n_frames': sum(w.num_frames for w in wholes),
    'n_frames_scored': sum(w.num_scored for w in wholes),
    'classes': {
      name: {m: pool(((w.patient, w.means[name][m]) for w in wholes), options) for m in METRICS}
      for name in classes
    },
    'ef': ef_scores.ef_entry(measured, lambda e: e.whole, options),
    **{
      f'{name}_error_{unit}': pool(errors(k, unit == 'ms'), options)
      for k, name in enumerate(('ed', 'es'))
      for unit in ('frames', 'ms')
    },
    'flags': dict(sorted(flags.items())),
  }


def positions(
  clips: Iterable[ClipScore], classes: Sequence[str], options: Mapping
) -> dict[str, list]:
  """Pools Dice by position in the clip, from ED (0) to ES (1)."""
  found: dict[str, dict[float, list]] = {name: {} for name in classes}
  for clip in clips:
    for row in clip.frames:
      position = round(row['frame'] / max(len(clip.areas) - 1, 1), 6)
      found[row['class']].setdefault(position, []).append((row['patient'], row['dice']))
  return {
    name: [
      {'position': position, 'dice': pool(pairs, options)}
      for position, pairs in sorted(by_position.items())
    ]
    for name, by_position in found.items()
  }


def calibration_block(clips: Iterable[ClipScore], options: Mapping) -> dict | None:
  """Pools the reliability of the first class's probability near outlines."""
  known = [c for c in clips if c.reliability is not None]
  if not known:
    return None
  pooled = functools.reduce(operator.add, (c.reliability for c in known))
  edges = np.linspace(0, 1, len(pooled.count) + 1)
  with np.errstate(invalid='ignore', divide='ignore'):
    confidence = pooled.confidence_sum / pooled.count
    accuracy = pooled.correct_sum / pooled.count
  names = ('low', 'high', 'count', 'confidence', 'accuracy')
  columns = (edges[:-1], edges[1:], pooled.count.astype(int), confidence, accuracy)
  return {
    'region': calibration.REGION,
    'ece': pool(((c.case.patient, calibration.ece(c.reliability)) for c in known), options),
    'ece_pooled': calibration.ece(pooled),
    'bins': [dict(zip(names, row)) for row in zip(*(c.tolist() for c in columns))],
  }


def risk_block(found: Iterable[ef_scores.PatientEjection], options: Mapping) -> dict | None:
  """Measures the EF error of the most confident share of the patients."""
  pairs = [(e.confidence, abs(e.predicted.ef_percent - e.reference)) for e in found]
  pairs = [p for p in pairs if all(map(math.isfinite, p))]
  if len(pairs) < 2:
    return None
  return {
    'error': 'absolute EF error, percentage points',
    **calibration.risk_coverage(*np.array(pairs).T, **options),
  }


def groups(clips: Sequence[ClipScore], classes: Sequence[str], options: Mapping) -> dict:
  """Pools Dice and HD by view, image quality and phase."""
  rows = [r for clip in clips for r in clip.frames if r['scored']]

  def entries(pairs):
    return {
      name: {metric: pool(pairs(name, metric), options) for metric in ('dice', 'hd')}
      for name in classes
    }

  def of_clips(kind, key):
    own = [c for c in clips if getattr(c.case, kind) == key]
    return entries(lambda name, metric: ((c.case.patient, c.means[name][metric]) for c in own))

  def of_phase(phase):
    own = [r for r in rows if r['phase'] == phase]
    return entries(lambda name, m: ((r['patient'], r[m]) for r in own if r['class'] == name))

  found = {}
  for kind in ('view', 'quality'):
    keys = dict.fromkeys(getattr(c.case, kind) for c in clips)
    found[kind] = {key: of_clips(kind, key) for key in keys if key}
  return {**found, 'phase': {phase: of_phase(phase) for phase in ('ED', 'ES')}}
