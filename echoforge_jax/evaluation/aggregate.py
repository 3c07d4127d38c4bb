"""Clip scores -> patients -> the numbers of metrics.json, with intervals."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import math

import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation import blocks, ef_scores
from echoforge_jax.evaluation.blocks import pool
from echoforge_jax.evaluation.protocols import Protocol
from echoforge_jax.evaluation.scoring import (
  METRICS,
  Case,
  ClipScore,
  score_clip,
  without_distances,
  without_lengths,
)
from echoforge_jax.evaluation.whole_clip import WholeScore, score_whole
from echoforge_jax.metrics import calibration, statistics, temporal


@dataclasses.dataclass(frozen=True)
class Result:
  """An evaluation: the document, the tables, the curves."""

  protocol: Protocol
  classes: tuple[str, ...]  # In the order of the class ids.
  metrics: dict  # The content of metrics.json (floats may be NaN).
  per_case: list[dict]  # One per clip.
  per_frame: list[dict]  # One per labeled frame and class.
  clips: list[ClipScore]
  over_time: list[dict[str, tuple[float, float]]]  # Of each clip, see `blocks.over_time`.


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
    cases: clips with truth and prediction, ED first and ES last; consumed one at a time.
    protocol: what is scored and how it is pooled.
    classes: names, in the order of the class ids; EF needs 'lv'. The last ones are left out where
      no frame of the data is labeled with them.
    seed, resamples: of the bootstrap over patients.
    receipt: where the predictions come from; copied into the document.
    whole: the same patients' whole clips, predicted without knowledge of ED and ES; consumed one at
      a time. Empty leaves that block out.
    on_clip: called with each case and its score while its arrays are there.

  Raises:
    InputError: if there are no cases.
  """
  classes = tuple(classes)
  clips = []
  for case in cases:
    clips.append(score_clip(case, protocol, classes))
    if on_clip:
      on_clip(case, clips[-1])
  if not clips:
    raise InputError(
      'evaluation: found no clips, wanted at least one; check '
      'the split and that the data is prepared'
    )
  clips, classes, left_out = _labeled_classes(clips, classes)
  wholes = {(w.patient, w.view): w for w in score_whole(whole, protocol, classes)}
  unit = 'mm' if any(clip.unit == 'mm' for clip in clips) else 'px'
  for n, clip in enumerate(clips):
    if clip.unit != unit:  # Its distances cannot be averaged with others in mm.
      clips[n] = without_lengths(clip)
      if found := wholes.get(key := (clip.case.patient, clip.case.view)):
        wholes[key] = dataclasses.replace(found, means=without_distances(found.means))
  ejections = ef_scores.by_patient(clips, wholes, protocol, unit == 'mm')
  ranges = temporal.attribute_ranges([c.truth_attributes for c in clips if c.truth_attributes])
  over_time = [blocks.over_time(clip, ranges) for clip in clips]
  options = {'seed': seed, 'resamples': resamples}
  found = list(ejections.values())
  rows = [row for clip in clips for row in clip.frames]
  metrics = {
    'protocol': protocol.name,
    'n_patients': len(ejections),
    'n_clips': len(clips),
    'n_frames': len({(r['patient'], r['view'], r['frame']) for r in rows if r['scored']}),
    'unit': unit,
    'classes': {
      name: {m: _metric(clips, name, m, protocol, options) for m in METRICS} for name in classes
    },
    **ef_scores.ejection_block(found, options),
    'whole_clip': blocks.whole_block(wholes.values(), found, classes, options),
    'temporal': blocks.temporal_block(clips, over_time, ranges, options),
    'positions': blocks.positions(clips, classes, options),
    'calibration': blocks.calibration_block(clips, options),
    'risk_coverage': blocks.risk_block(found, options),
    'groups': blocks.groups(clips, classes, options),
    'not_applicable': _empty_frames(rows, classes, masks=2),
    'one_empty': _empty_frames(rows, classes, masks=1),
    'flags': ef_scores.flag_counts([e.predicted for e in found]),
    'receipt': {**options, 'protocol': dataclasses.asdict(protocol), **(receipt or {}), **left_out},
  }
  per_case = []
  for clip, series in zip(clips, over_time):
    key = clip.case.patient, clip.case.view
    per_case.append(_case_row(clip, series, ejections[key[0]], wholes.get(key)))
  return Result(protocol, classes, metrics, per_case, rows, clips, over_time)


