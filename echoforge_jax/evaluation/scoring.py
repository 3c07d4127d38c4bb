"""Scores one predicted clip against its truth; knows nothing of models."""

from collections.abc import Iterable, Sequence
import dataclasses
import math

import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.protocols import Protocol
from echoforge_jax.metrics import calibration, ejection, overlap, surface, temporal, validity

METRICS = ('dice', 'iou', 'hd', 'hd95', 'asd')


@dataclasses.dataclass(frozen=True)
class Case:
  """One clip with its truth and its prediction, ED first and ES last.

  Attributes:
    patient: identifier.
    view: '2CH' or '4CH'.
    truth: uint8 [T, H, W] class ids: 0 background, k + 1 the k-th class.
    prediction: uint8 [T, H, W] class ids.
    spacing_mm: [2] mm per pixel of this grid (row, column); NaN if unknown.
    frames: uint8 [T, H, W] gray levels, for figures; or None.
    labeled: bool [T], frames whose truth is known; None means all.
    native_size: (H, W) before the clip was squeezed to its grid; None means it was not.
    quality: 'Good', 'Medium', 'Poor' or ''.
    ef_percent: the dataset's EF in percent; NaN if unknown.
    edv_ml: the dataset's end-diastolic volume in ml; NaN if unknown.
    esv_ml: the dataset's end-systolic volume in ml; NaN if unknown.
    fps: frames per second of the recording; NaN if unknown.
    probability: float16 [T, H, W] of the first class; or None.
    ed: position of the true ED in a whole clip; None means the first frame.
    es: position of the true ES in a whole clip; None means the last frame.
  """

  patient: str
  view: str
  truth: np.ndarray
  prediction: np.ndarray
  spacing_mm: np.ndarray
  frames: np.ndarray | None = None
  labeled: np.ndarray | None = None
  native_size: tuple[int, int] | None = None
  quality: str = ''
  ef_percent: float = math.nan
  edv_ml: float = math.nan
  esv_ml: float = math.nan
  fps: float = math.nan
  probability: np.ndarray | None = None
  ed: int | None = None
  es: int | None = None

  @property
  def unit(self) -> str:
    """'mm' where the spacing is known, else 'px'."""
    return 'mm' if np.all(np.isfinite(self.spacing_mm)) else 'px'

  @property
  def known(self) -> np.ndarray:
    """Frames whose truth is known, bool [T]."""
    if self.labeled is None:
      return np.ones(len(self.truth), bool)
    return np.asarray(self.labeled, bool)

  def spacing(self, metric: bool = True) -> tuple[float, float]:
    """Returns the size of a pixel of this grid (row, column).

    It is in mm where the spacing is known and `metric` is set, else in native pixels, so that a
    squeezed grid does not change what a distance means.
    """
    if metric and self.unit == 'mm':
      return tuple(float(s) for s in self.spacing_mm)
    size = self.truth.shape[1:]
    native = self.native_size or size
    return float(native[0]) / size[0], float(native[1]) / size[1]


@dataclasses.dataclass(frozen=True)
class ClipScore:
  """Everything measured on one clip.

  Attributes:
    case: what was scored, its arrays dropped.
    unit: 'mm' or 'px' of distances.
    frames: one dict per labeled frame and class, of `frame_rows`.
    means: class -> metric -> mean over the scored, applicable frames (NaN if none).
    areas: [T] predicted cavity areas in unit^2; NaN without class 'lv'.
    truth_areas: [T] true cavity areas; NaN where unlabeled.
    valid: share of frames whose prediction is anatomically valid.
    truth_valid: the same of the truth; NaN unless every frame is labeled.
    truth_ends: cavities of the truth at (ED, ES); None where unmeasurable or unlabeled.
    predicted_ends: cavities of the prediction at (ED, ES).
    attributes: temporal attributes of the prediction.
    truth_attributes: of the truth; NaN on frames without a label.
    reliability: counts of the first class's probability; None if unknown.
    confidence: of the whole clip's prediction; NaN if unknown.
  """

  case: Case
  unit: str
  frames: list[dict]
  means: dict[str, dict[str, float]]
  areas: np.ndarray
  truth_areas: np.ndarray
  valid: float
  truth_valid: float
  truth_ends: tuple = (None, None)
  predicted_ends: tuple = (None, None)
  attributes: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  truth_attributes: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  reliability: calibration.Bins | None = None
  confidence: float = math.nan

  @property
  def complete_truth(self) -> dict[str, np.ndarray]:
    """The truth's attributes; empty unless every frame is labeled."""
    complete = bool(np.isfinite(self.truth_areas).all())
    return self.truth_attributes if complete else {}


