"""NIfTI, MetaImage, NRRD, NPY and NPZ clips."""

from collections.abc import Sequence
import math
import pathlib
import zipfile

import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.formats import raw_clip, volumes

# NPZ arrays of a clip that mean something; any other name only if it stands alone.
_FIELDS = ('frames', 'spacing_mm', 'fps')


def read_medical(path: pathlib.Path) -> raw_clip.RawClip:
  """Reads a medical image with frames along its third (or fourth) axis.

  The third axis' spacing is not read as time: CAMUS and others write 1 there. In-plane spacing of
  exactly 1 x 1 is the writers' default, not a calibration (an ultrasound pixel is 0.1 to 0.8 mm),
  and counts as unknown.
  """
  volume = volumes.read_volume(path)
  frames, color = raw_clip.to_gray(path, volume.array)
  notes, spacing = (), tuple(raw_clip.known(s) for s in volume.spacing_mm)
  if spacing == (1.0, 1.0):
    spacing = raw_clip.UNKNOWN_SPACING
    notes = ('spacing 1 x 1 mm is a default, taken as unknown',)
  return raw_clip.RawClip(frames, spacing, notes=notes, color=color)


def read_numpy(path: pathlib.Path) -> raw_clip.RawClip:
  """Reads an NPY array, or an NPZ with `frames` (or one array), `spacing_mm` and `fps`."""
  fields = read_fields(path, _FIELDS)
  frames, color = raw_clip.to_gray(path, fields['frames'])
  spacing = np.ravel(fields.get('spacing_mm', raw_clip.UNKNOWN_SPACING))
  if spacing.size != 2 or spacing.dtype.kind not in 'uif':
    raise InputError(
      f'{path}: found spacing_mm {str(spacing.tolist())[:80]}; wanted two numbers, mm per pixel '
      '(row, column)'
    )
  fps = np.ravel(fields.get('fps', math.nan))
  fps = raw_clip.known(fps[0] if fps.size else math.nan)
  return raw_clip.RawClip(frames, tuple(raw_clip.known(s) for s in spacing), fps, color=color)


def read_fields(path: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
  """Returns the arrays `names` of an NPZ, or an NPY (or an NPZ's only array) as the first of them.

  The first must be there. An NPY is mapped into memory. Raises `InputError`.
  """
  try:
    if zipfile.is_zipfile(path):
      return _npz_fields(path, names)
    # Mapped: the header is checked against the file before it is read.
    return {names[0]: np.load(path, mmap_mode='r', allow_pickle=False)}
  except InputError:
    raise
  except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds.
    raise InputError(
      f'{path}: cannot be read as a NumPy file: damaged, of another kind, or with Python objects, '
      'which are never loaded; wanted an array of numbers: save it again with numpy.save'
    ) from error


def _npz_fields(path: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
  first = names[0]
  with zipfile.ZipFile(path) as archive:
    sizes = {entry.filename.removesuffix('.npy'): entry.file_size for entry in archive.infolist()}
  if first not in sizes and len(sizes) != 1:
    raise InputError(
      f'{path}: found arrays {str(sorted(sizes))[:200]}; wanted one named "{first}": save it with '
      f'numpy.savez(path, {first}=...)'
    )
  only = first if first in sizes else next(iter(sizes))
  wanted = {name: name for name in names if name in sizes and name != only} | {first: only}
  size = sum(sizes[name] for name in wanted.values())
  if size > raw_clip.MAX_BYTES:  # A small file may unpack to very much.
    raise InputError(
      f'{path}: found arrays that unpack to {size / 2**30:.1f} GiB; wanted at most '
      f'{raw_clip.MAX_BYTES / 2**30:.0f} GiB: cut the clip into shorter ones, as uint8'
    )
  with np.load(path, allow_pickle=False) as loaded:
    return {field: loaded[name] for field, name in wanted.items()}
