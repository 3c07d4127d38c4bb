"""Measurements of labeled apical frames: what a phantom must have in common with real ones.

Everything is measured as a network sees it, on frames squeezed to squares of `SIZE` pixels, so that
frames of unknown spacing count too. Lengths in the image are shares of its height, lengths at the
ventricle shares of the square root of its area, gray levels of 0 to 255.
"""

import cv2
import numpy as np

from echoforge_jax.clip import LABELS

SIZE = 128
# Signed distances from the cavity's border, in square roots of its area; negative inside.
RINGS = (-0.16, -0.08, -0.03, 0.03, 0.08, 0.14, 0.22, 0.32)
# 4CH names; in 2CH the left wall is the inferior one and the right wall the anterior one.
WALLS = ('left', 'right', 'apex')
# Of the long axis: what belongs to the apical wall; where the base begins.
_APEX_SHARE, _BASE_SHARE = 0.25, 0.92
_LEVELS = (0.25, 0.5, 0.75, 0.92)  # Of the long axis from the apex: where widths are measured.


def gcnr(inside, outside, bins=64) -> float:
  """Returns the generalized contrast-to-noise ratio of two sets of gray levels.

  It is 1 - overlap of both histograms: 0 nothing to see, 1 fully apart (Rodriguez-Molares 2020).
  """
  a, _ = np.histogram(inside, bins, (0, 256))
  b, _ = np.histogram(outside, bins, (0, 256))
  return float(1.0 - np.minimum(a / max(a.sum(), 1), b / max(b.sum(), 1)).sum())


