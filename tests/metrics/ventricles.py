"""A left ventricle with a known volume."""

import math

import numpy as np


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
  return (
    math.pi
    * r2
    * r4
    * (2 * above / 3 + below - below**3 / (3 * above**2))
    / 1000
  )
