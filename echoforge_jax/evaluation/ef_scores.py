"""Ejection fraction of patients against its reference, for metrics.json."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math

from echoforge_jax.evaluation.protocols import Protocol
from echoforge_jax.evaluation.scoring import ClipScore, finite_mean
from echoforge_jax.evaluation.whole_clip import WholeScore
from echoforge_jax.metrics import ejection, statistics

_SINGLE_PLANE = ('discs', 'area_length')


@dataclasses.dataclass(frozen=True)
class PatientEjection:
  """One patient's volumes by reference, truth masks and prediction."""

  reference: float  # The dataset's EF where it has one, else from the truth masks.
  # Where `reference` comes from: 'dataset', 'masks' on the evaluation's grid, or masks as the index
  # of the prepared data says ('masks, biplane'); '' if none.
  source: str
  from_masks: ejection.Ejection
  predicted: ejection.Ejection
  dataset: tuple[float, float, float]  # EDV ml, ESV ml, EF percent.
  by_view: dict[str, dict[str, float]]  # view -> single-plane method -> predicted EF percent.
  whole: ejection.Ejection | None  # Of whole clips, ED and ES as found.
  confidence: float  # Mean of the clips' confidence; NaN if unknown.


def by_patient(
  clips: Sequence[ClipScore],
  wholes: Mapping[tuple[str, str], WholeScore],
  protocol: Protocol,
  metric: bool,
) -> dict[str, PatientEjection]:
  """Measures every patient's EF; volumes are NaN unless lengths are in mm (`metric`).

  `wholes` are the scores of whole clips by (patient, view); it may be empty.
  """
  patients: dict[str, list[ClipScore]] = {}
  for clip in clips:
    patients.setdefault(clip.case.patient, []).append(clip)
  found = {}
  for patient, own in patients.items():
    keys = [(patient, c.case.view) for c in own if c.has_ejection]
    whole = [wholes[key] for key in keys if key in wholes]
    found[patient] = _patient_ejection(own, whole, protocol, metric)
  return found


def _patient_ejection(
  clips: Sequence[ClipScore], whole: Sequence[WholeScore], protocol: Protocol, metric: bool
) -> PatientEjection:
  """Measures one patient's EF from its clips' ED and ES cavities.

  Pixels and mm are not mixed: a view without a spacing counts only where no view has one.
  """
  beats = [clip for clip in clips if clip.has_ejection]
  units = {clip.unit for clip in beats}
  usable = {c.case.view for c in beats if len(units) == 1 or c.unit == 'mm'}

  def measure(ends_by_view, method=protocol.ef_method):
    ed, es = ({view: pair[t] for view, pair in ends_by_view.items()} for t in (0, 1))
    found = ejection.measure_ejection(ed, es, method)
    return found if metric else dataclasses.replace(found, edv_ml=math.nan, esv_ml=math.nan)

  def known(name):
    values = (float(getattr(c.case, name)) for c in clips)
    return next(filter(math.isfinite, values), math.nan)

  def combined(pairs):
    return measure({view: ends for view, ends in pairs.items() if view in usable})

  truth = combined({c.case.view: c.truth_ends for c in beats})
  predicted = {c.case.view: c.predicted_ends for c in beats}
  dataset = known('edv_ml'), known('esv_ml'), known('ef_percent')
  sources = [c.case.ef_source for c in clips if math.isfinite(c.case.ef_percent)]
  source = (sources[0] or 'dataset') if sources else 'masks'
  reference = dataset[2] if sources else truth.ef_percent
  return PatientEjection(
    reference=reference,
    source=source if math.isfinite(reference) else '',
    from_masks=truth,
    predicted=combined(predicted),
    dataset=dataset,
    by_view={
      view: {m: measure({view: ends}, m).ef_percent for m in _SINGLE_PLANE}
      for view, ends in predicted.items()
    },
    whole=combined({w.view: w.ends for w in whole}) if whole else None,
    confidence=finite_mean(c.confidence for c in clips),
  )


def single_plane(view: str, ends: tuple) -> float:
  """Returns the EF in percent of one view's cavities (ED, ES), by discs; NaN without both."""
  ed, es = ({view: cavity} for cavity in ends)
  return ejection.measure_ejection(ed, es, 'discs').ef_percent


def agreement(reference, prediction, options) -> dict:
  """Returns `statistics.agreement` as a dict, with lists instead of tuples."""
  found = dataclasses.asdict(statistics.agreement(reference, prediction, **options))
  intervals = {k: list(v) for k, v in found['ci95'].items()}
  return {**found, 'loa': list(found['loa']), 'ci95': intervals}


def ef_entry(
  found: Sequence[PatientEjection],
  measured: Callable[[PatientEjection], ejection.Ejection],
  options,
) -> dict:
  """Compares the EF that `measured` picks of each patient with the reference."""
  values = [measured(e) for e in found]
  return {
    **agreement([e.reference for e in found], [v.ef_percent for v in values], options),
    'unit': 'percent',
    'reference': sorted({e.source for e in found if e.source}),
    'not_measurable': sum(not math.isfinite(v.ef_percent) for v in values),
    'out_of_range': sum('ef_out_of_range' in v.flags for v in values),
    'single_plane': sum('single_plane' in v.flags for v in values),
  }


def ejection_block(found: Sequence[PatientEjection], options) -> dict:
  """Returns the EF entries: against the reference, against masks, volumes."""
  reference = [e.reference for e in found]
  masks = [e.from_masks for e in found]
  predicted = [e.predicted for e in found]

  def single_plane(view, method):
    values = [e.by_view.get(view, {}).get(method, math.nan) for e in found]
    return agreement(reference, values, options)

  def volumes(name):
    both = ([getattr(e, name) for e in kind] for kind in (masks, predicted))
    return {**agreement(*both, options), 'unit': 'ml'}

  ef_masks = [e.ef_percent for e in masks]
  return {
    'ef': ef_entry(found, lambda e: e.predicted, options),
    'ef_from_masks': agreement(ef_masks, [e.ef_percent for e in predicted], options),
    'ef_single_plane': {
      view: {method: single_plane(view, method) for method in _SINGLE_PLANE}
      for view in sorted({view for e in found for view in e.by_view})
    },
    'volumes_from_masks': {n: volumes(n) for n in ('edv_ml', 'esv_ml')},
    # The method's own error: true masks against the dataset's EF.
    'ef_masks_against_dataset': agreement([e.dataset[2] for e in found], ef_masks, options),
  }


def flag_counts(measured: Sequence[ejection.Ejection]) -> dict[str, int]:
  """Counts the patients that carry each flag, in the order of the names."""
  flags = [flag for one in measured for flag in one.flags]
  return {flag: flags.count(flag) for flag in sorted(set(flags))}
