"""Color in a clip: flow (color Doppler) or just a tint?

The networks have seen gray images only. A tinted gray scale is harmless: its color depends on
brightness alone, and luma brings the gray back. Color Doppler paints over the gray image, and is
refused (thresholds ours).
"""

import cv2
import numpy as np

# Largest minus smallest channel, 0..255, of a saturated and of a gray pixel; and the brightness at
# which the two are compared.
_SATURATED, _GRAY, _BRIGHTNESS = 70, 25, (40, 160)
# Share of the sector that must be painted, and that must stay gray beside it.
_MIN_PAINTED, _MIN_GRAY = 0.015, 0.01
# Every frame of a short clip, every eighth of a long one.
_ALL_UNTIL, _STEP = 32, 8


class ColorSeen:
  """Which pixels were ever saturated, or lit and gray, in a clip."""

  def __init__(self, shape: tuple[int, int]):
    # bool [H, W] each: red or yellow somewhere in time, in areas (thin lines, as an ECG trace or
    # text, do not count); the same for blue, cyan and green; gray and as bright as flow colors are.
    self.warm, self.cold, self.gray = (np.zeros(shape, bool) for _ in range(3))
    # A line is up to 1/120 of the image thick.
    side = 1 + 2 * max(1, round(min(shape) / 200))
    self._kernel = np.ones((side, side), np.uint8)

  @staticmethod
  def wants(index: int) -> bool:
    """Returns True if the frame of this index should be added."""
    return index < _ALL_UNTIL or index % _STEP == 0

  def add(self, frame: np.ndarray) -> None:
    """Looks at one more frame uint8 [H, W, 3] RGB."""
    red, _, blue = (frame[..., k].astype(np.int16) for k in range(3))
    high, low = frame.max(axis=-1), frame.min(axis=-1)
    spread = high - low
    saturated = (spread >= _SATURATED).astype(np.uint8)
    saturated = cv2.morphologyEx(saturated, cv2.MORPH_OPEN, self._kernel).astype(bool)
    is_warm = (red >= blue) & (frame[..., 0] == high)
    self.warm |= saturated & is_warm
    self.cold |= saturated & ~is_warm
    self.gray |= (spread < _GRAY) & (high >= _BRIGHTNESS[0]) & (high <= _BRIGHTNESS[1])


def painted_share(color: ColorSeen | None, inside: np.ndarray) -> float:
  """Returns the share of the sector that color Doppler paints over the gray.

  It lies in 0..1, and is 0 where the color is a tint of the gray scale.

  Args:
    color: what was seen; None for a gray file.
    inside: bool [H, W], the sector.
  """
  if color is None:
    return 0.0
  total = max(int(inside.sum()), 1)
  warm, cold, gray, painted = (
    float((seen & inside).sum()) / total
    for seen in (color.warm, color.cold, color.gray, color.warm | color.cold)
  )
  is_flow = gray >= _MIN_GRAY or min(warm, cold) >= _MIN_PAINTED
  return painted if painted >= _MIN_PAINTED and is_flow else 0.0
