"""Scores one predicted clip against its truth; knows nothing of models."""

from collections.abc import Iterable, Sequence
import dataclasses
import math

import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.protocols import Protocol
from echoforge_jax.metrics import calibration, ejection, overlap, surface, temporal, validity

METRICS = ('dice', 'iou', 'hd', 'hd95', 'asd')
_NO_DISTANCES = dict.fromkeys(METRICS[2:], math.nan)


@dataclasses.dataclass(frozen=True)
class Case:
  """One clip with its truth and its prediction, ED first and ES last."""

  patient: str
  view: str  # '2CH' or '4CH'.
  truth: np.ndarray  # uint8 [T, H, W] class ids: 0 background, k + 1 the k-th class.
  prediction: np.ndarray  # uint8 [T, H, W]
  spacing_mm: np.ndarray  # [2] mm per pixel of this grid (row, column); NaN if unknown.
  frames: np.ndarray | None = None  # uint8 [T, H, W] gray levels, for figures.
  labeled: np.ndarray | None = None  # bool [T], frames whose truth is known; None means all.
  native_size: tuple[int, int] | None = None  # (H, W) before the clip was squeezed to its grid.
  quality: str = ''  # 'Good', 'Medium', 'Poor' or ''.
  ef_percent: float = math.nan  # The dataset's, as are the volumes.
  edv_ml: float = math.nan
  esv_ml: float = math.nan
  ef_source: str = ''  # What these are measured on, such as 'masks, biplane'; '': stated.
  fps: float = math.nan
  probability: np.ndarray | None = None  # float16 [T, H, W] of the first class.
  ed: int | None = None  # Of a whole clip; None means the first frame.
  es: int | None = None  # Of a whole clip; None means the last frame.

  @property
  def unit(self) -> str:
    """'mm' where the spacing is known, else 'px'."""
    return 'mm' if np.all(np.isfinite(self.spacing_mm)) else 'px'

  @property
  def known(self) -> np.ndarray:
    """Frames whose truth is known, bool [T]."""
    return (
      np.ones(len(self.truth), bool) if self.labeled is None else np.asarray(self.labeled, bool)
    )

  def spacing(self, metric: bool = True) -> tuple[float, float]:
    """Returns the size of a pixel of this grid (row, column).

    It is in mm where the spacing is known and `metric` is set, else in native pixels, so that a
    squeezed grid does not change what a distance means.
    """
    if metric and self.unit == 'mm':
      return tuple(float(s) for s in self.spacing_mm)
    size = self.truth.shape[1:]
    return tuple(float(n) / s for n, s in zip(self.native_size or size, size))


@dataclasses.dataclass(frozen=True)
class ClipScore:
  """Everything measured on one clip."""

  case: Case  # Its arrays are dropped.
  unit: str  # 'mm' or 'px' of distances.
  frames: list[dict]  # Of `frame_rows`.
  # class -> metric -> mean over the scored, applicable frames (NaN if none).
  means: dict[str, dict[str, float]]
  areas: np.ndarray  # [T] predicted cavity areas in unit^2; NaN without class 'lv'.
  truth_areas: np.ndarray  # [T]; NaN where unlabeled.
  valid: float  # Share of frames whose prediction is anatomically valid.
  truth_valid: float  # NaN unless every frame is labeled.
  has_ejection: bool = True  # False for a still, and for views that give no volume, such as PSAX.
  truth_ends: tuple = (None, None)  # Cavities at (ED, ES); None: unmeasurable or unlabeled.
  predicted_ends: tuple = (None, None)
  # Temporal attributes; NaN on frames without a label or cavity.
  attributes: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  truth_attributes: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  reliability: calibration.Bins | None = None  # Of the first class's probability.
  confidence: float = math.nan  # Of the whole clip's prediction.

  @property
  def complete_truth(self) -> dict[str, np.ndarray]:
    """The truth's attributes; empty unless every frame is labeled."""
    return self.truth_attributes if np.isfinite(self.truth_areas).all() else {}