def squeeze(frame, mask) -> tuple[np.ndarray, np.ndarray]:
  """Squeezes a frame and its labels, uint8 [H, W] each, to [SIZE, SIZE]."""
  small = cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
  shares = [
    cv2.resize((mask == value).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    for value in (0, *LABELS.values())
  ]
  values = np.array([0, *LABELS.values()], np.uint8)
  return small, values[np.argmax(shares, 0)]


def _signed_distance(inside) -> np.ndarray:
  """Returns float32 [H, W] distances in pixels to the border, negative inside."""
  inside = inside.astype(np.uint8)
  away = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
  deep = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
  return np.where(inside > 0, 0.5 - deep, away - 0.5)


def _axis(lv, la) -> tuple[np.ndarray, np.ndarray]:
  """Returns apex and middle of the base, (x, y) in pixels."""
  rows, columns = np.nonzero(lv)
  contact = np.nonzero(lv & (cv2.dilate(la.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0))
  if len(contact[0]) < 3:  # No atrium: the lowest rows.
    contact = np.nonzero(lv & (np.arange(len(lv))[:, None] >= rows.max() - 2))
  base = np.array([contact[1].mean(), contact[0].mean()])
  points = np.stack([columns, rows], 1)
  return points[np.linalg.norm(points - base, axis=1).argmax()].astype(float), base


def _shape(lv, la, along, across, axis) -> dict[str, float]:
  """Measures size, place and outline of the ventricle and the atrium."""
  apex, base = axis
  length = np.linalg.norm(base - apex)
  found = {
    'LV area, % of image': 100.0 * lv.mean(),
    'LV length / image': length / SIZE,
    'apex x': apex[0] / SIZE,
    'apex y': apex[1] / SIZE,
    'base y': base[1] / SIZE,
    'tilt, degrees': float(np.degrees(np.arctan2(*(base - apex)))),
    'LA area / LV area': la.sum() / lv.sum() if la.any() else np.nan,
  }
  widths = []
  for level in _LEVELS:
    there = lv & (np.abs(along - level) < 0.5 / length)
    spread = across[there]
    widths.append(np.ptp(spread) + 1.0 if spread.size else np.nan)
  found['length / width'] = length / np.nanmax(widths)
  for level, width in zip(_LEVELS[:1] + _LEVELS[2:], widths[:1] + widths[2:]):
    found[f'width at {100 * level:.0f} % / 50 %'] = width / widths[1]
  middle = across[lv & (np.abs(along - 0.5) < 0.5 / length)]
  if middle.size:  # Positive to the right.
    found['bend / length'] = 0.5 * (middle.min() + middle.max()) / length
  low = lv & (along > 0.75)
  if low.any():
    # Both ends take 15 % of the base; their middles are 85 % of its width apart.
    left, right = np.quantile(across[low], (0.15, 0.85))
    ends = along[low & (across <= left)].max(), along[low & (across >= right)].max()
    apart = 0.85 / 0.7 * (right - left)
    found['slope of the base'] = (ends[1] - ends[0]) * length / apart if apart > 0 else np.nan
  return found


def _muscle(frame, lv, myo, la, along, across) -> dict[str, float]:
  """Measures where the ventricle lies in the sector and, where it is labeled, its wall."""
  whole = lv | myo
  y, x = np.mgrid[:SIZE, :SIZE] + 0.5
  tangent = (x - 0.5 * SIZE) / y
  upper = (y > 0.25 * SIZE) & (y < 0.5 * SIZE) & (frame > 0)
  half = np.quantile(np.abs(tangent[upper]), 0.98) if upper.any() else np.nan
  found = {}
  for name, inside in (('LV', lv), ('wall', whole))[: 1 + myo.any()]:
    there = tangent[inside & (y > 0.25 * SIZE)]  # Above it, pixels are too coarse for an angle.
    for side, share in (('left', 0.02), ('right', 0.98)) if there.size else ():
      found[f'{side} edge of {name} / sector'] = np.quantile(there, share) / half
  if not myo.any():
    return found
  found['LV area / LV and wall'] = lv.sum() / whole.sum()
  if la.any():
    found['LA area / LV and wall'] = la.sum() / whole.sum()
  for side, there in (('left', myo & (across < 0)), ('right', myo & (across >= 0))):
    if there.any():
      found[f'{side} wall beyond the base'] = along[there].max() - 1.0
  return found


def _walls(frame, mask, distance, parts, root) -> dict[str, float]:
  """Measures thickness and gray levels across the border, wall by wall.

  Gray levels are those above the middle of the cavity. `parts`: masks of `WALLS`.
  """
  lv, la = mask == LABELS['lv'], mask == LABELS['la']
  deep = lv & (distance < 0.6 * distance[lv].min())
  blood = float(np.median(frame[deep]))
  found = {}
  for wall in WALLS:
    muscle = (mask == LABELS['myo']) & parts[wall]
    if muscle.sum() >= 5:
      found[f'{wall} wall thickness'] = np.percentile(distance[muscle], 95) / root
    found[f'{wall} steepest rise at'] = _steepest(frame, parts[wall] & ~la, distance / root)
    for low, high in zip(RINGS[:-1], RINGS[1:]):
      ring = parts[wall] & ~la & (distance / root >= low) & (distance / root < high)
      ring &= frame > 0
      if ring.sum() >= 4:
        name = f'{wall} gray at {100 * 0.5 * (low + high):+.0f}'
        found[name] = float(frame[ring].mean()) - blood
  return found


def _steepest(frame, part, distance) -> float:
  """Returns where the mean gray level across the border rises most, % of the area's square root.

  `part`: pixels of one wall; `distance` from the border, in square roots, negative inside.
  """
  edges = np.arange(-0.21, 0.37, 0.03)
  middles = 0.5 * (edges[1:] + edges[:-1])
  rings = np.digitize(distance, edges)
  levels = [frame[part & (frame > 0) & (rings == k)] for k in range(1, len(edges))]
  found = [k for k, values in enumerate(levels) if values.size >= 4]
  if len(found) < 6:
    return np.nan
  profile = np.interp(middles, middles[found], [levels[k].mean() for k in found])
  smooth = np.convolve(profile, (0.25, 0.5, 0.25), 'valid')
  return 100.0 * middles[2:-2][np.argmax(smooth[2:] - smooth[:-2])]


def _tone(frame, mask, along) -> dict[str, float]:
  """Measures gray levels of chambers and sector, and speckle."""
  lv, la, myo = (mask == LABELS[name] for name in ('lv', 'la', 'myo'))
  sector = frame > 0
  found = {
    'gray LV': frame[lv].mean(),
    'gray LA': frame[la].mean() if la.any() else np.nan,
    'gray myocardium': frame[myo].mean() if myo.any() else np.nan,
    'gray sector median': np.median(frame[sector]),
    'gray sector p99': np.percentile(frame[sector], 99),
    'gray sector SD': frame[sector].std(),
    'gray LV SD': frame[lv].std(),
    'gCNR LV / myocardium': gcnr(frame[lv], frame[myo]) if myo.any() else np.nan,
  }
  for name, low, high in (('apical', -1.0, 0.33), ('basal', 0.67, 2.0)):
    third = lv & (along >= low) & (along < high)
    found[f'gray LV, {name} third'] = frame[third].mean() - frame[lv].mean()
  fine = frame.astype(np.float32) - cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 2.5)
  inner = cv2.erode(sector.astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=0) > 0
  found['fine SD / gray'] = fine[inner].std() / max(frame[inner].mean(), 1.0)
  for name, shift in (('axial', (1, 0)), ('lateral', (0, 1))):
    a = fine[: SIZE - shift[0], : SIZE - shift[1]]
    b = fine[shift[0] :, shift[1] :]
    both = inner[: SIZE - shift[0], : SIZE - shift[1]] & inner[shift[0] :, shift[1] :]
    found[f'speckle correlation, {name}'] = np.corrcoef(a[both], b[both])[0, 1]
  return found


def measure_frame(frame: np.ndarray, mask: np.ndarray) -> dict[str, float]:
  """Measures one labeled frame.

  Args:
    frame: uint8 [H, W] gray levels; 0 outside the sector.
    mask: uint8 [H, W] values of `clip.LABELS`; what has no left ventricle measures nothing.

  Returns:
    Name to value; NaN or absent where a structure is missing.
  """
  frame, mask = squeeze(frame, mask)
  lv, la = mask == LABELS['lv'], mask == LABELS['la']
  if lv.sum() < 50:
    return {}
  root = float(np.sqrt(lv.sum()))
  apex, base = axis = _axis(lv, la)
  length = np.linalg.norm(base - apex)
  unit = (base - apex) / length
  y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
  along = ((x - apex[0]) * unit[0] + (y - apex[1]) * unit[1]) / length
  across = (x - apex[0]) * unit[1] - (y - apex[1]) * unit[0]
  sides = (along >= _APEX_SHARE) & (along < _BASE_SHARE)
  parts = {
    'left': sides & (across < 0),
    'right': sides & (across >= 0),
    'apex': along < _APEX_SHARE,
  }
  distance = _signed_distance(lv)
  found = _shape(lv, la, along, across, axis)
  found |= _muscle(frame, lv, mask == LABELS['myo'], la, along, across)
  found |= _walls(frame, mask, distance, parts, root)
  return {k: float(v) for k, v in (found | _tone(frame, mask, along)).items()}


def measure_pair(ed: dict[str, float], es: dict[str, float]) -> dict[str, float]:
  """Compares what `measure_frame` found at ED and at ES of one clip."""
  if not ed or not es:
    return {}
  ratio = lambda name: es[name] / ed[name] if name in ed and name in es else np.nan  # noqa: E731
  area, thickness = ratio('LV area, % of image'), np.sqrt(ratio('LV area, % of image'))
  found = {
    'area ES / ED': area,
    'length ES / ED': ratio('LV length / image'),
    'LA area ES / ED': ratio('LA area / LV area') * area,
    'gray LV ES - ED': es['gray LV'] - ed['gray LV'],
    'gray myocardium ES - ED': es['gray myocardium'] - ed['gray myocardium'],
  }
  for wall in WALLS:
    found[f'{wall} wall ES / ED'] = ratio(f'{wall} wall thickness') * thickness
  return found
