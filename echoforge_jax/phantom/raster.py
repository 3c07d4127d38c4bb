"""Polygons to masks and beam-space images to native frames (NumPy, OpenCV)."""

import cv2
import numpy as np

# In-plane spacing of CAMUS files, mm per pixel.
SPACING = 0.308


def fill(polygon, height, width) -> np.ndarray:
  """Returns bool [height, width]: pixels whose centre lies inside a polygon.

  `polygon`: float [N, 2] (x, y) in pixels; pixel (row, column) has its centre at (column, row).
  OpenCV's fill also takes the pixels that the outline touches, about one percent of volume.
  """
  polygon = np.asarray(polygon, np.float64)
  x0, y0 = polygon[:, 0], polygon[:, 1]
  x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
  low = np.ceil(np.minimum(y0, y1)).astype(int)
  high = np.ceil(np.maximum(y0, y1)).astype(int)  # exclusive
  low, high = np.clip(low, 0, height), np.clip(high, 0, height)
  count = np.maximum(high - low, 0)
  edge = np.repeat(np.arange(len(polygon)), count)
  first = np.repeat(np.cumsum(count) - count, count)
  row = np.arange(len(edge)) - first + low[edge]
  slope = (x1 - x0)[edge] / (y1 - y0)[edge]
  cross = x0[edge] + (row - y0[edge]) * slope
  column = np.clip(np.ceil(cross), 0, width).astype(int)
  flips = np.zeros((height, width + 1), np.int32)
  np.add.at(flips, (row, column), 1)
  return (np.cumsum(flips, 1)[:, :width] & 1).astype(bool)


def native_size(depth, half) -> tuple[int, int]:
  """Returns a native frame (H, W), from depth in mm and half angle in rad."""
  height = int(round(depth / SPACING))
  return height, int(round(2.0 * height * np.sin(half)))


class ScanConverter:
  """Beam space to native pixels; the maps are made once per clip."""

  def __init__(self, depth, half, grid, size):
    """Prepares the maps for a sector of `depth` mm and half angle `half` rad.

    `grid`: (rows, lines) of the beam image; `size`: (H, W) of the native frame.
    """
    height, width = size
    self.mm = depth / height
    x = (np.arange(width) + 0.5 - width / 2.0) * self.mm
    y = (np.arange(height) + 0.5) * self.mm
    radius = np.hypot(x[None], y[:, None])
    angle = np.arctan2(x[None], y[:, None])
    self.inside = (radius < depth) & (np.abs(angle) < half)
    row = radius / depth * grid[0] - 0.5
    line = (angle / half + 1.0) * (0.5 * grid[1]) - 0.5
    self._maps = cv2.convertMaps(line.astype(np.float32), row.astype(np.float32), cv2.CV_16SC2)

  def __call__(self, gray) -> np.ndarray:
    """Returns uint8 [H, W] for a beam image uint8 [rows, lines]."""
    image = cv2.remap(gray, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    image[~self.inside] = 0
    return image

  def pixels(self, world) -> np.ndarray:
    """Maps the sector frame [..., 2] in mm to pixel coordinates (x, y)."""
    width = self.inside.shape[1]
    return np.asarray(world) / self.mm + np.array([width / 2.0 - 0.5, -0.5])


def label_image(converter, endo, epi, atrium) -> np.ndarray:
  """Returns uint8 [H, W] label values of a native frame; 0 outside the sector.

  `endo`, `epi`, `atrium`: float [N, 2] outlines in the sector frame, mm.
  """
  size = converter.inside.shape
  out = np.zeros(size, np.uint8)
  for outline, label in ((atrium, 3), (epi, 2), (endo, 1)):
    out[fill(converter.pixels(outline), *size)] = label
  out[~converter.inside] = 0
  return out
