"""From masks of a whole clip to ED, ES, volumes and what to doubt."""

import dataclasses
import math

import numpy as np
from scipy import ndimage

from echoforge_jax.clip import LABELS
from echoforge_jax.metrics import ejection
from echoforge_jax.metrics.beats import find_beats, is_cut, smooth_curve

# What each code in `flags` means to a reader.
FLAGS = {
  'no_cavity': 'no left ventricle was found in any frame',
  'empty_masks': 'some frames have no left ventricle',
  'fragmented': 'the left ventricle falls into several pieces somewhere',
  'holes': 'the left ventricle has holes at ED or ES',
  'axis_not_upright': 'the ventricle lies across the image at ED or ES; '
  'wanted an apical view with the apex up',
  'cut_by_border': 'the left ventricle touches the border of the sector '
  'sideways or at the bottom: its area is too small',
  'no_full_cycle': 'the area curve does not show a fall and a rise: ED and '
  'ES may lie outside the clip',
  'es_before_ed': 'no contraction follows the largest area: ES was taken '
  'before ED',
  'no_contraction': 'the area hardly changes: ED and ES are guesses',
  'area_jitter': 'the area jumps from frame to frame: the masks are '
  'inconsistent in time',
  'beat_unmeasured': 'ED or ES of a beat shows no ventricle that could be '
  'measured; the beat is left out',
  'beats_differ': 'EF differs between the beats by more than 10 points (SD)',
  'low_confidence': 'the network is unsure of the outline at ED, at ES or in '
  'most frames',
  'spacing_unknown': 'mm per pixel unknown: no volumes; EF by area-length '
  'ratio, which assumes square pixels',
  'fps_unknown': 'frame rate unknown: every frame feeds the memory',
  'implausible_volume': 'EDV outside 20-500 ml',
  'implausible_length': 'long axis at ED outside 40-130 mm',
  'ef_out_of_range': 'EF outside 0-90 %',
  'long_axes_differ': 'the long axes of both views differ by more than 20 %: '
  'one may be foreshortened',
  'es_larger_than_ed': 'the ventricle is larger at ES than at ED',
  'methods_disagree': 'EF by discs and by area-length differ by more than '
  '15 points',
  'sector_not_found': 'no ultrasound sector was found; the whole image was '
  'taken',
  'region_rescaled': 'the calibrated region belongs to a larger original; '
  'region and spacing were rescaled',
  'region_unusable': 'the calibrated region exceeds the image; ignored',
  'fewer_frames': 'fewer frames decode than the file announces',
  'duplicate_frames': 'some frames repeat the one before',
  'still_image': 'nothing moves: one frame, or one frame many times; no ED, '
  'ES or EF',
  'few_frames': 'fewer than 10 frames: hardly a beat; training saw 10 from '
  'ED to ES',
  'uneven_frames': 'the frames are unevenly spaced in time, or their times '
  'go backwards; an even rate was taken',
  'spacing_implausible': 'the stated mm per pixel cannot be; taken as unknown',
  'fps_implausible': 'the stated frame rate cannot be; taken as unknown',
  'not_a_sector': 'what moves is not shaped like a sector: perhaps a linear '
  'probe or another view; wanted an apical view',
  'bright_background': 'the image is bright around the sector: perhaps '
  'inverted; wanted black',
  'low_contrast': 'the sector is almost black, white or of one gray',
}
_JITTER = 0.06
_EDV_RANGE, _LENGTH_RANGE = (20.0, 500.0), (40.0, 130.0)
_BEATS_SD = 10.0


@dataclasses.dataclass(frozen=True)
class Beat:
  """One beat of a clip, measured.

  Attributes:
    ed, es: frame indices.
    edv_ml, esv_ml: single-plane disc volumes; NaN with unknown spacing.
    ef_percent: by the clip's method; NaN if it cannot be measured.
    ef_area_length: EF in percent by area and length, 8 A^2 / (3 pi L), for
      comparison; NaN if it cannot be measured.
    whole: the clip shows its contraction from beginning to end.
  """

  ed: int
  es: int
  edv_ml: float
  esv_ml: float
  ef_percent: float
  ef_area_length: float
  whole: bool


@dataclasses.dataclass(frozen=True)
class Cycle:
  """What a clip's masks say.

  Attributes:
    area: float64 [T] of the left ventricle, mm2, or px2 with unknown spacing.
    smooth: float64 [T], the curve ED and ES were read from.
    ed, es: frame indices; None where there is no cavity.
    beats: every beat seen, the one that `ed` and `es` belong to first.
    edv_ml, esv_ml: single-plane disc volumes, the mean over the whole beats,
      or of the first one if none is whole; NaN with unknown spacing.
    ef_percent: likewise, by discs; by area-length with unknown spacing; NaN if
      neither.
    ef_sd: standard deviation (ddof 1) of EF over whole beats, percentage
      points; NaN with fewer than two. Beats whose EF cannot be measured are
      left out, and flagged.
    ef_method: 'discs', 'area_length' or ''.
    flags: codes of `FLAGS`.
  """

  area: np.ndarray
  smooth: np.ndarray
  ed: int | None
  es: int | None
  beats: tuple[Beat, ...]
  edv_ml: float
  esv_ml: float
  ef_percent: float
  ef_sd: float
  ef_method: str
  flags: tuple[str, ...]

  @classmethod
  def unmeasured(cls, area: np.ndarray, flags) -> 'Cycle':
    """Of a clip without beats: areas alone."""
    return cls(
      area,
      area,
      None,
      None,
      (),
      math.nan,
      math.nan,
      math.nan,
      math.nan,
      '',
      tuple(flags),
    )


