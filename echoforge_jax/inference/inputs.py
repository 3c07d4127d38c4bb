"""Files and folders that the user named -> clips and names of results."""

from collections.abc import Sequence
import os
import pathlib

from natsort import natsorted

from echoforge_jax.errors import InputError
from echoforge_jax.formats import images, readers


def expand(
  paths: Sequence, recursive: bool = False, skip=None
) -> tuple[list[tuple[pathlib.Path, str]], dict[str, str]]:
  """Finds the clips among files and folders.

  A folder whose files are images is one clip, an image per frame. A folder of
  clips is looked through, with all that is below it except the folder `skip`,
  only if `recursive`; images beside clips (screenshots) and files of other
  kinds are then left out. Links to folders are not followed.

  Returns:
    (file or folder of a clip, name of its results' folder) in the order given,
    inside a folder in natural order; and error messages of folders without a
    clip, by path. What does not exist counts as a clip, to be reported in turn.
  """
  found, failures = [], {}
  for path in map(pathlib.Path, paths):
    try:
      clips = _clips_of(path, recursive, skip)
    except InputError as error:
      failures[str(path)] = str(error)
    except OSError as error:
      reason = error.strerror or error
      failures[str(path)] = (
        f'{path}: cannot be looked through ({reason}); wanted a folder you may read'
      )
    else:
      base = path if recursive and path.is_dir() and clips != [path] else None
      found += [(clip, _name_of(clip, base)) for clip in clips]
  names = _unique([name for _, name in found])
  return [(clip, name) for (clip, _), name in zip(found, names)], failures


def _clips_of(path: pathlib.Path, recursive: bool, skip) -> list[pathlib.Path]:
  if not path.is_dir():
    return [path]
  clips = _clips_in(path)
  if not clips and images.image_files(path):
    return [path]
  if not recursive:
    content = f'of {len(clips)} clips' if clips else 'without images or clips'
    raise InputError(
      f'{path}: is a folder {content}; wanted a clip or a folder of PNG frames: add --recursive '
      'to look for clips in it and below'
    )
  found = []
  skip = os.path.abspath(skip) if skip else None

  def stop(error):
    raise error

  for name, below, _ in os.walk(path, onerror=stop):
    folder = pathlib.Path(name)
    below[:] = natsorted(
      name for name in below if not name.startswith('.') and os.path.abspath(folder / name) != skip
    )
    clips = _clips_in(folder)
    found += clips or ([folder] if images.image_files(folder) else [])
  if not found:
    wanted = f'{", ".join(readers.SUFFIXES)} or DICOM files'
    raise InputError(f'{path}: no clip in this folder or below; wanted {wanted}')
  return found


def _clips_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the clip files directly in a folder, in natural order."""
  files = (path for path in folder.iterdir() if path.is_file() and readers.is_clip_name(path))
  return natsorted(files, key=lambda path: path.name)


def _name_of(clip: pathlib.Path, base: pathlib.Path | None) -> str:
  """Returns `a/b` for `base/a/b.dcm`, and `b` without a base."""
  stem = readers.stem_of(clip)
  if base is None or clip == base:
    return stem
  return (clip.relative_to(base).parent / stem).as_posix()


def _unique(names: list[str]) -> list[str]:
  """Numbers names that come again (also where case does not count)."""
  taken: set[str] = set()
  unique = []
  for stem in names:
    name, number = stem, 2
    while name.casefold() in taken:
      name, number = f'{stem}-{number}', number + 1
    taken.add(name.casefold())
    unique.append(name)
  return unique
