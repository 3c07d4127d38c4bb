"""Any clip -> `RawClip`: gray frames, mm per pixel, frame rate, region.

One function per family of formats, in other files; this one chooses by content first (DICOM has a
magic number and often no extension) and by extension second.
"""

import dataclasses
import os
import pathlib

from echoforge_jax.errors import InputError
from echoforge_jax.formats import arrays, dicom, images, raw_clip, video
from echoforge_jax.formats.raw_clip import RawClip

_READERS = {
  arrays.read_medical: ('.nii', '.nii.gz', '.mha', '.mhd', '.nrrd'),
  arrays.read_numpy: ('.npy', '.npz'),
  video.read_video: ('.avi', '.mp4', '.m4v', '.mov', '.mkv', '.webm', '.wmv', '.gif'),
  dicom.read_dicom: ('.dcm', '.dicom'),
  images.read_image: images.SUFFIXES,
}
SUFFIXES = tuple(suffix for names in _READERS.values() for suffix in names)
# A clip of which a beat can be read; training samples ten frames.
_FEW_FRAMES = 10


def read_any(path) -> RawClip:
  """Reads all frames of one ultrasound clip, at native size.

  `path` is a DICOM file (with or without extension), a video (AVI, MP4, MOV, MKV, WEBM, WMV, GIF),
  NIfTI, MetaImage, NRRD, NPY or NPZ, an image, or a folder of images, one per frame.
  """
  path = pathlib.Path(path)
  _check_exists(path)
  try:
    if not path.is_dir() and path.stat().st_size == 0:
      raise InputError(f'{path}: found an empty file (0 bytes); wanted a clip: fetch it again')
    clip = _reader_of(path)(path)
  except OSError as error:
    raise InputError(
      f'{path}: cannot be opened ({error.strerror or error}); wanted a file you may read: check '
      'its permissions'
    ) from error
  return _described(raw_clip.plausible(clip))


def _check_exists(path: pathlib.Path) -> None:
  if path.is_file() or path.is_dir():
    return
  if path.is_symlink():
    raise InputError(
      f'{path}: found a link that leads nowhere (to {os.readlink(path)}); wanted a clip: name the '
      'file itself'
    )
  if os.path.lexists(path):
    raise InputError(
      f'{path}: found a device or a pipe; wanted a file: copy the clip to disk first'
    )
  raise InputError(f'{path}: no such file; check the spelling')


def is_clip_name(path: pathlib.Path) -> bool:
  """Returns True for a file that `read_any` would read as a clip of its own.

  The extension decides, or the magic number of DICOM. Single images are no clips: in a folder they
  are the frames of one.
  """
  name = path.name.lower()
  if name == 'dicomdir' or name.startswith('.') or name.endswith(images.SUFFIXES):
    return False
  try:
    return name.endswith(SUFFIXES) or dicom.is_dicom(path)
  except OSError:  # It is not to be opened: to be reported as a failure.
    return not path.suffix


def stem_of(path) -> str:
  """Returns the name without its (double) clip extension; never empty."""
  name = os.path.basename(os.path.abspath(path))
  if not os.path.isdir(path):
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
      if name.lower().endswith(suffix) and len(name) > len(suffix):
        return name[: -len(suffix)]
  return name or 'clip'


def _described(clip: RawClip) -> RawClip:
  """Flags stills, short clips and frames that equal the one before."""
  count = len(clip.frames)
  notes, flags = list(clip.notes), list(clip.flags)
  repeats = [
    index for index in range(1, count) if (clip.frames[index] == clip.frames[index - 1]).all()
  ]
  if len(repeats) == count - 1:  # One frame, or one frame many times.
    flags.append('still_image')
  elif repeats:
    notes.append(
      f'{len(repeats)} of {count} frames repeat the one before (the first is frame {repeats[0]})'
    )
    flags.append('duplicate_frames')
  if 1 < count < _FEW_FRAMES:
    flags.append('few_frames')
  return dataclasses.replace(clip, notes=tuple(notes), flags=tuple(flags))


def _reader_of(path: pathlib.Path):
  if path.is_dir():
    return images.read_folder
  if dicom.is_dicom(path):
    return dicom.read_dicom
  name = path.name.lower()
  for reader, suffixes in _READERS.items():
    if name.endswith(suffixes):
      return reader
  raise InputError(
    f'{path}: not a clip that can be read; wanted a DICOM file or one of {", ".join(SUFFIXES)}'
  )
