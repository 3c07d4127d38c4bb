"""Ventricles by formula: truncated ellipses, and cases made of them."""

import math

import numpy as np

from echoforge_jax.evaluation.scoring import Case


def ventricle(
  size,
  spacing,
  *,
  radius,
  apex=30.0,
  above=48.0,
  below=25.0,
  centre=70.0,
  tilt=0.0,
  shift=(0.0, 0.0),
):
  """A truncated ellipse, apex up: bool [size, size].

  The outline reaches `above` mm over its widest place and is cut straight
  `below` mm under it.
  """
  rows, columns = np.mgrid[:size, :size].astype(np.float64)
  y = (rows + shift[0]) * spacing[0] - apex - above
  x = (columns + shift[1]) * spacing[1] - centre
  cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
  x, y = x * cos - y * sin, y * cos + x * sin
  return ((x / radius) ** 2 + (y / above) ** 2 <= 1) & (y <= below)


def ventricle_volume(r2, r4, above=48.0, below=25.0):
  """Its exact volume in ml with half-widths r2 and r4 in the two views."""
  height = 2 * above / 3 + below - below**3 / (3 * above**2)
  return math.pi * r2 * r4 * height / 1000


def make_cases(count=3, *, size=64, frames=4, predict=np.array, **overrides):
  """Cases of two views a patient; the ventricle shrinks from ED to ES."""
  cases = []
  spacing = np.array([140 / size, 150 / size])
  for k in range(count):
    for view, factor in (('2CH', 1.0), ('4CH', 0.95)):
      shrink = (0.12 + 0.05 * k) / (frames - 1)
      masks = np.stack(
        [
          ventricle(size, spacing, radius=(26 - k) * factor * (1 - shrink * t))
          for t in range(frames)
        ]
      ).astype(np.uint8)
      fields = {
        'patient': f'patient{k + 1:04d}',
        'view': view,
        'truth': masks,
        'prediction': np.array(predict(masks)),
        'spacing_mm': spacing,
        'frames': np.where(masks == 1, 30, 120).astype(np.uint8),
        'native_size': (500, 560),
        'quality': ('Good', 'Poor')[k % 2],
        'fps': 50.0,
      }
      cases.append(Case(**fields | overrides))
  return cases
