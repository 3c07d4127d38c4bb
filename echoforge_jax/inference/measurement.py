"""From masks of a whole clip to ED, ES, volumes and what to doubt."""

import dataclasses
import math

import numpy as np
from scipy import ndimage

from echoforge_jax.clip import LABELS
from echoforge_jax.data.selection import class_table
from echoforge_jax.formats.raw_clip import RawClip
from echoforge_jax.inference.segmenter import Segmentation
from echoforge_jax.metrics import ejection
from echoforge_jax.metrics.beats import Instants, read_curve
from echoforge_jax.metrics.validity import is_anatomically_valid

# What each code in `flags` means to a reader.
FLAGS = {
  'no_cavity': 'no left ventricle was found in any frame',
  'empty_masks': 'some frames have no left ventricle',
  'fragmented': 'the left ventricle falls into several pieces somewhere',
  'holes': 'the left ventricle has holes at ED or ES',
  'implausible_anatomy': 'at ED or ES the myocardium does not enclose the left ventricle, or the '
  'left atrium does not touch it',
  'axis_not_upright': 'the ventricle lies across the image at ED or ES; wanted an apical view '
  'with the apex up',
  'cut_by_border': 'the left ventricle touches the border of the sector sideways or at the '
  'bottom: its area is too small',
  'no_full_cycle': 'the area curve does not show a fall and a rise: ED and ES may lie outside '
  'the clip',
  'es_before_ed': 'no contraction follows the largest area: ES was taken before ED',
  'no_contraction': 'the area hardly changes: ED and ES are guesses',
  'area_jitter': 'the area jumps from frame to frame: the masks are inconsistent in time',
  'beat_unmeasured': 'ED or ES of a beat shows no ventricle that could be measured; the beat '
  'is left out',
  'beats_differ': 'EF differs between the beats by more than 10 points (SD)',
  'low_confidence': 'the network is unsure of the outline at ED, at ES or in most frames',
  'spacing_unknown': 'mm per pixel unknown: no volumes; EF by area-length '
  'ratio, which assumes square pixels',
  'fps_unknown': 'frame rate unknown: every frame feeds the memory',
  'implausible_volume': 'EDV outside 20-500 ml',
  'implausible_length': 'long axis at ED outside 40-130 mm',
  'ef_out_of_range': 'EF outside 0-90 %',
  'long_axes_differ': 'the long axes of both views differ by more than 20 %: '
  'one may be foreshortened',
  'es_larger_than_ed': 'the ventricle is larger at ES than at ED',
  'methods_disagree': 'EF by discs and by area-length differ by more than 15 points',
  'sector_not_found': 'no ultrasound sector was found; the whole image was taken',
  'region_rescaled': 'the calibrated region belongs to a larger original; '
  'region and spacing were rescaled',
  'region_unusable': 'the calibrated region exceeds the image; ignored',
  'fewer_frames': 'fewer frames decode than the file announces',
  'duplicate_frames': 'some frames repeat the one before',
  'still_image': 'nothing moves: one frame, or one frame many times; no ED, ES or EF',
  'few_frames': 'fewer than 10 frames: hardly a beat; training saw 10 from ED to ES',
  'uneven_frames': 'the frames are unevenly spaced in time, or their times '
  'go backwards; an even rate was taken',
  'spacing_implausible': 'the stated mm per pixel cannot be; taken as unknown',
  'fps_implausible': 'the stated frame rate cannot be; taken as unknown',
  'not_a_sector': 'what moves is not shaped like a sector: perhaps a linear '
  'probe or another view; wanted an apical view',
  'bright_background': 'the image is bright around the sector: perhaps inverted; wanted black',
  'low_contrast': 'the sector is almost black, white or of one gray',
}
_JITTER = 0.06
_EDV_RANGE, _LENGTH_RANGE = (20.0, 500.0), (40.0, 130.0)
_BEATS_SD = 10.0


