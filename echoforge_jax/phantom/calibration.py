"""Compares synthetic patients with real ones: a table of measurements, with a distance for each.

The figures of real frames that are shipped (`camus_frames.json`) are quantiles measured on ED and
ES of the official CAMUS training patients (S. Leclerc et al., IEEE TMI 38(9), 2198-2210, 2019).
`phantom --calibrate --raw=DIR` measures any other labeled frames in their place.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
import importlib.resources
import json

import cv2
import numpy as np

from echoforge_jax.clip import LABELS, Clip
from echoforge_jax.phantom import appearance
from echoforge_jax.phantom.config import PhantomConfig
from echoforge_jax.phantom.patient import generate_patient

QUANTILES = (5, 10, 25, 50, 75, 90, 95)  # Percent.
# A name is (view, phase, measure); phase 'ED', 'ES', 'pair' or 'clip'.
Name = tuple[str, str, str]
Quantiles = dict[Name, np.ndarray]
# Measured on whole CAMUS sequences at native size, both views together; only the median is known.
SEQUENCES = {
  'speckle FWHM axial, mm': 1.77,
  'speckle FWHM lateral, mm': 2.97,
  'correlation lag 1': 0.93,
  'correlation lag 2': 0.84,
  'correlation lag 5': 0.66,
}
_NORMAL_SPREAD = 2.563  # From the 10th to the 90th percentile of a normal, in standard deviations.
_FAR = 0.6  # From this distance on, a row is marked.


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


def _measure_sequence(clip: Clip) -> dict[str, float]:
  """Measures the rows of `SEQUENCES` on a clip at native size, the probe at (row 0, W / 2)."""
  mm = float(clip.spacing_mm[0])
  found = {}
  sizes = [speckle_size(clip.frames[k], mm) for k in (clip.ed, clip.es)]
  for name, values in zip(('axial', 'lateral'), zip(*sizes)):
    found[f'speckle FWHM {name}, mm'] = float(np.mean(values))
  sector = (clip.frames.max(0) > 0).astype(np.uint8)
  inner = cv2.erode(sector, np.ones((25, 25), np.uint8), borderValue=0) > 0
  fine = [high_pass(f, mm)[inner] for f in clip.frames]
  for lag in (1, 2, 5):
    values = [np.corrcoef(a, b)[0, 1] for a, b in zip(fine[:-lag:2], fine[lag::2])]
    if values:
      found[f'correlation lag {lag}'] = float(np.mean(values))
  return found


def measure_clip(clip: Clip) -> dict[tuple[str, str], float]:
  """Measures ED and ES of one clip: (phase, measure) -> value, as `appearance` names them.

  Where the spacing is known, with sizes in mm; where there are frames between ED and ES, with the
  rows of `SEQUENCES`.
  """
  ends = {}
  for phase, k in (('ED', clip.ed), ('ES', clip.es)):
    ends[phase] = appearance.measure_frame(clip.frames[k], clip.masks[k])
    area = float(np.prod(clip.spacing_mm)) / 100.0
    if ends[phase] and np.isfinite(area):
      ends[phase]['LV area, cm2'] = area * float((clip.masks[k] == LABELS['lv']).sum())
      ends[phase]['depth of the frame, mm'] = float(clip.spacing_mm[0]) * clip.frames.shape[1]
  found = {(phase, name): v for phase, values in ends.items() for name, v in values.items()}
  pair = appearance.measure_pair(ends['ED'], ends['ES'])
  found |= {('pair', name): v for name, v in pair.items()}
  if len(clip.frames) > 2 and np.isfinite(clip.spacing_mm).all():
    found |= {('clip', name): v for name, v in _measure_sequence(clip).items()}
  return found


def summarize(clips: Iterable[Clip]) -> Quantiles:
  """Measures clips; returns float64 [7] at `QUANTILES` for each view, phase and measure."""
  values = collections.defaultdict(list)
  for clip in clips:
    for (phase, name), value in measure_clip(clip).items():
      if np.isfinite(value):
        values[clip.view, phase, name].append(value)
  return {name: np.percentile(v, QUANTILES) for name, v in values.items()}


def phantom_clips(num_patients: int, seed: int, config: PhantomConfig) -> Iterator[Clip]:
  """Generates both views of synthetic patients."""
  for index in range(1, num_patients + 1):
    yield from generate_patient(seed, index, config).clips.values()


def distance(real: np.ndarray, other: np.ndarray) -> float:
  """Returns how far two distributions are apart, in standard deviations of the real one.

  The mean difference of the `QUANTILES`, an estimate of the 1-Wasserstein distance, over the real
  distance from the 10th to the 90th percentile as that of a normal.
  """
  spread = (real[QUANTILES.index(90)] - real[QUANTILES.index(10)]) / _NORMAL_SPREAD
  return float(np.abs(real - other).mean() / max(spread, 1e-9))


def write_quantiles(path, found: Quantiles, source: str) -> None:
  """Writes what `summarize` returned as JSON; `source` says what was measured."""
  rows = {'|'.join(name): [float(f'{v:.4g}') for v in values] for name, values in found.items()}
  with open(path, 'w', encoding='utf-8') as file:
    lines = ',\n'.join(f'    {json.dumps(k)}: {json.dumps(v)}' for k, v in sorted(rows.items()))
    source, levels = json.dumps(source), json.dumps(QUANTILES)
    file.write(
      f'{{\n  "source": {source},\n  "quantiles": {levels},\n  "rows": {{\n{lines}\n  }}\n}}\n'
    )


def real_quantiles() -> tuple[Quantiles, str]:
  """Returns the shipped figures of real frames, and what they were measured on."""
  text = importlib.resources.files(__package__).joinpath('camus_frames.json').read_text('utf-8')
  data = json.loads(text)
  return {tuple(k.split('|')): np.array(v) for k, v in data['rows'].items()}, data['source']


def _cell(values: np.ndarray) -> str:
  low, middle, high = (values[QUANTILES.index(q)] for q in (10, 50, 90))
  return f'{middle:.3g} ({low:.3g} to {high:.3g})'


def format_table(real: Mapping[Name, np.ndarray], other: Mapping[Name, np.ndarray]) -> str:
  """Formats medians (10th to 90th percentile) side by side, with distances and their mean.

  A star marks a distance of 0.6 or more.
  """
  header = f'{"measure":<30}{"real":<28}{"phantom":<28}distance'
  lines, far = [], []
  for view in sorted({name[0] for name in real}, reverse=True):
    for phase in ('ED', 'ES', 'pair', 'clip'):
      names = [n for n in real if n[:2] == (view, phase) and n in other]
      if names:
        lines += ['', f'{view}, {phase}', header]
      for name in names:
        far.append(distance(real[name], other[name]))
        mark = ' *' if far[-1] >= _FAR else ''
        row = f'{name[2]:<30}{_cell(real[name]):<28}{_cell(other[name]):<28}{far[-1]:.2f}{mark}'
        lines.append(row)
  sequences = {name[2]: values for name, values in other.items() if name[1] == 'clip'}
  if sequences and not any(name[1] == 'clip' for name in real):
    lines += ['', 'clips at native size', f'{"measure":<30}{"real median":<28}phantom']
    lines += [f'{n:<30}{SEQUENCES[n]:<28g}{_cell(v)}' for n, v in sequences.items()]
  if far:
    lines += ['', f'mean distance {np.mean(far):.2f}, {len(far)} rows']
  return '\n'.join(lines).lstrip('\n')
