"""Left-ventricular volumes and ejection fraction from masks.

The procedure follows the one CAMUS's makers publish (CREATIS): isotropic geometry, base = the
longest near-straight stretch of the outline, apex = the outline point farthest from the base's
midpoint, 20 discs across the long axis. The image's row 0 is the probe: the apex points up. Ours,
and why:
  * the outline is a sub-pixel polygon in mm (half level of the lightly blurred mask) rather than
    pixels of a resampled mask, so that a 128x128 grid measures like a native one;
  * a stretch is near-straight within 3 % of the ventricle's extent (theirs: 8 pixels), must lie on
    the base's side, and counts by how square it lies to the ventricle's own axis, so that a long
    flat wall is not taken for a base;
  * discs are cut at mid-height (theirs: at their lower face), and a diameter is the length inside
    the outline;
  * the discs' height comes from the longer of the two views' long axes *of that instant*, as
    ASE/EACVI recommend (theirs: the longest of all four, which inflates the end-systolic volume).
"""

import dataclasses
import math

from contourpy import contour_generator
from jaxtyping import Bool, Float
import numpy as np
from scipy import ndimage

from echoforge_jax.metrics import surface

VIEWS = ('2CH', '4CH')  # Those that volumes are measured in.
DISCS = 20
EF_RANGE = (0.0, 90.0)  # Percent; outside it a measurement is flagged.
MIN_PIXELS = 16  # A smaller largest component is no cavity.
_BLUR = 0.6  # Pixels; removes the staircase, not the shape.
_POINTS = 160  # Outline points, equally spaced by arc length.
_STRAIGHT = 0.03  # Of the ventricle's extent.
_MAX_TILT = math.radians(60)  # Of the base against the ventricle's axis.
_FRAGMENT = 0.05  # Second component as a share of the largest.


@dataclasses.dataclass(frozen=True)
class Cavity:
  """One ventricle outline measured in one view, in mm (or pixels)."""

  contour: np.ndarray  # [N, 2] closed outline (row, column), equally spaced.
  base: np.ndarray  # [2] midpoint of the base.
  base_ends: np.ndarray  # [2, 2]
  apex: np.ndarray  # [2] the outline point farthest from `base`.
  length: float  # Long axis, |apex - base|.
  diameters: np.ndarray  # [20] inside the outline across the long axis, from the base on.
  area: float
  # 'fragmented' (a second component above 5 % of the largest), 'holes', 'axis_not_upright' (the
  # axis is over 45 degrees from vertical).
  flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Ejection:
  """Volumes in ml and ejection fraction in percent; NaN if not measurable."""

  edv_ml: float
  esv_ml: float
  ef_percent: float  # 100 (EDV - ESV) / EDV.
  flags: tuple[str, ...] = ()  # Reasons to doubt the numbers.


def measure_cavity(
  mask: Bool[np.ndarray, 'h w'], spacing: tuple[float, float] | None = None
) -> Cavity | None:
  """Measures outline, base, apex, long axis and disc diameters.

  None where there is no cavity (fewer than 16 pixels).

  Args:
    mask: bool [H, W]; its largest component is measured, holes filled.
    spacing: mm per pixel (row, column); None measures in pixels.
  """
  mask = np.asarray(mask, bool)
  if not mask.any():
    return None
  box, corner = surface.crop(mask)
  box, flags = _clean(box)
  if box is None:
    return None
  spacing = np.asarray((1.0, 1.0) if spacing is None else spacing, np.float64)
  contour = _outline(box, np.asarray(corner), spacing)
  if contour is None:
    return None
  area, centroid, axis, upright = _moments(contour)
  if not upright:
    flags += ('axis_not_upright',)
  base, ends = _find_base(contour, centroid, axis)
  distances = np.linalg.norm(contour - base, axis=1)
  apex, length = contour[distances.argmax()], float(distances.max())
  diameters = _diameters(contour, base, apex)
  return Cavity(contour, base, ends, apex, length, diameters, area, flags)


def biplane_volume(two_chamber: Cavity | None, four_chamber: Cavity | None) -> float:
  """Returns Simpson's biplane volume in ml: sum over 20 discs of pi/4 d1 d2 h.

  The cavities are of one instant and in mm; h is the longer of both long axes over 20. NaN if a
  view has no cavity.
  """
  if two_chamber is None or four_chamber is None:
    return math.nan
  height = max(two_chamber.length, four_chamber.length) / DISCS
  discs = two_chamber.diameters * four_chamber.diameters
  return float(math.pi / 4 * height * discs.sum() / 1000)