def measure(
  masks: np.ndarray,
  spacing_mm=(math.nan, math.nan),
  fps: float = math.nan,
  box=None,
  still: bool = False,
  confidence: np.ndarray | None = None,
  low: float = 0.0,
) -> Cycle:
  """Areas, ED, ES, volumes and flags of one clip.

  Args:
    masks: uint8 [T, H, W] label values, native geometry.
    spacing_mm: mm per pixel (row, column); NaN where unknown.
    fps: frames per second; NaN where unknown.
    box: (top, left, bottom, right) of what the network saw; None if all.
    still: nothing moves: areas only, neither ED nor ES.
    confidence: float [T] of `confidence.expected_dice`, or None.
    low: below this a frame is doubtful.

  Returns:
    The measurements.
  """
  lv = masks == LABELS['lv']
  pixels = lv.sum(axis=(1, 2)).astype(np.float64)
  known = bool(np.isfinite(spacing_mm).all())
  flags = [] if known else ['spacing_unknown']
  flags += [] if math.isfinite(fps) else ['fps_unknown']
  empty = pixels < ejection.MIN_PIXELS
  scale = float(np.prod(spacing_mm)) if known else 1.0
  if empty.all():
    return Cycle.unmeasured(pixels * scale, ['no_cavity', *flags])
  flags += ['empty_masks'] if empty.any() else []
  flags += _shape_flags(lv, box or (0, 0, *lv.shape[1:]))
  sure = np.ones(len(masks)) if confidence is None else confidence
  doubtful = ['low_confidence'] if np.median(sure) < low else []
  area = pixels * scale
  if still or len(masks) == 1:
    return Cycle.unmeasured(area, [*flags, *doubtful])
  smooth = smooth_curve(area, empty, fps)
  found, beat_flags = find_beats(smooth, fps)
  flags += beat_flags
  trend = np.abs(area - smooth)[~empty].mean() / max(smooth.max(), 1e-9)
  flags += ['area_jitter'] if trend > _JITTER else []
  usable = np.flatnonzero(~empty)
  beats = []
  for beat in found:
    ed, es = (int(usable[np.abs(usable - k).argmin()]) for k in beat)
    # A doubt about a beat that is not used is none.
    used = not beats or not is_cut(beat, smooth)
    measured, more = _measure_beat(
      lv, ed, es, not is_cut(beat, smooth), spacing_mm if known else None
    )
    beats.append(measured)
    flags += more if used else []
    if used and min(sure[ed], sure[es]) < low:
      doubtful = ['low_confidence']
  means, spread, more = _over_beats(beats)
  return Cycle(
    area,
    smooth,
    beats[0].ed,
    beats[0].es,
    tuple(beats),
    *means,
    spread,
    'discs' if known else 'area_length',
    tuple(dict.fromkeys([*flags, *more, *doubtful])),
  )


def _over_beats(beats: list[Beat]):
  """((edv, esv, ef), SD of EF, flags) of the whole beats, or the first."""
  whole = [beat for beat in beats if beat.whole]
  used = [beat for beat in whole if math.isfinite(beat.ef_percent)]
  flags = ['beat_unmeasured'] if len(used) < len(whole) else []
  used = used or beats[:1]
  means = [
    float(np.mean([getattr(beat, name) for beat in used]))
    for name in ('edv_ml', 'esv_ml', 'ef_percent')
  ]
  spread = (
    float(np.std([beat.ef_percent for beat in used], ddof=1))
    if len(used) > 1
    else math.nan
  )
  return means, spread, flags + (['beats_differ'] if spread > _BEATS_SD else [])


def _measure_beat(lv, ed: int, es: int, whole: bool, spacing):
  """A beat and its flags."""
  cavities = [ejection.measure_cavity(lv[index], spacing) for index in (ed, es)]
  flags = [flag for cavity in cavities if cavity for flag in cavity.flags]
  discs = [ejection.single_plane_volume(cavity) for cavity in cavities]
  area_length = [ejection.area_length_volume(cavity) for cavity in cavities]
  by_discs = ejection.ejection_fraction(*discs)
  by_area_length = ejection.ejection_fraction(*area_length)
  if abs(by_discs - by_area_length) > 15:
    flags.append('methods_disagree')
  ef = by_area_length if spacing is None else by_discs
  if math.isfinite(ef) and not (
    ejection.EF_RANGE[0] <= ef <= ejection.EF_RANGE[1]
  ):
    flags.append('ef_out_of_range')
  if spacing is None:
    return Beat(ed, es, math.nan, math.nan, ef, by_area_length, whole), flags
  if not _EDV_RANGE[0] <= discs[0] <= _EDV_RANGE[1]:
    flags.append('implausible_volume')
  if cavities[0] and not (
    _LENGTH_RANGE[0] <= cavities[0].length <= _LENGTH_RANGE[1]
  ):
    flags.append('implausible_length')
  return Beat(ed, es, *discs, ef, by_area_length, whole), flags


def _shape_flags(lv: np.ndarray, box) -> list[str]:
  """'fragmented' and 'cut_by_border', each if true of any frame."""
  flags = []
  for mask in lv:
    labels, count = ndimage.label(mask)
    if count > 1:
      sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
      if sizes[1] > 0.05 * sizes[0]:
        flags.append('fragmented')
        break
  _, left, bottom, right = box
  ever = lv.any(axis=0)
  rows, columns = (np.flatnonzero(ever.any(axis=k)) for k in (1, 0))
  if rows[-1] >= bottom - 1 or columns[0] <= left or columns[-1] >= right - 1:
    flags.append('cut_by_border')
  return flags
