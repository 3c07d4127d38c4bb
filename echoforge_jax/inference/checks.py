"""Looks at what a clip shows before it is segmented: refuses or flags it."""

import pathlib

import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.formats.color import painted_share
from echoforge_jax.formats.raw_clip import RawClip
from echoforge_jax.formats.sector import Sector

# Below this overlap of what moves and the best sector it is another shape.
_MIN_FIT = 0.8
# Gray levels (5 % to 95 %) that a sector spans at least; real clips span 80.
_MIN_SPAN = 12
_BRIGHT = 128
_FRAMES = 16  # Looked at, spread over the clip.


def check_content(path: pathlib.Path, clip: RawClip, sector: Sector) -> tuple[str, ...]:
  """Returns codes of `measurement.FLAGS`; refuses color Doppler and empty clips."""
  chosen = np.linspace(0, len(clip.frames) - 1, _FRAMES).round().astype(int)
  frames = clip.frames[np.unique(chosen)]
  low, high = int(clip.frames.min()), int(clip.frames.max())
  if low == high:
    raise InputError(
      f'{path}: every pixel has the gray level {low}; wanted an ultrasound clip: export it again'
    )
  inside = _inside(sector, frames.shape[1:])
  painted = painted_share(clip.color, inside)
  if painted:
    raise InputError(
      f'{path}: found color Doppler over {100 * painted:.0f} % of the sector; wanted a gray-scale '
      '(B-mode) clip: export the one without color'
    )
  flags = []
  # Crops, as datasets distribute them, may cut the sector's sides.
  if sector.fit < _MIN_FIT and (sector.inside is not None or sector.doubted):
    flags.append('not_a_sector')
  dark, light = np.percentile(frames[:, inside], [5, 95])
  if light - dark < _MIN_SPAN:
    flags.append('low_contrast')
  around = frames[:, ~inside]
  if around.size > 0.05 * frames.size and np.median(around) >= _BRIGHT:
    flags.append('bright_background')
  return tuple(flags)


def _inside(sector: Sector, shape: tuple[int, int]) -> np.ndarray:
  """Returns bool [H, W] of the sector, or its box if nothing is blanked."""
  if sector.inside is not None:
    return sector.inside
  top, left, bottom, right = sector.box
  inside = np.zeros(shape, bool)
  inside[max(top, 0) : bottom, max(left, 0) : right] = True
  return inside