def single_plane_volume(cavity: Cavity | None) -> float:
  """Returns the volume in ml of discs of one view in mm; NaN without one."""
  return biplane_volume(cavity, cavity)


def area_length_volume(cavity: Cavity | None) -> float:
  """Returns 8 A^2 / (3 pi L) in ml of one view in mm; NaN without one."""
  if cavity is None or cavity.length <= 0:
    return math.nan
  return 8 * cavity.area**2 / (3 * math.pi * cavity.length) / 1000


def ejection_fraction(edv_ml: float, esv_ml: float) -> float:
  """Returns 100 (EDV - ESV) / EDV in percent; NaN if one is unknown or EDV is not positive."""
  if not (math.isfinite(edv_ml) and math.isfinite(esv_ml)) or edv_ml <= 0:
    return math.nan
  return 100 * (edv_ml - esv_ml) / edv_ml


def measure_ejection(
  ed: dict[str, Cavity | None], es: dict[str, Cavity | None], method: str = 'biplane'
) -> Ejection:
  """Measures volumes and EF of one patient.

  Args:
    ed: cavity at end-diastole by view ('2CH', '4CH'); None where not found.
    es: the same views at end-systole.
    method: 'biplane': Simpson from both views, or, flagged 'single_plane', the discs of the only
      one; 'discs' or 'area_length': of each view alone, the mean over the views.

  Returns:
    NaN and 'no_cavity' where a cavity is missing. Other flags: 'ef_out_of_range' (outside 0..90 %),
    'es_larger_than_ed', 'long_axes_differ' (biplane: by more than 20 %), and the cavities' own.
  """
  flags = []
  volumes = []
  for cavities in (ed, es):
    found = list(cavities.values())
    for cavity in found:
      flags += ['no_cavity'] if cavity is None else cavity.flags
    if method != 'biplane':
      one = {'discs': single_plane_volume, 'area_length': area_length_volume}[method]
      volumes.append(float(np.mean([one(c) for c in found])) if found else math.nan)
    elif '2CH' in cavities and '4CH' in cavities:
      volumes.append(biplane_volume(cavities['2CH'], cavities['4CH']))
      lengths = [c.length for c in found if c is not None]
      if len(lengths) == 2 and max(lengths) > 1.2 * min(lengths):
        flags.append('long_axes_differ')
    else:
      flags.append('single_plane')
      volumes.append(single_plane_volume(found[0] if found else None))
  ef = ejection_fraction(*volumes)
  if math.isfinite(ef) and not EF_RANGE[0] <= ef <= EF_RANGE[1]:
    flags.append('ef_out_of_range')
  if ef < 0:
    flags.append('es_larger_than_ed')
  return Ejection(*volumes, ef, tuple(dict.fromkeys(flags)))


def _clean(mask: np.ndarray) -> tuple[np.ndarray | None, tuple[str, ...]]:
  """Returns the largest four-connected component with its holes filled, and flags."""
  labels, count = ndimage.label(mask)
  sizes = np.bincount(labels.ravel())[1:]
  order = np.sort(sizes)[::-1]
  if order[0] < MIN_PIXELS:
    return None, ()
  component = labels == sizes.argmax() + 1
  filled = ndimage.binary_fill_holes(component)
  flags = ('fragmented',) if count > 1 and order[1] > _FRAGMENT * order[0] else ()
  return filled, flags + (('holes',) if filled.sum() > component.sum() else ())


def _outline(box: np.ndarray, corner: np.ndarray, spacing: np.ndarray) -> np.ndarray | None:
  """Returns the closed outline [160, 2] (row, column) in mm, equally spaced."""
  margin = 4
  soft = ndimage.gaussian_filter(np.pad(box, margin).astype(np.float64), _BLUR)
  lines = contour_generator(z=soft).lines(0.5)
  if not lines:
    return None
  # Columns come first from the generator; coordinates are pixel centres.
  line = (max(lines, key=len)[:, ::-1] + (corner - margin)) * spacing
  steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
  along = np.r_[0.0, np.cumsum(steps)]
  at = np.arange(_POINTS) * (along[-1] / _POINTS)
  return np.stack([np.interp(at, along, line[:, k]) for k in (0, 1)], axis=-1)


