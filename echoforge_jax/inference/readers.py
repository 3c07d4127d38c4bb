"""Any clip file -> `RawClip`: gray frames, mm per pixel, frame rate, region.

One function a family of formats, in `dicom.py`, `video.py` and `arrays.py`;
this file chooses by content first (DICOM has a magic number and often no
extension) and by extension second.
"""

import dataclasses
import pathlib

from echoforge_jax.errors import InputError
from echoforge_jax.inference import arrays, dicom, video
from echoforge_jax.inference.raw_clip import RawClip

_READERS = {
    arrays.read_volume: ('.nii', '.nii.gz', '.mha', '.mhd', '.nrrd'),
    arrays.read_numpy: ('.npy', '.npz'),
    video.read_video: (
        '.avi', '.mp4', '.m4v', '.mov', '.mkv', '.webm', '.wmv', '.gif'),
    dicom.read_dicom: ('.dcm', '.dicom'),
}
SUFFIXES = tuple(suffix for names in _READERS.values() for suffix in names)


def read_any(path) -> RawClip:
  """Reads one ultrasound clip of any supported format.

  Args:
    path: a DICOM multi-frame file (with or without extension), a video
      (AVI, MP4, MOV, MKV, WEBM, WMV, GIF), NIfTI, MetaImage, NRRD, NPY or NPZ.

  Returns:
    The clip with all its frames at native size.

  Raises:
    InputError: the file is missing, empty, truncated, of another kind, holds
      fewer than two frames or values that are not gray levels.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise InputError(f'{path}: no such file')
  if not path.is_file():
    raise InputError(
        f'{path}: is a directory; wanted one clip file each (for example '
        f'{path}/*)')
  if path.stat().st_size == 0:
    raise InputError(f'{path}: the file is empty (0 bytes)')
  return _with_repeats(_reader_of(path)(path))


def stem_of(path) -> str:
  """The file's name without its (possibly double) clip extension."""
  name = pathlib.Path(path).name
  for suffix in sorted(SUFFIXES, key=len, reverse=True):
    if name.lower().endswith(suffix) and len(name) > len(suffix):
      return name[:-len(suffix)]
  return name


def _with_repeats(clip: RawClip) -> RawClip:
  """Notes frames that equal the one before (frame rate conversion)."""
  repeats = [index for index in range(1, len(clip.frames)) if
             (clip.frames[index] == clip.frames[index - 1]).all()]
  if not repeats:
    return clip
  note = (f'{len(repeats)} of {len(clip.frames)} frames repeat the one before '
          f'(the first is frame {repeats[0]})')
  return dataclasses.replace(
      clip, notes=(*clip.notes, note), flags=(*clip.flags, 'duplicate_frames'))


def _reader_of(path: pathlib.Path):
  if dicom.is_dicom(path):
    return dicom.read_dicom
  name = path.name.lower()
  for reader, suffixes in _READERS.items():
    if name.endswith(suffixes):
      return reader
  raise InputError(
      f'{path}: not a clip that can be read; wanted a DICOM file or one of '
      f'{", ".join(SUFFIXES)}')
