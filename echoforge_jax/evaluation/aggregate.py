"""Clip scores -> patients -> the numbers of metrics.json, with intervals."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import math

import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation import ef_scores
from echoforge_jax.evaluation.protocols import Protocol
from echoforge_jax.evaluation.scoring import (
  METRICS,
  Case,
  ClipScore,
  score_clip,
)
from echoforge_jax.evaluation.whole_clip import WholeScore, score_whole
from echoforge_jax.metrics import calibration, statistics, temporal


@dataclasses.dataclass(frozen=True)
class Result:
  """An evaluation: the document, the tables, the curves.

  Attributes:
    protocol: what it was scored under.
    classes: names in the order of the class ids.
    metrics: the content of metrics.json (floats may be NaN).
    per_case: one dict a clip.
    per_frame: one dict a labeled frame and class.
    clips: the clips' scores, in order.
  """

  protocol: Protocol
  classes: tuple[str, ...]
  metrics: dict
  per_case: list[dict]
  per_frame: list[dict]
  clips: list[ClipScore]


def score_predictions(
  cases: Iterable[Case],
  protocol: Protocol,
  *,
  classes: Sequence[str] = ('lv',),
  seed: int = 0,
  resamples: int = statistics.RESAMPLES,
  receipt: dict | None = None,
  whole: Iterable[Case] = (),
  on_clip: Callable[[Case, ClipScore], None] | None = None,
) -> Result:
  """Scores predicted clips: overlap, distances, EF, smoothness, calibration.

  Args:
    cases: clips with truth and prediction, ED first and ES last; consumed one
      at a time, none is kept.
    protocol: what is scored and how it is pooled.
    classes: names, in the order of the class ids; EF needs 'lv'.
    seed: of the bootstrap over patients.
    resamples: bootstrap resamples.
    receipt: where the predictions come from; copied into the document.
    whole: the same patients' whole clips, predicted without knowledge of ED
      and ES; consumed one at a time. Empty leaves that block out.
    on_clip: called with each case and its score while its arrays are there.

  Returns:
    The result.

  Raises:
    InputError: if there are no cases, or only some have a pixel spacing.
  """
  classes = tuple(classes)
  clips = []
  for case in cases:
    clips.append(score_clip(case, protocol, classes))
    if on_clip:
      on_clip(case, clips[-1])
  unit = _common_unit(clips)
  wholes = {
    (w.patient, w.view): w for w in score_whole(whole, protocol, classes)
  }
  patients: dict[str, list[ClipScore]] = {}
  for clip in clips:
    patients.setdefault(clip.case.patient, []).append(clip)
  ejections = {
    p: ef_scores.patient_ejection(
      p,
      c,
      [
        wholes[key]
        for key in ((p, one.case.view) for one in c)
        if key in wholes
      ],
      protocol,
      unit == 'mm',
    )
    for p, c in patients.items()
  }
  rows = [row for clip in clips for row in clip.frames]
  ranges = temporal.attribute_ranges(
    [c.truth_attributes for c in clips if c.truth_attributes]
  )
  inconsistent = {id(c): _inconsistent(c, ranges) for c in clips}
  options = {'seed': seed, 'resamples': resamples}
  found = list(ejections.values())
  metrics = {
    'protocol': protocol.name,
    'n_patients': len(patients),
    'n_clips': len(clips),
    'n_frames': len(
      {(r['patient'], r['view'], r['frame']) for r in rows if r['scored']}
    ),
    'unit': unit,
    'classes': {
      name: {m: _metric(patients, name, m, protocol, options) for m in METRICS}
      for name in classes
    },
    **ef_scores.ejection_block(found, options),
    'whole_clip': _whole_block(wholes, found, classes, options),
    'temporal': _temporal_block(patients, inconsistent, ranges, options),
    'positions': _positions(clips, classes, options),
    'calibration': _calibration_block(patients, options),
    'risk_coverage': _risk_block(found, options),
    'groups': _groups(clips, classes, options),
    'not_applicable': _count(rows, classes, both=True),
    'one_empty': _count(rows, classes, both=False),
    'flags': ef_scores.flag_counts([e.predicted for e in found]),
    'receipt': {
      'seed': seed,
      'resamples': resamples,
      'protocol': dataclasses.asdict(protocol),
      **(receipt or {}),
    },
  }
  per_case = [
    _case_row(
      clip,
      ejections[clip.case.patient],
      classes,
      inconsistent[id(clip)][0],
      wholes.get((clip.case.patient, clip.case.view)),
    )
    for clip in clips
  ]
  return Result(protocol, classes, metrics, per_case, rows, clips)


def _common_unit(clips: list[ClipScore]) -> str:
  if not clips:
    raise InputError(
      'evaluation: found no clips, wanted at least one; check '
      'the split and that the data is prepared'
    )
  units = {clip.unit: clip.case for clip in clips}
  if len(units) > 1:
    case = units['px']
    raise InputError(
      f'evaluation: {case.patient} {case.view} has no pixel spacing while '
      'other clips have one; found mm and px, wanted one unit; give that '
      'clip its spacing or evaluate it apart'
    )
  return next(iter(units))


def _entry(estimate: statistics.Estimate) -> dict:
  return {**dataclasses.asdict(estimate), 'ci95': list(estimate.ci95)}


def _pool(patients, value, options) -> dict:
  """Mean of a clip's value within each patient, then over patients."""
  means = []
  for clips in patients.values():
    values = np.asarray([value(c) for c in clips], np.float64)
    values = values[np.isfinite(values)]
    means.append(values.mean() if values.size else math.nan)
  return _entry(statistics.estimate(means, **options))


