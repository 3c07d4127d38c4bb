"""What every reader returns, and the checks they share."""

import dataclasses
import math
import pathlib

import numpy as np

from echoforge_jax.errors import InputError

# Decoded frames beyond this do not fit a workstation's memory comfortably.
MAX_BYTES = 4 * 2**30
UNKNOWN_SPACING = (math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class RawClip:
  """A clip as it lies in its file, before anything is cropped or scaled.

  Attributes:
    frames: uint8 [T, H, W] gray levels, native size, T >= 2.
    spacing_mm: mm per pixel (row, column); NaN where unknown.
    fps: frames per second; NaN where unknown.
    region: (top, left, bottom, right) pixel bounds (half open) of the image
      area named by the file, or None where the file names none.
    notes: what the reader found or decided, one sentence each.
    flags: codes of what a user should know (see `cycle.FLAGS`).
  """
  frames: np.ndarray
  spacing_mm: tuple[float, float] = UNKNOWN_SPACING
  fps: float = math.nan
  region: tuple[int, int, int, int] | None = None
  notes: tuple[str, ...] = ()
  flags: tuple[str, ...] = ()


def checked_size(path: pathlib.Path, frames: int, height: int, width: int,
                 channels: int = 1) -> None:
  """Refuses clips without motion or too large for memory.

  Args:
    path: names the file in the message.
    frames: number of frames, or of frames decoded so far.
    height: rows.
    width: columns.
    channels: bytes a pixel while decoding.

  Raises:
    InputError: fewer than two frames, an image under 16 pixels, or more than
      `MAX_BYTES` decoded.
  """
  if frames < 2:
    raise InputError(
        f'{path}: found {frames} frame{"" if frames == 1 else "s"}; wanted a '
        'clip of at least 2 frames (a still image has no cardiac cycle)')
  if min(height, width) < 16:
    raise InputError(
        f'{path}: found frames of {height}x{width}; wanted at least 16x16')
  size = frames * height * width * channels
  if size > MAX_BYTES:
    raise InputError(
        f'{path}: {frames} frames of {height}x{width} take '
        f'{size / 2**30:.1f} GiB decoded; wanted at most '
        f'{MAX_BYTES / 2**30:.0f} GiB: cut the clip into shorter ones')


def to_gray(path: pathlib.Path, array: np.ndarray) -> np.ndarray:
  """Gray levels 0..255 from an array of a known or safely guessed range.

  Args:
    path: names the file in the message.
    array: [T, H, W], [T, H, W, 1] or [T, H, W, 3]: bool, integers in 0..255,
      or floats in [0, 1] or [0, 255].

  Returns:
    uint8 [T, H, W].

  Raises:
    InputError: other shapes, not-a-number values or other ranges.
  """
  if array.ndim == 4 and array.shape[-1] in (1, 3, 4):
    array = array[..., 0] if array.shape[-1] == 1 else luma(array)
  if array.ndim != 3:
    raise InputError(
        f'{path}: found an array of shape {list(array.shape)}; wanted '
        '[T, H, W] gray or [T, H, W, 3] color frames')
  checked_size(path, *array.shape, channels=array.dtype.itemsize)
  if array.dtype == np.uint8:
    return np.ascontiguousarray(array)
  if array.dtype.kind not in 'buif':
    raise InputError(f'{path}: found values of type {array.dtype}; wanted '
                     'uint8 gray levels')
  if array.dtype.kind == 'f' and not np.isfinite(array).all():
    raise InputError(
        f'{path}: found {int((~np.isfinite(array)).sum())} values that are '
        'not finite numbers; wanted gray levels 0..255')
  low, high = float(array.min()), float(array.max())
  if low < 0 or high > 255:
    raise InputError(
        f'{path}: found values from {low:g} to {high:g}; wanted gray levels '
        '0..255 (or floats in [0, 1]): rescale the clip first')
  is_unit = array.dtype.kind in 'bf' and high <= 1
  scaled = array.astype(np.float32) * (255.0 if is_unit else 1.0)
  return np.rint(scaled).astype(np.uint8)


def luma(color: np.ndarray) -> np.ndarray:
  """Rec. 601 luma of [..., 3 or 4] RGB(A); same range and type as given."""
  weights = np.asarray([0.299, 0.587, 0.114], np.float32)
  gray = np.empty(color.shape[:-1], color.dtype)
  for index, frame in enumerate(color):  # One frame's floats at a time.
    value = frame[..., :3].astype(np.float32) @ weights
    gray[index] = np.rint(value) if color.dtype.kind in 'ui' else value
  return gray


def known(value) -> float:
  """A positive finite number, or NaN for everything else (None, '', 0)."""
  try:
    number = float(value)
  except (TypeError, ValueError):
    return math.nan
  return number if math.isfinite(number) and number > 0 else math.nan
