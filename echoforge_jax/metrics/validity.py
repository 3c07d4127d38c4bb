"""Anatomical validity of a segmented frame (after Painchaud et al.)."""

import numpy as np
from scipy import ndimage

from echoforge_jax.metrics.surface import crop

# A cavity may open to the mitral valve and atrium, or to the image's border.
_OPEN_SHARE = 0.5


def is_anatomically_valid(mask: np.ndarray, classes: tuple[str, ...]) -> dict[str, bool]:
  """Checks one frame of class ids, uint8 [H, W]: 0 background, k + 1 the k-th class.

  Returns:
    one_component and no_holes (of every class; False for an empty one); with 'myo' and 'lv',
    myo_encloses_lv: at least half of the pixels around the cavity are myocardium (the base is open;
    ours); with 'la' and 'lv', la_touches_lv.
  """
  layers = {name: mask == k + 1 for k, name in enumerate(classes)}
  checks = {
    'one_component': all(ndimage.label(m)[1] == 1 for m in layers.values()),
    'no_holes': all(_is_filled(m) for m in layers.values()),
  }
  if 'lv' not in layers:
    return checks
  ring = ndimage.binary_dilation(layers['lv']) & ~layers['lv']
  if 'myo' in layers:
    share = (ring & layers['myo']).sum() / max(ring.sum(), 1)
    checks['myo_encloses_lv'] = bool(share >= _OPEN_SHARE)
  if 'la' in layers:
    checks['la_touches_lv'] = bool((ring & layers['la']).any())
  return checks


def all_valid(mask: np.ndarray, classes: tuple[str, ...]) -> bool:
  """Returns True if a frame passes every check of `is_anatomically_valid`."""
  return all(is_anatomically_valid(mask, classes).values())


def _is_filled(mask: np.ndarray) -> bool:
  """Returns whether there is no background that the mask alone encloses."""
  if not mask.any():
    return False
  box, _ = crop(mask)
  return bool(ndimage.binary_fill_holes(box).sum() == box.sum())
