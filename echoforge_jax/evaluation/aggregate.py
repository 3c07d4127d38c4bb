"""Clip scores -> patients -> the numbers of metrics.json, with intervals."""

from collections.abc import Iterable, Sequence
import dataclasses
import math

import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation import ejection, statistics, temporal
from echoforge_jax.evaluation.protocols import Protocol
from echoforge_jax.evaluation.scoring import (
  METRICS,
  Case,
  ClipScore,
  score_clip,
)


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


@dataclasses.dataclass(frozen=True)
class PatientEjection:
  """One patient's volumes by reference, truth masks and prediction.

  Attributes:
    patient: identifier.
    reference: the dataset's EF where it has one, else from the truth masks.
    source: 'dataset' or 'masks', where `reference` comes from; '' if none.
    from_masks: measured on the truth masks.
    predicted: measured on the predicted masks.
    dataset: (EDV ml, ESV ml, EF percent) as the dataset gives them.
  """
  patient: str
  reference: float
  source: str
  from_masks: ejection.Ejection
  predicted: ejection.Ejection
  dataset: tuple[float, float, float]


def score_predictions(
    cases: Iterable[Case], protocol: Protocol, *,
    classes: Sequence[str] = ('lv',), seed: int = 0,
    resamples: int = statistics.RESAMPLES,
    receipt: dict | None = None) -> Result:
  """Scores predicted clips: overlap, distances, EF, smoothness.

  Args:
    cases: clips with truth and prediction, consumed one at a time.
    protocol: what is scored and how it is pooled.
    classes: names, in the order of the class ids; EF needs 'lv'.
    seed: of the bootstrap over patients.
    resamples: bootstrap resamples.
    receipt: where the predictions come from; copied into the document.

  Returns:
    The result.

  Raises:
    InputError: if there are no cases, or only some have a pixel spacing.
  """
  classes = tuple(classes)
  clips = [score_clip(case, protocol, classes) for case in cases]
  unit = _common_unit(clips)
  patients: dict[str, list[ClipScore]] = {}
  for clip in clips:
    patients.setdefault(clip.case.patient, []).append(clip)
  ejections = [_patient_ejection(p, c, unit) for p, c in patients.items()]
  rows = [row for clip in clips for row in clip.frames]
  inconsistent = _inconsistent_shares(clips)
  options = {'seed': seed, 'resamples': resamples}
  metrics = {
      'protocol': protocol.name,
      'n_patients': len(patients),
      'n_clips': len(clips),
      'n_frames': len({(r['patient'], r['view'], r['frame'])
                       for r in rows if r['scored']}),
      'unit': unit,
      'classes': {
          name: {m: _pool(patients, lambda c, n=name, m=m: c.means[n][m],
                          options) for m in METRICS} for name in classes},
      **_ejection_block(ejections, options),
      'temporal': _temporal_block(patients, inconsistent, options),
      'groups': _groups(clips, classes, options),
      'not_applicable': _count(rows, classes, both=True),
      'one_empty': _count(rows, classes, both=False),
      'flags': _flag_counts(ejections),
      'receipt': {'seed': seed, 'resamples': resamples,
                  'protocol': dataclasses.asdict(protocol),
                  **(receipt or {})},
  }
  by_patient = {e.patient: e for e in ejections}
  per_case = [_case_row(clip, by_patient[clip.case.patient], classes,
                        inconsistent[id(clip)][0]) for clip in clips]
  return Result(protocol, classes, metrics, per_case, rows, clips)


def _common_unit(clips: list[ClipScore]) -> str:
  if not clips:
    raise InputError('evaluation: found no clips, wanted at least one; check '
                     'the split and that the data is prepared')
  units = {clip.unit: clip.case for clip in clips}
  if len(units) > 1:
    case = units['px']
    raise InputError(
        f'evaluation: {case.patient} {case.view} has no pixel spacing while '
        'other clips have one; found mm and px, wanted one unit; give that '
        'clip its spacing or evaluate it apart')
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


def _patient_ejection(patient: str, clips: list[ClipScore],
                      unit: str) -> PatientEjection:
  """EF of one patient from its clips' ED and ES cavities."""
  def measure(ends):
    found = ejection.measure_ejection(
        *({c.case.view: getattr(c, ends)[t] for c in clips} for t in (0, 1)))
    if unit == 'mm':
      return found
    return dataclasses.replace(found, edv_ml=math.nan, esv_ml=math.nan)

  truth, predicted = measure('truth_ends'), measure('predicted_ends')
  dataset = tuple(
      next((float(v) for v in (getattr(c.case, name) for c in clips)
            if math.isfinite(v)), math.nan)
      for name in ('edv_ml', 'esv_ml', 'ef_percent'))
  reference, source = dataset[2], 'dataset'
  if not math.isfinite(reference):
    reference, source = truth.ef_percent, 'masks'
  if not math.isfinite(reference):
    source = ''
  return PatientEjection(patient, reference, source, truth, predicted, dataset)


def _agreement(reference, prediction, options) -> dict:
  found = dataclasses.asdict(
      statistics.agreement(reference, prediction, **options))
  return {**found, 'loa': list(found['loa']),
          'ci95': {k: list(v) for k, v in found['ci95'].items()}}