@dataclasses.dataclass(frozen=True)
class Beat:
  """One beat of a clip, measured; NaN for what cannot be."""

  ed: int
  es: int
  edv_ml: float  # Single-plane disc volumes; NaN with unknown spacing.
  esv_ml: float
  ef_percent: float  # By the clip's method.
  ef_area_length: float  # Percent, by area and length, 8 A^2 / (3 pi L), for comparison.
  whole: bool  # The clip shows its contraction from beginning to end.


@dataclasses.dataclass(frozen=True)
class Measurement:
  """A clip, its segmentation and what the masks say.

  Attributes:
    area: float64 [T] of the left ventricle, mm2, or px2 with unknown spacing.
    smooth: float64 [T], the curve ED and ES were read from.
    flags: codes of `FLAGS`.
    beats: every beat seen, the reported one first.
    edv_ml, esv_ml, ef_percent: means over the whole beats, or of the first one if
      none is whole; NaN where they cannot be measured.
    ef_sd: standard deviation (ddof 1) of EF over the whole beats that can be
      measured, percentage points; NaN with fewer than two.
    ef_method: 'discs', 'area_length' or ''.
  """

  clip: RawClip
  found: Segmentation
  area: np.ndarray
  smooth: np.ndarray
  flags: tuple[str, ...]
  beats: tuple[Beat, ...] = ()
  edv_ml: float = math.nan
  esv_ml: float = math.nan
  ef_percent: float = math.nan
  ef_sd: float = math.nan
  ef_method: str = ''

  @property
  def masks(self) -> np.ndarray:
    """uint8 [T, H, W] label values."""
    return self.found.masks

  @property
  def ed(self) -> int | None:
    """End-diastolic frame of the reported beat; None without a beat."""
    return self.beats[0].ed if self.beats else None

  @property
  def es(self) -> int | None:
    """End-systolic frame of the reported beat; None without a beat."""
    return self.beats[0].es if self.beats else None

  @property
  def spacing_known(self) -> bool:
    """Whether areas are in mm2."""
    return bool(np.isfinite(self.clip.spacing_mm).all())

  @property
  def doubtful(self) -> np.ndarray:
    """bool [T], frames of low confidence."""
    return self.found.confidence < self.found.scaling.low


def measure_clip(clip: RawClip, found: Segmentation) -> Measurement:
  """Measures areas, ED, ES and volumes of a segmented clip, flags doubts."""
  known = np.isfinite(clip.spacing_mm).all()
  lv = found.masks == LABELS['lv']
  pixels = lv.sum(axis=(1, 2)).astype(np.float64)
  empty = pixels < ejection.MIN_PIXELS
  area = pixels * (float(np.prod(clip.spacing_mm)) if known else 1.0)
  unknown = [] if known else ['spacing_unknown']
  unknown += [] if math.isfinite(clip.fps) else ['fps_unknown']
  earlier = [*clip.flags, *([] if found.sector.found else ['sector_not_found'])]

  def measured(smooth, flags, **values):
    flags = tuple(dict.fromkeys([*earlier, *flags]))
    return Measurement(clip, found, area, smooth, flags, **values)

  if empty.all():
    return measured(area, ['no_cavity', *unknown])
  flags = unknown + (['empty_masks'] if empty.any() else [])
  flags += _shape_flags(lv, found.sector.box)
  low = found.scaling.low
  doubtful = ['low_confidence'] * bool(np.median(found.confidence) < low)
  if 'still_image' in clip.flags or len(lv) == 1:
    return measured(area, [*flags, *_anatomy_flags(found, range(len(lv))), *doubtful])
  smooth, instants, more = read_curve(area, empty, clip.fps)
  flags += more
  trend = np.abs(area - smooth)[~empty].mean() / max(smooth.max(), 1e-9)
  flags += ['area_jitter'] if trend > _JITTER else []
  beats: list[Beat] = []
  for one in instants:
    # A doubt about a beat that is not used is none.
    used = not beats or one.whole
    beat, more = _measure_beat(lv, one, clip.spacing_mm if known else None)
    beats.append(beat)
    flags += more + _anatomy_flags(found, (beat.ed, beat.es)) if used else []
    if used and min(found.confidence[[beat.ed, beat.es]]) < low:
      doubtful = ['low_confidence']
  means, more = _over_beats(beats)
  means |= {'ef_method': 'discs' if known else 'area_length'}
  return measured(smooth, [*flags, *more, *doubtful], beats=tuple(beats), **means)


