"""Clips of any size squeezed to a square grid, and what that does to mm."""

import cv2
import numpy as np


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes [H, W]: area average where it shrinks, linear where it grows."""
  rows, cols = image.shape
  shrunk = (min(cols, width), min(rows, height))
  if shrunk != (cols, rows):
    image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
  if shrunk != (width, height):
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
  return image


def squeeze_frames(frames: np.ndarray, size: int) -> np.ndarray:
  """Squeezes frames uint8 [T, H, W] to [T, S, S], ignoring the aspect ratio.

  Each axis that shrinks is averaged over the area of the new pixel (no aliasing of speckle); each
  axis that grows is interpolated linearly.
  """
  if frames.shape[1:] == (size, size):
    return frames.copy()
  return np.stack([_resize(frame, size, size) for frame in frames])


def squeeze_masks(masks: np.ndarray, size: int) -> np.ndarray:
  """Squeezes labels uint8 [T, H, W] to [T, S, S], see `resize_masks`."""
  return resize_masks(masks, (size, size))


def resize_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes labels uint8 [T, H, W] to `size` (rows, columns): the most covering label wins.

  Nearest-neighbor sampling looks at one native pixel only; the majority of the covered area keeps
  the area of every label unbiased (ours).
  """
  if masks.shape[1:] == size:
    return masks.copy()
  squeezed = np.zeros((len(masks), *size), np.uint8)
  for mask, out in zip(masks, squeezed):
    labels = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))  # Faster than np.unique.
    best = np.zeros(size, np.uint8)
    for label in labels:
      cover = _resize(np.where(mask == label, np.uint8(255), np.uint8(0)), *size)
      wins = cover > best
      out[wins] = label
      best[wins] = cover[wins]
  return squeezed


def squeezed_spacing(spacing_mm: np.ndarray, native_size: tuple[int, int], size: int) -> np.ndarray:
  """Returns the pixel spacing after squeezing (H, W) to a square of side S.

  The field of view keeps its millimeters: float32 [2] (row * H / S, column * W / S); NaN stays NaN.

  """
  scale = np.asarray(native_size, np.float64) / size
  return (np.asarray(spacing_mm, np.float64) * scale).astype(np.float32)
