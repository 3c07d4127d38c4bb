"""Finds the ultrasound sector in a frame full of text, rulers and borders.

The networks are trained on crops whose apex sits at the top center and whose sides touch the
sector. What moves is ultrasound, what stands still is text, so the sector is the convex hull of
what varies in time; a circular sector is fitted to it, because dark edges move too little (ours).
"""

import dataclasses
import math

import cv2
import numpy as np
from scipy import optimize

# Search at this height at most; the found sector is scaled back.
_WORKING_SIZE = 192
# A box that reaches the image's borders this closely is the whole image: it is then a crop already,
# as CAMUS and EchoNet distribute them.
_BORDER_SHARE = 0.06
# Overlap of hull and fitted sector from which the shape is a sector at all, and from which the hull
# needs no completion.
_MIN_FIT, _FULL_FIT = 0.8, 0.93
_MAX_FRAMES = 64
# Clips of at most this side are crops of a dataset.
_SMALL = 160
# Shares of the image: of a piece of a torn sector, and of all of it, at least.
_PIECE, _LEAST = 0.004, 0.04
# Where the middle half of a pixel's values spans less than this many standard deviations it is lit
# by a passing trace, if it changes by more than noise.
_MIN_HALF, _MIN_TRACE = 0.3, 4.0
# The depth that nine of ten CAMUS clips stay under is 170 mm.
MAX_DEPTH_MM = 180.0