def _moments(contour: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, bool]:
  """Returns area, centroid, unit axis toward the apex, and whether it is upright.

  The axis is the principal one of the polygon's second moments; where that is over 45 degrees from
  vertical, it is the vertical instead.
  """
  centre = contour.mean(axis=0)
  p = contour - centre
  q = np.roll(p, -1, axis=0)
  cross = p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]
  signed = cross.sum() / 2
  shift = ((p + q) * cross[:, None]).sum(axis=0) / (6 * signed)
  # Second moments of the triangles (centre, p, q), then about the centroid.
  second = np.einsum('n,ni,nj->ij', cross, p + q, p + q)
  second += np.einsum('n,ni,nj->ij', cross, p, p)
  second += np.einsum('n,ni,nj->ij', cross, q, q)
  second = second / (24 * signed) - np.outer(shift, shift)
  _, vectors = np.linalg.eigh(second)
  axis = vectors[:, -1]
  axis = -axis if axis[0] > 0 else axis
  upright = abs(axis[0]) >= math.cos(math.radians(45))
  axis = axis if upright else np.array([-1.0, 0.0])
  return abs(float(signed)), centre + shift, axis, bool(upright)


def _find_base(
  contour: np.ndarray, centroid: np.ndarray, axis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Finds midpoint and ends of the longest near-straight stretch at the base.

  Every pair of outline points (i, j) spans a stretch i..j. It qualifies if its middle lies on the
  base's side of the centroid, its chord is within 60 degrees of square to the axis, and no point
  between is farther from the chord than 3 % of the ventricle's extent. Among these, the largest
  chord times the squared cosine of its tilt wins.
  """
  tolerance = _STRAIGHT * np.ptp(contour @ axis)
  across = np.array([-axis[1], axis[0]])
  count = len(contour)
  step = np.linalg.norm(np.diff(contour, axis=0), axis=1).max()
  best, found = 0.0, None
  for span in range(count // 2, 1, -1):
    if span * step <= best:  # No shorter stretch has a longer chord.
      break
    starts = np.arange(count)
    ends = (starts + span) % count
    middle = contour[(starts + span // 2) % count]
    chord = contour[ends] - contour[starts]
    length = np.linalg.norm(chord, axis=1)
    tilt = np.abs(chord @ across) / np.maximum(length, 1e-9)
    score = length * tilt**2
    keep = ((middle - centroid) @ axis < 0) & (tilt > math.cos(_MAX_TILT)) & (score > best)
    normal = np.stack([-chord[:, 1], chord[:, 0]], axis=1)
    normal /= np.maximum(length, 1e-9)[:, None]
    # The middle alone rules out nearly all of them.
    keep &= np.abs(((middle - contour) * normal).sum(axis=1)) <= tolerance
    starts = starts[keep]
    if not starts.size:
      continue
    between = (starts[:, None] + np.arange(1, span)) % count
    offset = np.abs(
      np.einsum('sbk,sk->sb', contour[between] - contour[starts][:, None], normal[keep])
    )
    score = np.where(offset.max(axis=1) <= tolerance, score[keep], 0.0)
    if score.max() > best:
      best = score.max()
      found = starts[score.argmax()], span
  if found is None:  # A speck: its lowest point stands for the base.
    low = contour[(contour @ axis).argmin()]
    return low, np.stack([low, low])
  start, span = found
  middles = [(start + span // 2) % count, (start + (span + 1) // 2) % count]
  return contour[middles].sum(axis=0) / 2, contour[[start, (start + span) % count]]


def _diameters(
  contour: Float[np.ndarray, 'n 2'], base: np.ndarray, apex: np.ndarray
) -> Float[np.ndarray, ' 20']:
  """Measures lengths inside the outline across the long axis, at mid-disc."""
  axis = apex - base
  length = float(np.linalg.norm(axis))
  axis = axis / max(length, 1e-9)
  local = contour - base
  along = local @ axis
  across = local @ np.array([-axis[1], axis[0]])
  next_along, next_across = np.roll(along, -1), np.roll(across, -1)
  diameters = np.zeros(DISCS)
  for k in range(DISCS):
    level = (k + 0.5) / DISCS * length
    crosses = (along <= level) != (next_along <= level)
    share = (level - along[crosses]) / (next_along - along)[crosses]
    at = np.sort(across[crosses] + share * (next_across - across)[crosses])
    diameters[k] = (at[1::2] - at[::2]).sum()
  return diameters