def _ejection_block(found: list[PatientEjection], options) -> dict:
  """The EF entries: against the reference, against masks, and volumes."""
  predicted = [e.predicted.ef_percent for e in found]
  return {
      'ef': {
          **_agreement([e.reference for e in found], predicted, options),
          'unit': 'percent',
          'reference': sorted({e.source for e in found if e.source}),
          'not_measurable': sum(not math.isfinite(p) for p in predicted),
          'out_of_range': sum(
              'ef_out_of_range' in e.predicted.flags for e in found),
          'single_plane': sum(
              'single_plane' in e.predicted.flags for e in found)},
      'ef_from_masks': _agreement(
          [e.from_masks.ef_percent for e in found], predicted, options),
      'volumes_from_masks': {
          name: {**_agreement([getattr(e.from_masks, name) for e in found],
                              [getattr(e.predicted, name) for e in found],
                              options), 'unit': 'ml'}
          for name in ('edv_ml', 'esv_ml')},
      # The method's own error: true masks against the dataset's EF.
      'ef_masks_against_dataset': _agreement(
          [e.dataset[2] for e in found],
          [e.from_masks.ef_percent for e in found], options),
  }


def _inconsistent_shares(clips) -> dict[int, tuple[float, float]]:
  """id(clip) -> (prediction's, truth's) share of inconsistent frames."""
  ranges = temporal.attribute_ranges(
      [c.truth_attributes for c in clips if c.truth_attributes])
  shares = {}
  for clip in clips:
    pair = []
    for attributes in (clip.attributes, clip.truth_attributes):
      bad = (temporal.inconsistent_frames(attributes, ranges)
             if attributes and ranges else np.zeros(0, bool))
      pair.append(float(bad.mean()) if bad.size else math.nan)
    shares[id(clip)] = tuple(pair)
  return shares


def _temporal_block(patients, shares, options) -> dict:
  """Roughness, inconsistent frames and validity, with the truth's own."""
  return {
      'area_roughness': {
          **_pool(patients, lambda c: temporal.roughness(c.areas), options),
          'truth': _pool(patients, lambda c: temporal.roughness(c.truth_areas),
                         options)},
      'inconsistent_share': {
          **_pool(patients, lambda c: shares[id(c)][0], options),
          'truth': _pool(patients, lambda c: shares[id(c)][1],
                         options),
          'thresholds': dict(temporal.THRESHOLDS)},
      'valid_share': _pool(patients, lambda c: c.valid, options),
  }


def _groups(clips, classes, options) -> dict:
  """Dice and HD by view, image quality and phase."""
  groups = {'view': {}, 'quality': {}, 'phase': {}}
  for clip in clips:
    for kind in ('view', 'quality'):
      key = getattr(clip.case, kind)
      if key:
        groups[kind].setdefault(key, {}).setdefault(
            clip.case.patient, []).append(clip.means)
    for phase in ('ED', 'ES'):
      rows = [r for r in clip.frames if r['phase'] == phase and r['scored']]
      groups['phase'].setdefault(phase, {}).setdefault(
          clip.case.patient, []).append({r['class']: r for r in rows})
  return {kind: {
      key: {name: {m: _pool(patients,
                            lambda v, n=name, m=m: v.get(n, {}).get(
                                m, math.nan), options)
                   for m in ('dice', 'hd')} for name in classes}
      for key, patients in found.items()} for kind, found in groups.items()}


def _count(rows, classes, *, both: bool) -> dict[str, int]:
  """Scored frames on which both masks, or exactly one, are empty."""
  counts = dict.fromkeys(classes, 0)
  for row in rows:
    empty = (row['area_truth'] == 0, row['area_predicted'] == 0)
    if row['scored'] and (all(empty) if both else empty[0] != empty[1]):
      counts[row['class']] += 1
  return counts


def _flag_counts(found: list[PatientEjection]) -> dict[str, int]:
  """How many patients' predictions carry each flag."""
  counts: dict[str, int] = {}
  for patient in found:
    for flag in patient.predicted.flags:
      counts[flag] = counts.get(flag, 0) + 1
  return dict(sorted(counts.items()))


def _case_row(clip: ClipScore, found: PatientEjection, classes,
              inconsistent: float) -> dict:
  """One row of per_case.csv; EF and volumes are the patient's."""
  case = clip.case
  row = {'patient': case.patient, 'view': case.view, 'quality': case.quality,
         'fps': case.fps,
         'n_frames': len({r['frame'] for r in clip.frames if r['scored']})}
  for name in classes:
    for metric in METRICS:
      row[f'{name}_{metric}'] = clip.means[name][metric]
  return {
      **row, 'unit': clip.unit,
      'edv_dataset_ml': found.dataset[0], 'esv_dataset_ml': found.dataset[1],
      'edv_masks_ml': found.from_masks.edv_ml,
      'esv_masks_ml': found.from_masks.esv_ml,
      'edv_predicted_ml': found.predicted.edv_ml,
      'esv_predicted_ml': found.predicted.esv_ml,
      'ef_reference': found.reference, 'ef_reference_source': found.source,
      'ef_masks': found.from_masks.ef_percent,
      'ef_predicted': found.predicted.ef_percent,
      'area_roughness': temporal.roughness(clip.areas),
      'inconsistent_share': inconsistent, 'valid_share': clip.valid,
      'flags': ' '.join(found.predicted.flags)}
