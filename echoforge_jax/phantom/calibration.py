"""How near the phantom is to real CAMUS frames: a table of measurements."""

import cv2
import numpy as np

from echoforge_jax.clip import LABELS, Clip
from echoforge_jax.phantom.config import PhantomConfig
from echoforge_jax.phantom.patient import generate_patient

# Measured on real CAMUS frames: median, 10th and 90th percentile (None where
# only the median is known).
TARGETS = {
  'depth mm': (140.0, 111.0, 170.0),
  'apex depth mm': (29.0, 18.0, 41.0),
  'base depth mm': (101.0, 83.0, 110.0),
  'LV area cm2': (19.9, 14.0, 30.0),
  'long axis mm': (70.0, 60.0, 83.0),
  'gray LV': (69.0, 54.0, 99.0),
  'gray 8 mm shell': (108.0, 78.0, 129.0),
  'gray LA': (84.0, 54.0, 111.0),
  'gray sector median': (93.0, 71.0, 106.0),
  'gray sector p99': (218.0, None, None),
  'gCNR LV/shell': (0.50, 0.39, 0.61),
  'speckle FWHM axial mm': (1.77, None, None),
  'speckle FWHM lateral mm': (2.97, None, None),
  'correlation lag 1': (0.93, None, None),
  'correlation lag 2': (0.84, None, None),
  'correlation lag 5': (0.66, None, None),
}
# Where no percentiles are known: relative tolerance for the mark "in".
_TOLERANCE = 0.15


def gcnr(inside, outside, bins=64) -> float:
  """Returns the generalized contrast-to-noise ratio of two sets of gray levels.

  It is 1 - overlap of both histograms: 0 nothing to see, 1 fully apart (Rodriguez-Molares 2020).
  """
  a, _ = np.histogram(inside, bins, (0, 256))
  b, _ = np.histogram(outside, bins, (0, 256))
  return float(1.0 - np.minimum(a / max(a.sum(), 1), b / max(b.sum(), 1)).sum())


def high_pass(frame, mm, sigma_mm=3.0) -> np.ndarray:
  """Returns float32 [H, W]: the frame minus its blur of `sigma_mm`."""
  frame = frame.astype(np.float32)
  return frame - cv2.GaussianBlur(frame, (0, 0), sigma_mm / mm)


def _half_width(correlation, mm) -> float:
  """Returns the FWHM in mm of an even correlation given from lag 0 on."""
  below = np.flatnonzero(correlation < 0.5)
  if not below.size:
    return float('nan')
  k = int(below[0])
  a, b = correlation[k - 1], correlation[k]
  return float(2.0 * mm * (k - 1 + (a - 0.5) / (a - b)))


