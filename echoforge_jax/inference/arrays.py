"""NIfTI, MetaImage, NRRD, NPY and NPZ clips."""

import math
import pathlib

import numpy as np
import SimpleITK as sitk

from echoforge_jax.data import volumes
from echoforge_jax.errors import InputError
from echoforge_jax.inference import raw_clip


def read_volume(path: pathlib.Path) -> raw_clip.RawClip:
  """Reads an image file with frames along its third (or fourth) axis.

  The third axis' spacing is not read as time: CAMUS and others write 1 there.
  In-plane spacing of exactly 1 x 1 is the writers' default, not a
  calibration (an ultrasound pixel is 0.1 to 0.8 mm), and counts as unknown.

  Args:
    path: .nii, .nii.gz, .mha, .mhd (with its .raw) or .nrrd.

  Returns:
    The clip; frame rate unknown.

  Raises:
    InputError: unreadable, or not a gray (or RGB) clip.
  """
  if path.name.lower().endswith(('.nii', '.nii.gz', '.mhd')):
    volumes.check_file(path)  # SimpleITK makes up what a cut file lacks.
  try:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
  except RuntimeError as error:
    reason = str(error).strip().splitlines()[-1].strip()
    raise InputError(
        f'{path}: cannot be read as a medical image, damaged or of another '
        f'kind ({reason})') from error
  dimensions = image.GetDimension()
  if dimensions == 4 and 1 in array.shape[:2]:  # [T, 1, H, W] or [1, T, H, W].
    array = array.reshape((-1, *array.shape[2:]))
  elif dimensions == 2:
    array = array[None]
  frames = raw_clip.to_gray(path, array)
  column_mm, row_mm = (raw_clip.known(s) for s in image.GetSpacing()[:2])
  notes, spacing = [], (row_mm, column_mm)
  if spacing == (1.0, 1.0):
    spacing = raw_clip.UNKNOWN_SPACING
    notes.append('spacing 1 x 1 mm is a default, taken as unknown')
  return raw_clip.RawClip(frames, spacing, notes=tuple(notes))


def read_numpy(path: pathlib.Path) -> raw_clip.RawClip:
  """Reads an NPY array, or an NPZ with `frames`, `spacing_mm` and `fps`.

  Args:
    path: .npy, or .npz whose only array or whose `frames` is the clip.

  Returns:
    The clip.

  Raises:
    InputError: unreadable, pickled objects, or not a gray (or RGB) clip.
  """
  try:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
      fields = {'frames': loaded}
    else:
      with loaded:
        fields = {name: loaded[name] for name in loaded.files}
  except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds.
    raise InputError(
        f'{path}: cannot be read as a NumPy file: damaged, of another kind, or '
        'with Python objects, which are never loaded') from error
  if 'frames' not in fields and len(fields) != 1:
    raise InputError(
        f'{path}: found arrays {sorted(fields)}; wanted one named "frames"')
  frames = fields.get('frames')
  if frames is None:
    frames = next(iter(fields.values()))
  frames = raw_clip.to_gray(path, frames)
  spacing = np.ravel(fields.get('spacing_mm', raw_clip.UNKNOWN_SPACING))
  if spacing.size != 2 or spacing.dtype.kind not in 'uif':
    raise InputError(
        f'{path}: found spacing_mm {spacing.tolist()}; wanted two numbers, '
        'mm per pixel (row, column)')
  fps = np.ravel(fields.get('fps', math.nan))
  return raw_clip.RawClip(
      frames, tuple(raw_clip.known(s) for s in spacing),
      raw_clip.known(fps[0] if fps.size else math.nan))