def score_clip(case: Case, protocol: Protocol, classes: Sequence[str] = ('lv',)) -> ClipScore:
  """Scores one clip under a protocol.

  Args:
    case: truth and prediction.
    protocol: which frames count.
    classes: names, in the order of the class ids.

  Raises:
    InputError: if truth and prediction differ in shape.
  """
  if case.truth.shape != case.prediction.shape or case.truth.ndim != 3:
    raise InputError(
      f'{case.patient} {case.view}: found masks of shape {case.prediction.shape} for a truth of '
      f'{case.truth.shape}, wanted the same [T, H, W]; predict on the grid the truth is on'
    )
  metric, known = protocol.metric_spacing, case.known
  spacing = case.spacing(metric)
  frames = protocol.scored_frames(len(known))
  rows = frame_rows(case, frames, classes, known, spacing)
  return ClipScore(
    case=dataclasses.replace(case, truth=None, prediction=None, frames=None, probability=None),
    unit=case.unit if metric else 'px',
    frames=rows,
    means=class_means(rows, classes),
    valid=_valid_share(case.prediction, classes),
    truth_valid=_valid_share(case.truth, classes) if known.all() else math.nan,
    **_ventricle(case, classes, known, spacing),
    **_trust(case, known),
  )


def class_means(rows: Iterable[dict], classes: Sequence[str]) -> dict:
  """Returns class -> metric -> mean of the scored, applicable rows."""
  scored = [r for r in rows if r['scored']]
  return {
    name: {
      metric: finite_mean(r[metric] for r in scored if r['class'] == name) for metric in METRICS
    }
    for name in classes
  }


def finite_mean(values: Iterable[float]) -> float:
  """Returns the mean of the finite values; NaN if there are none."""
  values = np.asarray(list(values), np.float64)
  values = values[np.isfinite(values)]
  return float(values.mean()) if values.size else math.nan


def frame_rows(
  case: Case,
  frames: Sequence[int],
  classes: Sequence[str],
  labeled: np.ndarray,
  spacing: tuple[float, float],
) -> list[dict]:
  """Measures every labeled frame and class.

  Args:
    case: truth and prediction.
    frames: numbers of those that are scored.
    classes: names in the order of the class ids.
    labeled: bool [T], frames to measure.
    spacing: size of a pixel (row, column).

  Returns:
    One dict per labeled frame and class: patient, view, frame, phase, scored, class, the metrics,
    areas.
  """
  scored = set(frames)
  ed = 0 if case.ed is None else case.ed
  es = len(case.truth) - 1 if case.es is None else case.es
  pixel = spacing[0] * spacing[1]
  rows = []
  for t in np.flatnonzero(labeled):
    for k, name in enumerate(classes):
      truth = case.truth[t] == k + 1
      prediction = case.prediction[t] == k + 1
      distances = surface.surface_distances(truth, prediction, spacing)
      rows.append(
        {
          'patient': case.patient,
          'view': case.view,
          'frame': int(t),
          'phase': 'ED' if t == ed else 'ES' if t == es else '',
          'scored': int(t) in scored,
          'class': name,
          'dice': overlap.dice(truth, prediction),
          'iou': overlap.iou(truth, prediction),
          **dataclasses.asdict(distances),
          'area_truth': float(truth.sum() * pixel),
          'area_predicted': float(prediction.sum() * pixel),
        }
      )
  return rows


def _ventricle(case: Case, classes, known: np.ndarray, spacing) -> dict:
  """Areas, cavities at ED and ES, and attributes over time of class 'lv'."""
  if 'lv' not in classes:
    empty = np.full(len(known), math.nan)
    return {'areas': empty, 'truth_areas': empty}
  lv, pixel = classes.index('lv') + 1, spacing[0] * spacing[1]
  areas, truth_areas = (
    (masks == lv).sum(axis=(1, 2)) * pixel for masks in (case.prediction, case.truth)
  )
  predicted, attributes = _follow(case.prediction, classes, spacing)
  truth, truth_attributes = _follow(case.truth, classes, spacing)
  return {
    'areas': areas,
    'truth_areas': np.where(known, truth_areas, math.nan),
    'truth_ends': tuple(truth[t] if known[t] else None for t in (0, -1)),
    'predicted_ends': (predicted[0], predicted[-1]),
    'attributes': attributes,
    'truth_attributes': {
      name: np.where(known, series, math.nan) for name, series in truth_attributes.items()
    },
  }


def _follow(masks, classes, spacing):
  """Cavities [T] and temporal attributes of a clip's masks."""
  lv = masks == classes.index('lv') + 1
  cavities = [ejection.measure_cavity(m, spacing) for m in lv]
  myo = (masks == classes.index('myo') + 1) if 'myo' in classes else None
  return cavities, temporal.attributes(cavities, myo, lv, spacing)


def _trust(case: Case, known: np.ndarray) -> dict:
  """Calibration counts over the labeled frames, and the clip's confidence."""
  if case.probability is None:
    return {}
  truth, prediction = case.truth == 1, case.prediction == 1
  band = calibration.boundary_band(truth[known], prediction[known])
  return {
    'reliability': calibration.count_bins(case.probability[known], truth[known], where=band),
    'confidence': calibration.clip_confidence(case.probability, prediction),
  }


def _valid_share(masks, classes) -> float:
  """Share of frames on which the anatomy is valid."""
  return float(np.mean([validity.all_valid(frame, tuple(classes)) for frame in masks]))