def _labeled_classes(clips, classes: tuple[str, ...]) -> tuple[list, tuple[str, ...], dict]:
  """Returns clips and classes less the last classes that no frame shows, and these by name.

  All remain where no frame shows any.
  """
  shown = {row['class'] for clip in clips for row in clip.frames if row['area_truth']}
  count = max((k + 1 for k, name in enumerate(classes) if name in shown), default=len(classes))
  if count == len(classes):
    return clips, classes, {}
  kept = []
  for clip in clips:
    frames = [row for row in clip.frames if row['class'] in classes[:count]]
    means = {name: clip.means[name] for name in classes[:count]}
    kept.append(dataclasses.replace(clip, frames=frames, means=means))
  return kept, classes[:count], {'unlabeled_classes': list(classes[count:])}


def _metric(clips, name: str, metric: str, protocol: Protocol, options) -> dict:
  """Pools one metric of one class as the protocol says."""
  if protocol.pooling == 'clip_patient':
    return pool(((c.case.patient, c.means[name][metric]) for c in clips), options)
  frames: dict[str, list[float]] = {}
  for clip in clips:
    for row in clip.frames:
      if row['scored'] and row['class'] == name and math.isfinite(row[metric]):
        frames.setdefault(row['patient'], []).append(row[metric])
  if not frames:
    return pool([], options)
  sums = np.array([[sum(f), len(f)] for f in frames.values()])
  values = np.concatenate(list(frames.values()))

  def mean(drawn):
    return drawn[..., 0].sum(axis=1) / drawn[..., 1].sum(axis=1)

  return {
    'mean': float(values.mean()),
    'ci95': list(statistics.bootstrap_ci(sums, mean, **options)),
    'sd': float(values.std(ddof=1)) if len(values) > 1 else math.nan,
    'median': float(np.median(values)),
    'n': len(sums),
  }


def _empty_frames(rows, classes, *, masks: int) -> dict[str, int]:
  """Counts scored frames on which this many of truth and prediction are empty."""
  counts = dict.fromkeys(classes, 0)
  for row in rows:
    empty = (row['area_truth'] == 0) + (row['area_predicted'] == 0)
    counts[row['class']] += row['scored'] and empty == masks
  return counts


def _case_row(
  clip: ClipScore,
  series: dict[str, tuple[float, float]],
  found: ef_scores.PatientEjection,
  whole: WholeScore | None,
) -> dict:
  """Returns one row of per_case.csv; EF and volumes are the patient's, those of a view apart."""
  case = clip.case
  ed_found, es_found = (whole and whole.found) or (math.nan, math.nan)
  whole_flags = (*(found.whole.flags if found.whole else ()), *(whole.flags if whole else ()))
  return {
    'patient': case.patient,
    'view': case.view,
    'quality': case.quality,
    'fps': case.fps,
    'n_frames': len({r['frame'] for r in clip.frames if r['scored']}),
    **{f'{name}_{m}': v for name, means in clip.means.items() for m, v in means.items()},
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
    'ef_view_masks': ef_scores.single_plane(case.view, clip.truth_ends),
    'ef_view_predicted': ef_scores.single_plane(case.view, clip.predicted_ends),
    **{name: series[name][0] for name in ('area_roughness', 'inconsistent_share', 'valid_share')},
    'confidence': clip.confidence,
    'ece': calibration.ece(clip.reliability) if clip.reliability else math.nan,
    'flags': ' '.join(found.predicted.flags),
    'ef_whole_clip': found.whole.ef_percent if found.whole else math.nan,
    'ed_found': ed_found,
    'es_found': es_found,
    'whole_clip_flags': ' '.join(dict.fromkeys(whole_flags)),
  }