@dataclasses.dataclass(frozen=True)
class Sector:
  """Where the ultrasound lies in the native image, as half-open (top, left, bottom, right)."""

  # The crop the network sees; it may exceed the image: what lies outside is black.
  box: tuple[int, int, int, int]
  extent: tuple[int, int, int, int]  # What was seen to move (or to be lit), inside the image.
  inside: np.ndarray | None  # bool [H, W], False where text is blanked; None to blank nothing.
  found: bool  # False if no sector was seen, and the whole image is taken.
  fit: float = math.nan  # Intersection over union of hull and fitted sector.
  doubted: bool = False  # A shape was seen, but the whole image is taken.

  def crop(self, frame: np.ndarray) -> np.ndarray:
    """Returns the box of a frame uint8 [H, W], black outside the sector."""
    if self.inside is not None:
      frame = np.where(self.inside, frame, 0).astype(frame.dtype)
    inner, native = self._slices(frame.shape)
    out = np.zeros((self.box[2] - self.box[0], self.box[3] - self.box[1]), frame.dtype)
    out[inner] = frame[native]
    return out

  def paste(self, cropped: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Inverts `crop`: [h, w] of the box -> `shape` [H, W], zero elsewhere."""
    inner, native = self._slices(shape)
    out = np.zeros(shape, cropped.dtype)
    out[native] = cropped[inner]
    return out

  def _slices(self, shape: tuple[int, int]):
    """Returns the slices of the box's crop, and of the image, where both overlap."""
    top, left, bottom, right = self.box
    native = np.s_[max(top, 0) : min(bottom, shape[0]), max(left, 0) : min(right, shape[1])]
    inner = tuple(slice(s.start - start, s.stop - start) for s, start in zip(native, (top, left)))
    return inner, native


def whole_image(shape: tuple[int, int], found: bool = True) -> Sector:
  """Returns the sector that is the whole image of `shape` (H, W)."""
  box = (0, 0, *shape)
  return Sector(box, box, None, found)


def limit_depth(sector: Sector, row_mm: float) -> Sector:
  """Narrows a deep view to what a depth of `MAX_DEPTH_MM` from the top of the box would have shown.

  The box keeps its proportions and its middle. `row_mm` is mm per row; NaN, as a sector that is no
  deeper, leaves the sector as it is.
  """
  top, left, bottom, right = sector.box
  if not (bottom - top) * row_mm > MAX_DEPTH_MM:
    return sector
  keep = MAX_DEPTH_MM / ((bottom - top) * row_mm)
  center, half = (left + right) / 2, keep * (right - left) / 2
  bottom = top + round(keep * (bottom - top))
  box = (top, math.floor(center - half), bottom, math.ceil(center + half))
  return dataclasses.replace(sector, box=box)


def find_sector(frames: np.ndarray, region: tuple[int, int, int, int] | None = None) -> Sector:
  """Finds the sector of a clip; the whole image (`found` False) if nothing is seen.

  Args:
    frames: uint8 [T, H, W]; with fewer than four differing frames, light stands in for motion.
    region: (top, left, bottom, right) to look within, or None.
  """
  shape = frames.shape[1:]
  top, left, bottom, right = _clipped(region or (0, 0, *shape), shape)
  step = max(1, frames.shape[0] // _MAX_FRAMES)
  window = frames[::step, top:bottom, left:right]
  scale = min(1.0, _WORKING_SIZE / max(window.shape[1:]))
  active = _activity(window, scale)
  hulls = _hulls(active)
  if not hulls:
    return whole_image(shape, found=False)
  # Blood as black as the border tears the sector into pieces: all of them are taken together where
  # that looks more like a sector.
  hull, fitted, fit = max(((hull, *_fit(hull)) for hull in hulls), key=lambda found: found[-1])
  if fit < _FULL_FIT and region is None and _is_crop(active, hull, shape):
    return dataclasses.replace(whole_image(shape), fit=fit, doubted=True)
  pixels = hull
  if _MIN_FIT <= fit < _FULL_FIT:  # Dark edges: the fit completes the hull.
    pixels = fitted | hull
    pixels[: _bounds(hull)[0]] = False  # Curved probes: no image at the apex.

  native = (top, left, (bottom - top) / hull.shape[0], (right - left) / hull.shape[1])
  extent = _clipped(_native_box(_bounds(hull), *native), shape)
  box = _native_box(_bounds(pixels), *native)
  return _finish(box, extent, pixels, shape, (top, left, bottom, right), fit)


def _activity(window: np.ndarray, scale: float) -> np.ndarray:
  """Returns uint8 {0, 1} [h, w]: what moves, or what is lit in a still clip."""
  size = (max(8, round(window.shape[2] * scale)), max(8, round(window.shape[1] * scale)))
  small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in window]
  small = np.stack(small).astype(np.float32)
  spread = small.std(axis=0)
  # Borders of a clean clip stand still exactly; a lossy codec lets them flicker, which the quietest
  # pixels show.
  flicker, strong = np.quantile(spread, [0.05, 0.995])
  moving = spread > max(0.3, min(3 * flicker, 0.1 * strong))
  # The middle half of speckle's values spans more than its deviation; an ECG trace lights a pixel
  # in few frames, or leaves it in few.
  low, high = np.percentile(small, [25, 75], axis=0)
  moving &= (high - low > _MIN_HALF * spread) | (spread < _MIN_TRACE)
  if len(window) >= 4 and moving.mean() > 0.02:
    return moving.astype(np.uint8)
  light = small.max(axis=0)
  return (light > 1.0 + np.quantile(light, 0.05)).astype(np.uint8)


def _hulls(active: np.ndarray) -> list[np.ndarray]:
  """Returns convex hulls bool [h, w] of the largest component, and of all large ones, if any."""
  joined = active
  for operation, n in ((cv2.MORPH_OPEN, 3), (cv2.MORPH_CLOSE, 5), (cv2.MORPH_OPEN, 7)):
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (n, n))
    joined = cv2.morphologyEx(joined, operation, kernel)
  count, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
  if count < 2:
    return []
  areas = stats[:, cv2.CC_STAT_AREA].astype(float) / active.size
  areas[0] = 0  # The background.
  groups = [[int(areas.argmax())], np.flatnonzero(areas >= _PIECE).tolist()]
  hulls = []
  for group in groups[: 1 + (len(groups[1]) > 1)]:
    if areas[group].sum() < _LEAST:
      continue
    points = np.argwhere(np.isin(labels, group))[:, ::-1].astype(np.int32)
    hull = np.zeros(active.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    hulls.append(hull.astype(bool))
  return hulls


def _is_crop(active: np.ndarray, hull: np.ndarray, shape: tuple[int, int]) -> bool:
  """Returns True if an image is a crop already, whatever sector was seen in it.

  Datasets distribute small images (EchoNet: 112 x 112), or larger ones without text around a sector
  that fills them (CAMUS). Networks know both as a whole.
  """
  if max(shape) <= _SMALL:
    return True
  top, left, bottom, right = _bounds(hull)
  near = cv2.dilate(hull.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
  outside = (active > 0) & ~near
  return outside.sum() < 0.01 * active.sum() and (bottom - top) * (right - left) > 0.5 * hull.size


def sector_pixels(shape, apex, radius, angles) -> np.ndarray:
  """Returns a circular sector as bool [h, w].

  `apex` is (row, column), `radius` in pixels, and `angles` (left, right) from straight down in
  radians, positive outwards.
  """
  rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
  down, across = rows - apex[0], columns - apex[1]
  angle = np.arctan2(across, down)
  within = (angle >= -angles[0]) & (angle <= angles[1]) & (down >= 0)
  return within & (np.hypot(down, across) <= radius)


def _fit(hull: np.ndarray) -> tuple[np.ndarray, float]:
  """Returns the upright symmetric sector of a hull, and their overlap.

  What the sector adds to the hull costs a third of what it leaves out: a shadow at one side hides
  image, but nothing adds any.
  """
  top, left, bottom, right = _bounds(hull)
  rows, columns = np.mgrid[: hull.shape[0], : hull.shape[1]].astype(np.float32)
  total = float(hull.sum())

  def soft_sector(parameters):
    # A boundary one pixel wide makes the areas smooth in the parameters.
    row, column, radius, half_angle = parameters
    down, across = rows - row, np.abs(columns - column)
    distance = np.hypot(down, across)
    to_side = distance * (half_angle - np.arctan2(across, down))
    return np.clip(np.minimum(radius - distance, to_side) + 0.5, 0, 1)

  def loss(parameters):
    soft = soft_sector(parameters)
    both = float(np.minimum(soft, hull).sum())
    return (total - both + (float(soft.sum()) - both) / 3) / total

  start = np.asarray([top, np.flatnonzero(hull[top]).mean(), bottom - top, 0.7])
  steps = np.diag([0.1 * (bottom - top), 0.1 * (right - left), 0.1 * (bottom - top), -0.15])
  simplex = [start, *(start + steps)]
  options = {'maxfev': 400, 'xatol': 0.05, 'fatol': 1e-4, 'initial_simplex': simplex}
  result = optimize.minimize(loss, start, method='Nelder-Mead', options=options)
  row, column, radius, half_angle = result.x
  if not (0.2 < half_angle < 1.2 and radius > 0.5 * (bottom - top)):
    return hull, 0.0
  fitted = sector_pixels(hull.shape, (row, column), radius, (half_angle, half_angle))
  return fitted, float((fitted & hull).sum() / (fitted | hull).sum())


def _finish(box, extent, pixels, shape, window, fit) -> Sector:
  """Snaps a box that fills the image, and builds the blanking mask."""
  height, width = shape
  margin = (_BORDER_SHARE * height, _BORDER_SHARE * width)
  gaps = (box[0], box[1], height - box[2], width - box[3])
  if max(gaps[0], gaps[2]) <= margin[0] and max(gaps[1], gaps[3]) <= margin[1]:
    return Sector((0, 0, height, width), extent, None, True, fit)
  top, left, bottom, right = window
  size = (right - left, bottom - top)
  native = cv2.resize(pixels.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)
  grow = 1 + 2 * max(1, round(0.008 * max(native.shape)))
  native = cv2.dilate(native, np.ones((grow, grow), np.uint8))
  inside = np.zeros(shape, bool)
  inside[top:bottom, left:right] = native > 0
  return Sector(box, extent, inside, True, fit)


def _bounds(pixels: np.ndarray) -> tuple[int, int, int, int]:
  rows = np.flatnonzero(pixels.any(axis=1))
  columns = np.flatnonzero(pixels.any(axis=0))
  return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


def _native_box(box, top, left, row_scale, column_scale):
  return (
    top + math.floor(box[0] * row_scale),
    left + math.floor(box[1] * column_scale),
    top + math.ceil(box[2] * row_scale),
    left + math.ceil(box[3] * column_scale),
  )


def _clipped(box, shape) -> tuple[int, int, int, int]:
  return max(0, box[0]), max(0, box[1]), min(box[2], shape[0]), min(box[3], shape[1])
