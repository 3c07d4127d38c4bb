"""What every reader returns, and the checks they share."""

import dataclasses
import math
import pathlib

import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.formats.color import ColorSeen

# 2,000 frames of 1024x1280 are 2.4 GiB of gray levels.
MAX_BYTES = 4 * 2**30
MIN_SIDE, MAX_SIDE = 16, 4096
UNKNOWN_SPACING = (math.nan, math.nan)
# An ultrasound pixel is 0.1 to 0.8 mm, and a heart clip 20 to 150 frames per second: what lies far
# outside is a wrong unit, not a measurement.
SPACING_RANGE, FPS_RANGE = (0.01, 5.0), (1.0, 1000.0)


@dataclasses.dataclass(frozen=True)
class RawClip:
  """A clip as it lies in its file, before anything is cropped or scaled."""

  frames: np.ndarray  # uint8 [T, H, W] gray levels, native size; T is 1 for a still.
  spacing_mm: tuple[float, float] = UNKNOWN_SPACING  # Per pixel (row, column); NaN where unknown.
  fps: float = math.nan
  # (top, left, bottom, right), half open, of the image area, if the file names one.
  region: tuple[int, int, int, int] | None = None
  notes: tuple[str, ...] = ()  # What the reader found or decided, one sentence each.
  flags: tuple[str, ...] = ()  # What a user should know (see `measurement.FLAGS`).
  color: ColorSeen | None = None  # None where the file cannot hold any.


def checked_size(path: pathlib.Path, frames: int, height: int, width: int) -> None:
  """Refuses what is no clip by its size, before its pixels (or more frames) are read."""
  if frames < 1:
    raise InputError(f'{path}: found no frame; wanted a clip: export it again')
  if not (MIN_SIDE <= min(height, width) and max(height, width) <= MAX_SIDE):
    raise InputError(
      f'{path}: found frames of {height}x{width}; wanted sides of {MIN_SIDE} to {MAX_SIDE} pixels: '
      'export the clip at its own size'
    )
  size = frames * height * width
  if size > MAX_BYTES:
    raise InputError(
      f'{path}: found {frames} frames of {height}x{width}, {size / 2**30:.1f} GiB of gray levels; '
      f'wanted at most {MAX_BYTES / 2**30:.0f} GiB: cut the clip into shorter ones'
    )


def to_gray(path: pathlib.Path, array: np.ndarray) -> tuple[np.ndarray, ColorSeen | None]:
  """Converts an array of a known or safely guessed range to gray levels uint8 [T, H, W].

  Args:
    path: names the file in the message.
    array: [T, H, W], [T, H, W, 1], [T, H, W, 3 or 4] or one frame [H, W] or [H, W, 3 or 4]: bool,
      integers in 0..255, or floats in [0, 1] or [0, 255].

  Returns:
    The frames, and the color seen (None if the array is gray).
  """
  found = list(array.shape)
  if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4)):
    array = array[None]
  if array.ndim == 3:
    array = array[..., None]
  if array.ndim != 4 or array.shape[-1] not in (1, 3, 4):
    raise InputError(
      f'{path}: found an array of shape {found}; wanted [T, H, W] gray or [T, H, W, 3] color '
      'frames: save it in that order'
    )
  checked_size(path, *array.shape[:3])
  scale = _scale(path, array)
  if array.dtype == np.uint8 and array.shape[-1] == 1:
    gray = array[..., 0]
    # What is only mapped from its file is read now.
    return (np.array(gray) if isinstance(gray, np.memmap) else np.ascontiguousarray(gray)), None
  gray = np.empty(array.shape[:3], np.uint8)
  color = ColorSeen(gray.shape[1:]) if array.shape[-1] > 1 else None
  for index, frame in enumerate(array):  # One frame's floats at a time.
    if array.dtype != np.uint8:
      frame = np.rint(frame.astype(np.float32) * scale).astype(np.uint8)
    gray[index] = frame[..., 0] if color is None else luma(frame)
    if color is not None and color.wants(index):
      color.add(frame[..., :3])
  return gray, color


def _scale(path: pathlib.Path, array: np.ndarray) -> float:
  """Returns what brings the values to 0..255, or refuses them."""
  kind = array.dtype.kind
  if kind not in 'buif':
    raise InputError(
      f'{path}: found values of type {array.dtype}; wanted gray levels: save them as uint8'
    )
  if array.dtype == np.uint8:
    return 1.0
  if kind == 'f':
    wrong = sum(int((~np.isfinite(frame)).sum()) for frame in array)
    if wrong:
      raise InputError(
        f'{path}: found {wrong} values that are not finite numbers; wanted gray levels 0..255: '
        'save them as uint8'
      )
  low, high = float(array.min()), float(array.max())
  if low < 0 or high > 255:
    raise InputError(
      f'{path}: found values from {low:g} to {high:g}; wanted gray levels 0..255 (or floats in '
      '[0, 1]): rescale the clip first'
    )
  return 255.0 if kind in 'bf' and high <= 1 else 1.0


def luma(color: np.ndarray) -> np.ndarray:
  """Returns the Rec. 601 luma uint8 [H, W] of one frame [H, W, 3 or 4]."""
  weights = np.asarray([0.299, 0.587, 0.114], np.float32)
  return np.rint(color[..., :3].astype(np.float32) @ weights).astype(np.uint8)


def known(value) -> float:
  """Returns a positive finite number; NaN for all else."""
  try:
    number = float(value)
  except (TypeError, ValueError):
    return math.nan
  return number if 0 < number < math.inf else math.nan


def plausible(clip: RawClip) -> RawClip:
  """Takes an impossible spacing or frame rate for unknown, and says so."""
  changes, notes, flags = {}, [], []
  if any(not low_high(s, SPACING_RANGE) for s in clip.spacing_mm):
    changes['spacing_mm'] = UNKNOWN_SPACING
    flags.append('spacing_implausible')
    row, column = clip.spacing_mm
    notes.append(f'the file states {row:g} x {column:g} mm a pixel: taken as unknown')
  if not low_high(clip.fps, FPS_RANGE):
    changes['fps'] = math.nan
    flags.append('fps_implausible')
    notes.append(f'the file states {clip.fps:g} frames a second: taken as unknown')
  if math.isnan(sum(changes.get('spacing_mm', clip.spacing_mm))):
    changes['spacing_mm'] = UNKNOWN_SPACING  # One of two is of no use.
  notes, flags = (*clip.notes, *notes), (*clip.flags, *flags)
  return dataclasses.replace(clip, **changes, notes=notes, flags=flags)


def low_high(value: float, limits: tuple[float, float]) -> bool:
  """Returns True if a value is unknown (NaN) or within limits."""
  return math.isnan(value) or limits[0] <= value <= limits[1]