def _over_beats(beats: list[Beat]) -> tuple[dict, list[str]]:
  """Returns means and SD over the whole beats, or the first, and flags."""
  whole = [beat for beat in beats if beat.whole]
  used = [beat for beat in whole if math.isfinite(beat.ef_percent)]
  flags = ['beat_unmeasured'] if len(used) < len(whole) else []
  used = used or beats[:1]
  names = ('edv_ml', 'esv_ml', 'ef_percent')
  means = {name: float(np.mean([getattr(beat, name) for beat in used])) for name in names}
  if len(used) > 1:
    means['ef_sd'] = float(np.std([beat.ef_percent for beat in used], ddof=1))
    flags += ['beats_differ'] if means['ef_sd'] > _BEATS_SD else []
  return means, flags


def _measure_beat(lv, one: Instants, spacing) -> tuple[Beat, list[str]]:
  ed, es = one.nearest
  cavities = [ejection.measure_cavity(lv[index], spacing) for index in (ed, es)]
  flags = [flag for cavity in cavities if cavity for flag in cavity.flags]
  discs = [ejection.single_plane_volume(cavity) for cavity in cavities]
  by_discs = ejection.ejection_fraction(*discs)
  by_area_length = ejection.ejection_fraction(*map(ejection.area_length_volume, cavities))
  if abs(by_discs - by_area_length) > 15:
    flags.append('methods_disagree')
  ef = by_area_length if spacing is None else by_discs
  if math.isfinite(ef) and not ejection.EF_RANGE[0] <= ef <= ejection.EF_RANGE[1]:
    flags.append('ef_out_of_range')
  if spacing is None:
    discs = [math.nan] * 2
  else:
    if not _EDV_RANGE[0] <= discs[0] <= _EDV_RANGE[1]:
      flags.append('implausible_volume')
    if cavities[0] and not _LENGTH_RANGE[0] <= cavities[0].length <= _LENGTH_RANGE[1]:
      flags.append('implausible_length')
  return Beat(ed, es, *discs, ef, by_area_length, one.whole), flags


def _anatomy_flags(found: Segmentation, frames) -> list[str]:
  """Returns 'implausible_anatomy' if the classes of a frame do not fit together."""
  ids = class_table(found.classes)
  checks = [is_anatomically_valid(ids[found.masks[t]], found.classes) for t in frames]
  fits = (c.get(k, True) for c in checks for k in ('myo_encloses_lv', 'la_touches_lv'))
  return [] if all(fits) else ['implausible_anatomy']


def _shape_flags(lv: np.ndarray, box) -> list[str]:
  """Returns 'fragmented' and 'cut_by_border', each if true of any frame."""
  pieces = (np.sort(np.bincount(ndimage.label(mask)[0].ravel())[1:]) for mask in lv)
  fragmented = any(len(sizes) > 1 and sizes[-2] > 0.05 * sizes[-1] for sizes in pieces)
  flags = ['fragmented'] if fragmented else []
  _, left, bottom, right = box
  ever = lv.any(axis=0)
  rows, columns = (np.flatnonzero(ever.any(axis=k)) for k in (1, 0))
  if rows[-1] >= bottom - 1 or columns[0] <= left or columns[-1] >= right - 1:
    flags.append('cut_by_border')
  return flags