def _metric(
  patients, name: str, metric: str, protocol: Protocol, options
) -> dict:
  """One metric of one class, pooled as the protocol says."""
  if protocol.pooling == 'clip_patient':
    return _pool(patients, lambda c: c.means[name][metric], options)
  frames = [
    [
      r[metric]
      for c in clips
      for r in c.frames
      if r['scored'] and r['class'] == name and math.isfinite(r[metric])
    ]
    for clips in patients.values()
  ]
  sums = np.array([[sum(f), len(f)] for f in frames if f]).reshape(-1, 2)
  values = np.array([v for f in frames for v in f])
  if not len(sums):
    return _entry(statistics.estimate([], **options))

  def mean(drawn):
    return drawn[..., 0].sum(axis=1) / drawn[..., 1].sum(axis=1)

  return {
    'mean': float(values.mean()),
    'ci95': list(statistics.bootstrap_ci(sums, mean, **options)),
    'sd': float(values.std(ddof=1)) if len(values) > 1 else math.nan,
    'median': float(np.median(values)),
    'n': len(sums),
  }


def _inconsistent(clip: ClipScore, ranges) -> tuple[float, float]:
  """(prediction's, truth's) share of inconsistent frames."""
  return (
    temporal.inconsistent_share(clip.attributes, ranges),
    temporal.inconsistent_share(clip.complete_truth, ranges),
  )


def _whole_block(wholes: dict, found, classes, options) -> dict | None:
  """What whole clips give when nobody knows ED and ES."""
  if not wholes:
    return None
  patients: dict[str, list[WholeScore]] = {}
  for clip in wholes.values():
    patients.setdefault(clip.patient, []).append(clip)
  measured = [e for e in found if e.whole]
  flags = ef_scores.flag_counts([e.whole for e in measured])
  for clips in patients.values():
    for flag in sorted({flag for clip in clips for flag in clip.flags}):
      if flag not in ('no_cavity',):
        flags[flag] = flags.get(flag, 0) + 1
  errors = {
    f'{name}_error_{unit}': _pool(
      patients,
      lambda c, k=k, ms=ms: (
        c.errors[k]
        * (1000 / c.fps if ms and c.fps > 0 else math.nan if ms else 1)
      ),
      options,
    )
    for k, name in enumerate(('ed', 'es'))
    for unit, ms in (('frames', False), ('ms', True))
  }
  return {
    'n_patients': len(patients),
    'n_clips': len(wholes),
    'n_frames': sum(c.num_frames for c in wholes.values()),
    'n_frames_scored': sum(c.num_scored for c in wholes.values()),
    'classes': {
      name: {
        m: _pool(patients, lambda c, n=name, m=m: c.means[n][m], options)
        for m in METRICS
      }
      for name in classes
    },
    'ef': ef_scores.ef_entry(measured, lambda e: e.whole, options),
    **errors,
    'flags': dict(sorted(flags.items())),
  }


def _positions(clips, classes, options) -> dict[str, list]:
  """Dice by place in the clip, from ED (0) to ES (1), of labeled frames."""
  found: dict[str, dict[float, dict[str, list[float]]]] = {}
  for clip in clips:
    for row in clip.frames:
      place = round(row['frame'] / max(len(clip.areas) - 1, 1), 6)
      found.setdefault(row['class'], {}).setdefault(place, {}).setdefault(
        row['patient'], []
      ).append(row['dice'])
  return {
    name: [
      {'position': place, 'dice': _pool(values, lambda v: v, options)}
      for place, values in sorted(found.get(name, {}).items())
    ]
    for name in classes
  }


def _calibration_block(patients, options) -> dict | None:
  """Reliability of the first class's probability near the outlines."""
  bins = [
    c.reliability
    for clips in patients.values()
    for c in clips
    if c.reliability is not None
  ]
  if not bins:
    return None
  pooled = functools.reduce(lambda a, b: a + b, bins)
  edges = np.linspace(0, 1, len(pooled.count) + 1)
  with np.errstate(invalid='ignore', divide='ignore'):
    confidence = pooled.confidence_sum / pooled.count
    accuracy = pooled.correct_sum / pooled.count
  return {
    'region': calibration.REGION,
    'ece': _pool(patients, _ece, options),
    'ece_pooled': calibration.ece(pooled),
    'bins': [
      {
        'low': float(edges[k]),
        'high': float(edges[k + 1]),
        'count': int(pooled.count[k]),
        'confidence': float(confidence[k]),
        'accuracy': float(accuracy[k]),
      }
      for k in range(len(pooled.count))
    ],
  }