def score_clip(case: Case, protocol: Protocol, classes: Sequence[str] = ('lv',)) -> ClipScore:
  """Scores one clip under a protocol; truth and prediction must have one shape."""
  if case.truth.shape != case.prediction.shape or case.truth.ndim != 3:
    raise InputError(
      f'{case.patient} {case.view}: found masks of shape {case.prediction.shape} for a truth of '
      f'{case.truth.shape}, wanted the same [T, H, W]; predict on the grid the truth is on'
    )
  metric, known = protocol.metric_spacing, case.known
  spacing = case.spacing(metric)
  rows = frame_rows(case, protocol.scored_frames(len(known)), classes, known, spacing)
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
    name: {m: finite_mean(r[m] for r in scored if r['class'] == name) for m in METRICS}
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
  """Measures every labeled frame and class, a dict for each.

  Args:
    frames: numbers of those that are scored.
    labeled: bool [T], frames to measure.
    spacing: size of a pixel (row, column).
  """
  ed = 0 if case.ed is None else case.ed
  es = len(case.truth) - 1 if case.es is None else case.es
  rows, scored, pixel = [], set(frames), spacing[0] * spacing[1]
  for t in np.flatnonzero(labeled):
    for k, name in enumerate(classes):
      truth = case.truth[t] == k + 1
      prediction = case.prediction[t] == k + 1
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
          **dataclasses.asdict(surface.surface_distances(truth, prediction, spacing)),
          'area_truth': float(truth.sum() * pixel),
          'area_predicted': float(prediction.sum() * pixel),
        }
      )
  return rows


def without_lengths(clip: ClipScore) -> ClipScore:
  """Returns a score less what is measured in pixels, to stand beside others in mm."""
  return dataclasses.replace(
    clip,
    frames=[row | _NO_DISTANCES for row in clip.frames],
    means=without_distances(clip.means),
    attributes={},
    truth_attributes={},
  )


def without_distances(means: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
  """Returns class -> metric -> mean with the distances unknown."""
  return {name: metrics | _NO_DISTANCES for name, metrics in means.items()}


def _ventricle(case: Case, classes, known: np.ndarray, spacing) -> dict:
  """Measures areas, cavities at ED and ES, and attributes over time of class 'lv'."""
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
    'has_ejection': case.view in ejection.VIEWS and not _is_still(case.frames),
    'truth_ends': tuple(truth[t] if known[t] else None for t in (0, -1)),
    'predicted_ends': (predicted[0], predicted[-1]),
    'attributes': attributes,
    'truth_attributes': {
      name: np.where(known, series, math.nan) for name, series in truth_attributes.items()
    },
  }


def _is_still(frames: np.ndarray | None) -> bool:
  return frames is not None and bool((frames == frames[:1]).all())


def _follow(masks, classes, spacing):
  """Measures cavities [T] and temporal attributes of a clip's masks."""
  lv = masks == classes.index('lv') + 1
  cavities = [ejection.measure_cavity(m, spacing) for m in lv]
  myo = (masks == classes.index('myo') + 1) if 'myo' in classes else None
  return cavities, temporal.attributes(cavities, myo, lv, spacing)


def _trust(case: Case, known: np.ndarray) -> dict:
  """Counts calibration over the labeled frames, and takes the clip's confidence."""
  if case.probability is None:
    return {}
  truth, prediction = case.truth == 1, case.prediction == 1
  band = calibration.boundary_band(truth[known], prediction[known])
  return {
    'reliability': calibration.count_bins(case.probability[known], truth[known], where=band),
    'confidence': calibration.clip_confidence(case.probability, prediction),
  }


def _valid_share(masks, classes) -> float:
  """Returns the share of frames on which the anatomy is valid."""
  return float(np.mean([validity.all_valid(frame, tuple(classes)) for frame in masks]))