def speckle_size(frame, mm) -> tuple[float, float]:
  """Returns the axial and lateral FWHM, mm, of the speckle's autocorrelation.

  Of the high-passed frame from 30 mm depth to 80 % of the sector and 25 mm to either side, where
  rows are nearly axial; the probe is at row 0, centred.
  """
  height, width = frame.shape
  rows = slice(int(30.0 / mm), int(0.8 * height))
  half = min(int(25.0 / mm), width // 2)
  patch = high_pass(frame, mm)[rows, width // 2 - half : width // 2 + half]
  patch = patch - patch.mean()
  rows, columns = patch.shape
  size = [2 * rows, 2 * columns]
  correlation = np.fft.irfft2(np.abs(np.fft.rfft2(patch, size)) ** 2, size)
  # Unbiased: fewer pairs at larger lags.
  axial = correlation[: rows // 4, 0] / (rows - np.arange(rows // 4))
  lateral = correlation[0, : columns // 2] / (columns - np.arange(columns // 2))
  return _half_width(axial / axial[0], mm), _half_width(lateral / lateral[0], mm)


def _geometry(mask, mm) -> dict:
  """Returns area, long axis, apex and base depth of the cavity's mask."""
  lv = mask == LABELS['lv']
  rows, columns = np.nonzero(lv)
  points = np.stack([columns, rows], 1) * mm
  # Base: where the cavity touches the atrium (or its lowest rows).
  atrium = cv2.dilate((mask == LABELS['la']).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
  contact = np.nonzero(lv & atrium)
  if len(contact[0]) < 5:
    contact = np.nonzero(lv & (np.arange(len(lv))[:, None] >= rows.max() - 2))
  base = np.array([contact[1].mean(), contact[0].mean()]) * mm
  reach = np.linalg.norm(points - base, axis=1)
  apex = points[reach.argmax()]
  return {
    'LV area cm2': lv.sum() * mm * mm / 100.0,
    'long axis mm': reach.max(),
    'apex depth mm': apex[1],
    'base depth mm': base[1],
  }


def measure(clip: Clip) -> dict[str, list[float]]:
  """Measures one clip at native size: for every row of `TARGETS` its values (ED and ES, or one).

  The clip has labeled frames, isotropic spacing and the probe at (row 0, W / 2).
  """
  mm = float(clip.spacing_mm[0])
  out = {name: [] for name in TARGETS}
  height, width = clip.frames.shape[1:]
  y, x = np.mgrid[:height, :width].astype(np.float32)
  sector = clip.frames.max(0) > 0
  sector &= np.hypot(x - width / 2.0 + 0.5, y + 0.5) < height
  out['depth mm'].append(height * mm)
  for k in (clip.ed, clip.es):
    frame, mask = clip.frames[k], clip.masks[k]
    lv, la = mask == LABELS['lv'], mask == LABELS['la']
    away = cv2.distanceTransform((~lv).astype(np.uint8), cv2.DIST_L2, 5) * mm
    shell = (away > 0) & (away < 8.0) & ~la & sector
    axial, lateral = speckle_size(frame, mm)
    found = _geometry(mask, mm) | {
      'gray LV': frame[lv].mean(),
      'gray 8 mm shell': frame[shell].mean(),
      'gray sector median': np.median(frame[sector]),
      'gray sector p99': np.percentile(frame[sector], 99),
      'gCNR LV/shell': gcnr(frame[lv], frame[shell]),
      'speckle FWHM axial mm': axial,
      'speckle FWHM lateral mm': lateral,
    }
    if la.any():
      found['gray LA'] = frame[la].mean()
    for name, value in found.items():
      out[name].append(value)
  inner = cv2.erode(sector.astype(np.uint8), np.ones((25, 25), np.uint8), borderValue=0) > 0
  fine = [high_pass(f, mm)[inner] for f in clip.frames]
  for lag in (1, 2, 5):
    values = [np.corrcoef(a, b)[0, 1] for a, b in zip(fine[:-lag:2], fine[lag::2])]
    if values:
      out[f'correlation lag {lag}'].append(float(np.mean(values)))
  return out


def calibrate(num_patients, seed, config: PhantomConfig | None = None) -> dict[str, np.ndarray]:
  """Measures both views of synthetic patients: values per row of `TARGETS`."""
  config = config or PhantomConfig.camus()
  found = {name: [] for name in TARGETS}
  for index in range(1, num_patients + 1):
    for clip in generate_patient(seed, index, config).clips.values():
      for name, values in measure(clip).items():
        found[name] += values
  return {name: np.array(values) for name, values in found.items()}


def format_table(found: dict[str, np.ndarray]) -> str:
  """Formats medians against `TARGETS`, one line per row.

  `in` marks a median between the 10th and 90th percentile of real frames (within 15 % of their
  median where only that is known).
  """
  lines = [f'{"measure":<25}{"real median (p10-p90)":<24}{"phantom median (p10-p90)":<27}mark']
  for name, (median, low, high) in TARGETS.items():
    values = found[name][np.isfinite(found[name])]
    p10, p50, p90 = np.percentile(values, [10, 50, 90])
    real = f'{median:g}'
    own = f'{p50:.3g} ({p10:.3g}-{p90:.3g})'
    if low is None:
      low, high = median * (1 - _TOLERANCE), median * (1 + _TOLERANCE)
    else:
      real += f' ({low:g}-{high:g})'
    mark = 'in' if low <= p50 <= high else 'OUT'
    lines.append(f'{name:<25}{real:<24}{own:<27}{mark}')
  return '\n'.join(lines)


def calibration_table(num_patients: int, seed: int, config: PhantomConfig) -> str:
  """Measures `num_patients` phantoms and formats them beside real frames."""
  title = f'{num_patients} patients, seed {seed}, both views, ED and ES frames\n'
  return title + format_table(calibrate(num_patients, seed, config))
