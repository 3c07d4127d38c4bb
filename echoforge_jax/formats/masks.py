"""Label maps in files: NIfTI, MetaImage, NRRD, PNG, NPY and NPZ."""

import os
import pathlib

import numpy as np
from PIL import Image

from echoforge_jax.errors import InputError
from echoforge_jax.formats import arrays, raw_clip, volumes

VOLUMES = ('.nii.gz', '.nii', '.mha', '.mhd', '.nrrd')
SUFFIXES = (*VOLUMES, '.png', '.npz', '.npy')


def suffix_of(name: str) -> str:
  """Returns the one of `SUFFIXES` that a file's name ends in, in lower case; '' for none."""
  return next((s for s in SUFFIXES if name.lower().endswith(s)), '')


def read_masks(path: str | os.PathLike) -> np.ndarray:
  """Returns the label values of `read_mask_volume`, uint8 [T, H, W]."""
  return read_mask_volume(path).array


def read_mask_volume(path: str | os.PathLike) -> volumes.Volume:
  """Reads label values, uint8 [T, H, W], and their spacing; an image [H, W] has T = 1.

  An NPZ holds the array `masks`, or one array alone. A PNG is gray or has a palette, whose indices
  are the labels; equal channels of color count as gray.

  Raises:
    InputError: the file is not whole, has another shape, or values that are no whole numbers in
      0..255.
  """
  path = pathlib.Path(path)
  suffix = suffix_of(path.name)
  if not suffix:
    raise InputError(f'{path}: found another kind of file; wanted masks as {", ".join(SUFFIXES)}')
  spacing = np.full(2, np.nan, np.float32)
  if suffix in VOLUMES:
    array, spacing = volumes.read_volume(path)
  elif suffix == '.png':
    array = _read_png(path)
  else:
    array = arrays.read_fields(path, ('masks',))['masks']
  found = array.shape
  array = array[None] if array.ndim == 2 else array
  if array.ndim != 3:
    raise InputError(f'{path}: found an array of shape {found}; wanted labels [T, H, W] or [H, W]')
  raw_clip.checked_size(path, *array.shape)
  if array.dtype.kind not in 'buif':
    raise InputError(
      f'{path}: found values of type {array.dtype}; wanted labels: save them as uint8'
    )
  array = array.astype(np.uint8) if array.dtype == bool else array
  return volumes.Volume(volumes.as_uint8(array, path), spacing)


def _read_png(path: pathlib.Path) -> np.ndarray:
  try:
    with Image.open(path) as image:
      raw_clip.checked_size(path, 1, image.height, image.width)
      mode, array = image.mode, np.asarray(image)
  except InputError:
    raise
  except Exception as error:  # Codecs raise a dozen kinds.
    raise InputError(
      f'{path}: found a file that cannot be read as an image ({type(error).__name__}); wanted a '
      'PNG: export it again'
    ) from error
  if array.ndim == 2:
    return array
  colors = array[..., :1] if mode == 'LA' else array[..., :3]
  if (colors != colors[..., :1]).any():
    raise InputError(
      f'{path}: found a color image ({mode}); wanted one label value per pixel: save it as gray '
      'levels or with a palette'
    )
  return colors[..., 0]