def _ece(clip: ClipScore) -> float:
  return (
    math.nan if clip.reliability is None else calibration.ece(clip.reliability)
  )


def _risk_block(found, options) -> dict | None:
  """EF error of the most confident share of the patients."""
  pairs = [
    (e.confidence, abs(e.predicted.ef_percent - e.reference)) for e in found
  ]
  pairs = [p for p in pairs if all(map(math.isfinite, p))]
  if len(pairs) < 2:
    return None
  return {
    'error': 'absolute EF error, percentage points',
    **calibration.risk_coverage(*np.array(pairs).T, **options),
  }


def _temporal_block(patients, shares, ranges, options) -> dict:
  """Roughness, inconsistent frames and validity, with the truth's own."""

  def both(predicted, truth):
    return {
      **_pool(patients, predicted, options),
      'truth': _pool(patients, truth, options),
    }

  deviations = {
    id(c): [
      temporal.attribute_deviations(a, ranges) if a and ranges else {}
      for a in (c.attributes, c.complete_truth)
    ]
    for clips in patients.values()
    for c in clips
  }
  return {
    'area_roughness': both(
      lambda c: temporal.roughness(c.areas),
      lambda c: temporal.roughness(c.truth_areas),
    ),
    'inconsistent_share': {
      **both(lambda c: shares[id(c)][0], lambda c: shares[id(c)][1]),
      'thresholds': dict(temporal.THRESHOLDS),
    },
    'attributes': {
      name: both(
        *(
          lambda c, k=k, n=name: deviations[id(c)][k].get(n, math.nan)
          for k in (0, 1)
        )
      )
      for name in temporal.THRESHOLDS
      if name in ranges
    },
    'valid_share': both(lambda c: c.valid, lambda c: c.truth_valid),
  }


def _groups(clips, classes, options) -> dict:
  """Dice and HD by view, image quality and phase."""
  groups = {'view': {}, 'quality': {}, 'phase': {}}
  for clip in clips:
    for kind in ('view', 'quality'):
      key = getattr(clip.case, kind)
      if key:
        groups[kind].setdefault(key, {}).setdefault(
          clip.case.patient, []
        ).append(clip.means)
    for phase in ('ED', 'ES'):
      rows = [r for r in clip.frames if r['phase'] == phase and r['scored']]
      groups['phase'].setdefault(phase, {}).setdefault(
        clip.case.patient, []
      ).append({r['class']: r for r in rows})
  return {
    kind: {
      key: {
        name: {
          m: _pool(
            patients,
            lambda v, n=name, m=m: v.get(n, {}).get(m, math.nan),
            options,
          )
          for m in ('dice', 'hd')
        }
        for name in classes
      }
      for key, patients in found.items()
    }
    for kind, found in groups.items()
  }


def _count(rows, classes, *, both: bool) -> dict[str, int]:
  """Scored frames on which both masks, or exactly one, are empty."""
  counts = dict.fromkeys(classes, 0)
  for row in rows:
    empty = (row['area_truth'] == 0, row['area_predicted'] == 0)
    if row['scored'] and (all(empty) if both else empty[0] != empty[1]):
      counts[row['class']] += 1
  return counts


def _case_row(
  clip: ClipScore,
  found: ef_scores.PatientEjection,
  classes,
  inconsistent: float,
  whole: WholeScore | None,
) -> dict:
  """One row of per_case.csv; EF and volumes are the patient's."""
  case = clip.case
  row = {
    'patient': case.patient,
    'view': case.view,
    'quality': case.quality,
    'fps': case.fps,
    'n_frames': len({r['frame'] for r in clip.frames if r['scored']}),
  }
  for name in classes:
    for metric in METRICS:
      row[f'{name}_{metric}'] = clip.means[name][metric]
  return {
    **row,
    'unit': clip.unit,
    'edv_dataset_ml': found.dataset[0],
    'esv_dataset_ml': found.dataset[1],
    'edv_masks_ml': found.from_masks.edv_ml,
    'esv_masks_ml': found.from_masks.esv_ml,
    'edv_predicted_ml': found.predicted.edv_ml,
    'esv_predicted_ml': found.predicted.esv_ml,
    'ef_reference': found.reference,
    'ef_reference_source': found.source,
    'ef_masks': found.from_masks.ef_percent,
    'ef_predicted': found.predicted.ef_percent,
    'area_roughness': temporal.roughness(clip.areas),
    'inconsistent_share': inconsistent,
    'valid_share': clip.valid,
    'confidence': clip.confidence,
    'ece': _ece(clip),
    'flags': ' '.join(found.predicted.flags),
    'ef_whole_clip': found.whole.ef_percent if found.whole else math.nan,
    'ed_found': whole.found[0] if whole and whole.found else math.nan,
    'es_found': whole.found[1] if whole and whole.found else math.nan,
    'whole_clip_flags': ' '.join(
      dict.fromkeys(
        [
          *(found.whole.flags if found.whole else ()),
          *(whole.flags if whole else ()),
        ]
      )
    ),
  }
