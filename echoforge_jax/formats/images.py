"""A folder of images as one clip, and single images."""

import pathlib

from natsort import natsorted
import numpy as np
from PIL import Image

from echoforge_jax.errors import InputError
from echoforge_jax.formats import raw_clip
from echoforge_jax.formats.color import ColorSeen

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp')
# Pillow's modes that are gray; all others become color.
_GRAY = {'1': 'L', 'L': 'L', 'LA': 'L', 'I': 'I', 'I;16': 'I', 'I;16B': 'I'}


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns a folder's images in natural order (frame2 before frame10), but for hidden ones."""
  found = [
    path
    for path in folder.iterdir()
    if path.suffix.lower() in SUFFIXES and not path.name.startswith('.') and path.is_file()
  ]
  return natsorted(found, key=lambda path: path.name)


def read_folder(folder: pathlib.Path) -> raw_clip.RawClip:
  """Reads a folder of images, one per frame, in natural order of their names.

  Images carry neither spacing nor frame rate. Other files are left out, with a note.
  """
  paths = image_files(folder)
  if not paths:
    raise InputError(
      f'{folder}: found a folder without images; wanted one of PNG frames, or with --recursive one '
      'of clips'
    )
  kinds = sorted({path.suffix.lower().replace('jpeg', 'jpg') for path in paths})
  if len(kinds) > 1:
    raise InputError(
      f'{folder}: found images of several kinds ({", ".join(kinds)}); wanted the frames of one '
      'clip: keep one kind'
    )
  frames, color = None, None
  for index, path in enumerate(paths):
    frame = _read(path)
    if frames is None:
      raw_clip.checked_size(folder, len(paths), *frame.shape[:2])
      frames = np.empty((len(paths), *frame.shape[:2]), np.uint8)
    if frame.shape[:2] != frames.shape[1:]:
      raise InputError(
        f'{path}: found {frame.shape[0]}x{frame.shape[1]} pixels; wanted {frames.shape[1]}x'
        f'{frames.shape[2]} as {paths[0].name} before it: keep the frames of one clip in a folder'
      )
    frames[index], color = _gray(path, frame, index, color)
  others = sorted(
    path.name for path in folder.iterdir() if path not in paths and not path.name.startswith('.')
  )
  notes = ()
  if others:
    notes = (f'{len(others)} other entries in the folder were left out (the first is {others[0]})',)
  return raw_clip.RawClip(frames, notes=notes, color=color)


def read_image(path: pathlib.Path) -> raw_clip.RawClip:
  """Reads one PNG, JPEG or BMP image as a clip of one frame."""
  frame = _read(path)
  raw_clip.checked_size(path, 1, *frame.shape[:2])
  gray, color = _gray(path, frame, 0, None)
  return raw_clip.RawClip(gray[None], color=color)


def _read(path: pathlib.Path) -> np.ndarray:
  """Returns [H, W] gray in the file's own type, or uint8 [H, W, 3] color."""
  try:
    with Image.open(path) as image:
      raw_clip.checked_size(path, 1, image.height, image.width)
      return np.asarray(image.convert(_GRAY.get(image.mode, 'RGB')))
  except InputError:
    raise
  except Exception as error:  # Codecs raise a dozen kinds.
    raise InputError(
      f'{path}: found a file that cannot be read as an image: empty, damaged, of another kind or '
      f'not to be opened ({error.__class__.__name__}); wanted a PNG, JPEG or BMP: export it again'
    ) from error


def _gray(path, frame, index, color):
  """Returns (uint8 [H, W], color seen) of one frame."""
  if frame.ndim == 2:
    return raw_clip.to_gray(path, frame)[0][0], color
  color = color or ColorSeen(frame.shape[:2])
  if color.wants(index):
    color.add(frame)
  return raw_clip.luma(frame), color
