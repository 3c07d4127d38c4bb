"""Ejection fraction of patients against its reference, for metrics.json."""

from collections.abc import Callable, Sequence
import dataclasses
import math

from echoforge_jax.evaluation.protocols import Protocol
from echoforge_jax.evaluation.scoring import ClipScore
from echoforge_jax.evaluation.whole_clip import WholeScore
from echoforge_jax.metrics import ejection, statistics


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
    by_view: view -> method ('discs', 'area_length') -> predicted EF percent
      from that view alone.
    whole: measured on the whole clips, ED and ES as found; None if they were
      not predicted.
    confidence: mean of the clips' confidence; NaN if unknown.
  """

  patient: str
  reference: float
  source: str
  from_masks: ejection.Ejection
  predicted: ejection.Ejection
  dataset: tuple[float, float, float]
  by_view: dict[str, dict[str, float]]
  whole: ejection.Ejection | None
  confidence: float


def patient_ejection(
  patient: str,
  clips: Sequence[ClipScore],
  whole: Sequence[WholeScore],
  protocol: Protocol,
  metric: bool,
) -> PatientEjection:
  """EF of one patient from its clips' ED and ES cavities.

  Args:
    patient: identifier.
    clips: the patient's clips.
    whole: the same patient's whole clips; empty if not predicted.
    protocol: names the method.
    metric: whether lengths are in mm; volumes are NaN otherwise.

  Returns:
    All of it, NaN where not measurable.
  """

  def measure(pairs):
    ends = [{view: pair[t] for view, pair in pairs} for t in (0, 1)]
    found = ejection.measure_ejection(*ends, protocol.ef_method)
    return (
      found
      if metric
      else dataclasses.replace(found, edv_ml=math.nan, esv_ml=math.nan)
    )

  views = [clip.case.view for clip in clips]
  truth = measure([(v, c.truth_ends) for v, c in zip(views, clips)])
  dataset = tuple(
    next(
      (
        float(v)
        for v in (getattr(c.case, name) for c in clips)
        if math.isfinite(v)
      ),
      math.nan,
    )
    for name in ('edv_ml', 'esv_ml', 'ef_percent')
  )
  reference, source = dataset[2], 'dataset'
  if not math.isfinite(reference):
    reference, source = truth.ef_percent, 'masks'
  if not math.isfinite(reference):
    source = ''
  confidence = [c.confidence for c in clips if math.isfinite(c.confidence)]
  return PatientEjection(
    patient,
    reference,
    source,
    truth,
    measure([(v, c.predicted_ends) for v, c in zip(views, clips)]),
    dataset,
    {
      v: {
        m: ejection.measure_ejection(
          *({v: end} for end in c.predicted_ends), m
        ).ef_percent
        for m in ('discs', 'area_length')
      }
      for v, c in zip(views, clips)
    },
    measure([(w.view, w.ends) for w in whole]) if whole else None,
    sum(confidence) / len(confidence) if confidence else math.nan,
  )


def agreement(reference, prediction, options) -> dict:
  """`statistics.agreement` with lists in the place of tuples.

  Args:
    reference: [N] one value a patient.
    prediction: [N].
    options: seed and resamples.

  Returns:
    JSON-ready dict.
  """
  found = dataclasses.asdict(
    statistics.agreement(reference, prediction, **options)
  )
  return {
    **found,
    'loa': list(found['loa']),
    'ci95': {k: list(v) for k, v in found['ci95'].items()},
  }


def ef_entry(
  found: Sequence[PatientEjection],
  measured: Callable[[PatientEjection], ejection.Ejection],
  options,
) -> dict:
  """Agreement of one kind of predicted EF with the reference.

  Args:
    found: the patients.
    measured: picks the prediction.
    options: seed and resamples.

  Returns:
    The agreement, the reference's source, and counts of what is doubtful.
  """
  values = [measured(e) for e in found]
  return {
    **agreement(
      [e.reference for e in found], [v.ef_percent for v in values], options
    ),
    'unit': 'percent',
    'reference': sorted({e.source for e in found if e.source}),
    'not_measurable': sum(not math.isfinite(v.ef_percent) for v in values),
    'out_of_range': sum('ef_out_of_range' in v.flags for v in values),
    'single_plane': sum('single_plane' in v.flags for v in values),
  }


def ejection_block(found: Sequence[PatientEjection], options) -> dict:
  """The EF entries: against the reference, against masks, and volumes.

  Args:
    found: the patients.
    options: seed and resamples.

  Returns:
    Keys 'ef', 'ef_from_masks', 'ef_single_plane', 'volumes_from_masks',
    'ef_masks_against_dataset'.
  """
  views = sorted({view for e in found for view in e.by_view})
  return {
    'ef': ef_entry(found, lambda e: e.predicted, options),
    'ef_from_masks': agreement(
      [e.from_masks.ef_percent for e in found],
      [e.predicted.ef_percent for e in found],
      options,
    ),
    'ef_single_plane': {
      view: {
        method: agreement(
          [e.reference for e in found],
          [e.by_view.get(view, {}).get(method, math.nan) for e in found],
          options,
        )
        for method in ('discs', 'area_length')
      }
      for view in views
    },
    'volumes_from_masks': {
      name: {
        **agreement(
          [getattr(e.from_masks, name) for e in found],
          [getattr(e.predicted, name) for e in found],
          options,
        ),
        'unit': 'ml',
      }
      for name in ('edv_ml', 'esv_ml')
    },
    # The method's own error: true masks against the dataset's EF.
    'ef_masks_against_dataset': agreement(
      [e.dataset[2] for e in found],
      [e.from_masks.ef_percent for e in found],
      options,
    ),
  }


def flag_counts(measured: Sequence[ejection.Ejection]) -> dict[str, int]:
  """How many patients carry each flag.

  Args:
    measured: one measurement a patient.

  Returns:
    Count by flag, in the order of the flags' names.
  """
  counts: dict[str, int] = {}
  for one in measured:
    for flag in one.flags:
      counts[flag] = counts.get(flag, 0) + 1
  return dict(sorted(counts.items()))
