"""Files of masks that another tool made: whose they are, and what is in them.

    CLIP.nii.gz                all frames of a clip, in the order of its raw file
    CLIP_ED.png, CLIP_ES.png   one frame
    CLIP_frame07.npz           one frame, counted from 0 in that order

CLIP is PATIENT_VIEW, the name of the clip's file in a dataset that has one a clip, or PATIENT alone
where the split has one clip of it. Any of `masks.SUFFIXES` will do.
"""

import collections
from collections.abc import Iterable, Mapping
import dataclasses
import hashlib
import os
import pathlib
import re

from natsort import natsorted
import numpy as np

from echoforge_jax.clip import LABELS
from echoforge_jax.data.datasets import Reader
from echoforge_jax.errors import InputError
from echoforge_jax.formats import label_names
from echoforge_jax.formats.masks import SUFFIXES, read_masks, suffix_of

ClipKey = tuple[str, str]  # Patient and view.
WHOLE = ''
_FRAME = re.compile(r'(.+)_(?:(ED|ES)|frame(\d{1,6}))', re.IGNORECASE)
# What lies beside masks and is none: notes, a MetaImage's voxels; also .npz beside .pkl, which are
# nnU-Net's probabilities.
_OTHERS = ('.json', '.txt', '.csv', '.log', '.md', '.pkl', '.yaml', '.yml', '.raw', '.zraw')


@dataclasses.dataclass(frozen=True)
class MaskFiles:
  """The files of a folder by clip."""

  folder: pathlib.Path
  # Clip -> 'ED', 'ES', the number of a frame or `WHOLE` -> file.
  of: Mapping[ClipKey, Mapping[str | int, pathlib.Path]]
  elsewhere: int  # Files of clips of other splits, which are left alone.

  def paths(self) -> list[pathlib.Path]:
    """Returns all files of the split's clips, in the order of their names."""
    return natsorted(path for files in self.of.values() for path in files.values())


def find_files(
  folder: pathlib.Path, reader: Reader, clips: Iterable[ClipKey], others: Iterable[ClipKey]
) -> MaskFiles:
  """Finds whose the files of a folder are.

  Args:
    folder: holds the masks; hidden files and those that hold no masks (`_OTHERS`) do not count.
    reader: of the raw dataset.
    clips, others: those of the split, and those of the other splits (or of all).

  Raises:
    InputError: where a file belongs to no clip, or two hold the same masks.
  """
  clips = list(clips)
  if not folder.is_dir():
    raise InputError(f'--predictions={folder}: no such folder; wanted one that holds masks')
  names = _names(reader, clips)
  elsewhere = _names(reader, others).keys() - names.keys()
  found: dict[ClipKey, dict[str | int, pathlib.Path]] = {clip: {} for clip in clips}
  left = 0
  for path in natsorted(folder.iterdir(), key=lambda path: path.name):
    suffix = suffix_of(path.name)
    probabilities = suffix == '.npz' and path.with_suffix('.pkl').is_file()
    if path.name.startswith('.') or path.name.lower().endswith(_OTHERS) or probabilities:
      continue
    stem = path.name[: len(path.name) - len(suffix)]
    match = None if stem in names else _FRAME.fullmatch(stem)
    name = match[1] if match else stem
    if not suffix or not path.is_file() or name not in names:
      if suffix and path.is_file() and {name, stem} & elsewhere:
        left += 1
        continue
      raise _stray(path, names)
    clip, frame = names[name]
    if match and frame != WHOLE:
      raise _stray(path, names)
    if match:
      frame = match[2].upper() if match[2] else int(match[3])
    own = found[clip]
    if own and (frame in own or WHOLE in (frame, *own)):
      other = own.get(frame) or next(iter(own.values()))
      raise InputError(
        f'{path}: found {other.name} too, of the same clip; wanted one file of a whole clip, or '
        'one a frame: remove one of them'
      )
    own[frame] = path
  return MaskFiles(folder, found, left)


def _names(reader: Reader, clips: Iterable[ClipKey]) -> dict[str, tuple[ClipKey, str | int]]:
  """Returns stem of a file -> clip, and frame or `WHOLE`."""
  clips = list(clips)
  counts = collections.Counter(patient for patient, _ in clips)
  names = {p: ((p, view), WHOLE) for p, view in clips if counts[p] == 1}
  for clip in clips:
    names |= {name: (clip, frame) for name, frame in reader.file_names(*clip).items()}
  return names | {f'{patient}_{view}': ((patient, view), WHOLE) for patient, view in clips}


def _stray(path: pathlib.Path, names: Mapping) -> InputError:
  example = next((name for name in names if '_' in name), next(iter(names), 'CLIP'))
  return InputError(
    f'{path}: belongs to no clip of this dataset; wanted masks named {example}, {example}_ED, '
    f'{example}_ES or {example}_frame00 and so on, with one of {", ".join(SUFFIXES)}: rename it, '
    'or move it elsewhere'
  )


def read_labels(
  text: str | None, files: MaskFiles, reader: Reader
) -> tuple[label_names.Labels, str]:
  """Returns what the values of masks mean, and a receipt's text of where that stands.

  That is `text`, such as 'lv=1,myo=2', else a dataset.json beside the masks (nnU-Net copies it) or
  in the raw dataset, else this project's `LABELS`.
  """
  if text:
    return label_names.parse_labels(text), text
  for path in (files.folder / 'dataset.json', reader.raw_dir / 'dataset.json'):
    if path.is_file() and (named := label_names.read_dataset_json(path).get('labels')):
      return label_names.Labels(named, path), f'{path.parent.name}/{path.name}'
  return label_names.Labels(), ','.join(f'{name}={value}' for name, value in LABELS.items())


def read_file(path: pathlib.Path, labels: label_names.Labels) -> np.ndarray:
  """Reads masks as values of `LABELS`, uint8 [T, H, W]; raises InputError for unknown values."""
  masks = read_masks(path)
  known = labels.table[masks]
  if (known == label_names.UNKNOWN).any():
    values = np.unique(masks[known == label_names.UNKNOWN]).tolist()
    wanted = ', '.join(map(str, np.flatnonzero(labels.table != label_names.UNKNOWN)))
    raise InputError(
      f'{path}: found the label values {str(values)[:60]}, wanted {wanted}; say what they mean: '
      '--labels=lv=1,myo=2'
    )
  return known


def survey(files: MaskFiles, labels: label_names.Labels) -> tuple[str, set[int]]:
  """Reads every file once: a hash of names and contents, and the values of `LABELS` in any."""
  digest, values = hashlib.sha256(), set()
  for path in files.paths():
    values |= set(np.unique(read_file(path, labels)).tolist())
    digest.update(os.fsencode(path.name) + b'\0' + hashlib.sha256(path.read_bytes()).digest())
  return digest.hexdigest(), values
