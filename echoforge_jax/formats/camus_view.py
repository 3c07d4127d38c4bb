"""One view of one CAMUS patient: its files, read and checked in one pass."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from echoforge_jax.clip import LABELS, Clip
from echoforge_jax.errors import InputError
from echoforge_jax.formats.findings import (
  Finding,
  FindingError,
  absence,
  fault,
  make_finding,
  of_decoder,
)
from echoforge_jax.formats.images import read_image
from echoforge_jax.formats.masks import read_masks
from echoforge_jax.formats.volumes import Volume, as_uint8, read_volume

VIEWS = ('2CH', '4CH')
QUALITIES = ('Good', 'Medium', 'Poor')
ENDINGS = {'nifti': '.nii.gz', 'mhd': '.mhd'}
_SHAPE = '[frames, rows, columns] of gray levels'
# Volumes of a view by the form, the sequence first; a clip needs some only.
VOLUMES = {
  'nifti': ('sequence', 'sequence_gt', 'ED', 'ED_gt', 'ES', 'ES_gt'),
  'mhd': ('sequence', 'ED', 'ED_gt', 'ES', 'ES_gt'),
}
_NEEDED = {'nifti': ('sequence', 'sequence_gt'), 'mhd': ('sequence', 'ED_gt', 'ES_gt')}
STILLS = ('ED', 'ES', 'ED_gt', 'ES_gt')


def read_info(path) -> dict[str, str]:
  """Returns the `Key: value` lines of an `Info_V.cfg` by lower-case key."""
  path = Path(path)
  try:
    text = path.read_bytes().decode('utf-8-sig')
  except FileNotFoundError as error:
    raise fault('missing-file', path, 'nothing', 'a cfg file') from error
  except UnicodeDecodeError as error:
    found = f'no text file ({error.reason})'
    raise fault('cfg-unreadable', path, found, 'lines such as "ED: 1"') from error
  info = {}
  for line in text.splitlines():
    key, colon, value = line.partition(':')
    if colon and key.strip():
      info[key.strip().lower()] = value.strip()
  if not info:
    raise fault('cfg-unreadable', path, 'no "Key: value" line', 'ED, ES, ...')
  return info


def info_number(info: dict[str, str], *keys: str) -> float:
  """Returns the first of `keys` in `info` as a float; NaN if none is there."""
  for key in keys:
    try:
      return float(info[key.lower()].rstrip(' %').replace(',', '.'))
    except (KeyError, ValueError):
      continue
  return float('nan')


def _read_png(path: Path, key: str) -> Volume:
  """Reads an image, or labels where `key` ends in '_gt', as a volume of one frame."""
  if not path.is_file():
    raise fault('missing-file', path, absence(path), 'an image')
  try:
    array = read_masks(path) if key.endswith('_gt') else read_image(path).frames
  except InputError as error:
    code = 'mask-unreadable' if key.endswith('_gt') else 'image-unreadable'
    raise FindingError(of_decoder(code, path, error, 'an image')) from error
  return Volume(array, np.full(2, np.nan, np.float32))


class View:
  """One view of one patient, as far as `read` could read it.

  `stills` is the folder of the frames at ED and ES where there is no sequence: the patient's own,
  or one of PNG images, which have no pixel spacing.
  """

  def __init__(self, form: str, folder: Path, view: str, *, stills: Path | None = None):
    self.form, self.folder, self.view, self.stills = form, folder, view, stills
    self.cfg_path = folder / f'Info_{view}.cfg'
    self.info: dict[str, str] = {}  # Of the cfg; empty if it cannot be read.
    # By `VOLUMES`: uint8 [T, H, W] of each that can be used, and float32 [2] mm (row, column).
    self.arrays: dict[str, np.ndarray] = {}
    self.spacing_mm: dict[str, np.ndarray] = {}
    # ED and ES, from 0; None if the cfg does not tell.
    self.ends: tuple[int, int] | None = None if stills is None else (0, 1)
    self.withheld = False  # The provider keeps this patient's labels.

  @property
  def is_png(self) -> bool:
    """Returns True if the frames are PNG images."""
    return self.stills not in (None, self.folder)

  @property
  def volumes(self) -> tuple[str, ...]:
    """Returns the names of all volumes of this view, the one that others must fit first."""
    return VOLUMES[self.form] if self.stills is None else STILLS

  def path(self, key: str) -> Path:
    """Returns the path of one of the `volumes`."""
    if self.form == 'nifti':
      key = key.replace('sequence', 'half_sequence')
    ending = '.png' if self.is_png else ENDINGS[self.form]
    return (self.stills or self.folder) / f'{self.folder.name}_{self.view}_{key}{ending}'

  def read(self, *, everything: bool = False) -> Iterator[Finding]:
    """Reads the files of a clip (or everything), and yields what is wrong with them."""
    try:
      self.info = read_info(self.cfg_path)
    except FindingError as error:
      if self.stills is None or error.finding.code != 'missing-file':
        yield error.finding
    keys = self.volumes if everything or self.stills else _NEEDED[self.form]
    masks = [key for key in keys if key.endswith('_gt')]
    is_test = self.form == 'mhd' and self.folder.parent.name == 'testing'
    if is_test and not any(self.path(key).exists() for key in masks):
      self.withheld = True
      keys = [key for key in keys if key not in masks]
      found = f'no _gt file for {self.view}'
      yield make_finding('labels-withheld', self.folder, found, 'masks at ED and ES')
    for key in keys:
      yield from self._read_volume(key)
      if key == 'sequence':  # A clip that is refused needs no masks.
        yield from self._find_ends()
    yield from self._check_shapes()
    yield from self._check_cavity()

  def _read_volume(self, key: str) -> Iterator[Finding]:
    path = self.path(key)
    try:
      volume = _read_png(path, key) if self.is_png else read_volume(path)
      if volume.array.ndim != 3 or (self.stills and len(volume.array) != 1):
        shape = volume.array.shape
        wanted = '[1, rows, columns] of gray levels' if self.stills else _SHAPE
        raise fault('volume-shape', path, f'an array of shape {shape}', wanted)
      array = as_uint8(volume.array, path)
    except FindingError as error:
      yield error.finding
      return
    except InputError as error:  # Of a size that is no clip.
      yield make_finding('volume-shape', path, error, _SHAPE)
      return
    if array is not volume.array:
      yield make_finding('voxel-dtype', path, volume.array.dtype, 'uint8')
    self.spacing_mm[key] = volume.spacing_mm
    if key.endswith('_gt') and array.max() > max(LABELS.values()):
      labels = np.flatnonzero(np.bincount(array.ravel(), minlength=256))
      wrong = labels[labels > max(LABELS.values())].tolist()
      yield make_finding('label-values', path, f'labels {wrong}', '0, 1, 2, 3')
      return
    self.arrays[key] = array

  def _find_ends(self) -> Iterator[Finding]:
    """Takes ED and ES from the cfg where it agrees with the sequence."""
    if not self.info:
      return
    info, path = self.info, self.cfg_path
    count = info_number(info, 'NbFrame')
    if 'sequence' in self.arrays:
      length = len(self.arrays['sequence'])
      if 'nbframe' in info and count != length:
        found, wanted = f'NbFrame: {info["nbframe"]}', f'{length}, the frames of the sequence'
        yield make_finding('cfg-count', path, found, wanted)
      count = length
    numbers = {key: info_number(info, key) for key in ('ED', 'ES')}
    for key, number in list(numbers.items()):
      if not 1 <= number <= count or number != int(number):
        found = info.get(key.lower(), 'nothing')
        wanted = f'a frame number in 1..{count:g}'
        yield make_finding('cfg-frame', path, f'{key}: {found}', wanted)
        del numbers[key]
    if len(numbers) < 2:
      return
    ed, es = (int(number) - 1 for number in numbers.values())
    if ed == es:
      found = f'ED and ES both in frame {ed + 1}'
      yield make_finding('ed-equals-es', path, found, 'two frames')
      return
    if ed > es:
      found = f'ED: {ed + 1}, ES: {es + 1}'
      yield make_finding('es-before-ed', path, found, 'ED before ES')
    self.ends = ed, es

  def _check_shapes(self) -> Iterator[Finding]:
    """Drops what does not fit the sequence (or the first file read)."""
    reference, *others = self.arrays or ('',)
    for key in others:
      length = len(self.arrays[reference]) if 'sequence' in key else 1
      shape, wanted = self.arrays[key].shape, (length, *self.arrays[reference].shape[1:])
      if shape != wanted:
        wanted = f'{wanted} as {self.path(reference).name}'
        yield make_finding('shape-mismatch', self.path(key), f'the shape {shape}', wanted)
        del self.arrays[key]

  def masks_at_ends(self) -> dict[str, tuple[np.ndarray, str]]:
    """Returns the masks uint8 [H, W] of 'ED' and 'ES', each with its volume."""
    found = {}
    for name, frame in zip(('ED', 'ES'), self.ends or ()):
      if 'sequence_gt' in self.arrays:
        found[name] = self.arrays['sequence_gt'][frame], 'sequence_gt'
      elif f'{name}_gt' in self.arrays:
        found[name] = self.arrays[f'{name}_gt'][0], f'{name}_gt'
    return found

  def _check_cavity(self) -> Iterator[Finding]:
    for name, (mask, key) in self.masks_at_ends().items():
      if not (mask == LABELS['lv']).any():
        found = f'no label {LABELS["lv"]} at {name}'
        yield make_finding('lv-empty', self.path(key), found, 'a left ventricle')

  def clip(self, patient: str) -> Clip:
    """Returns the clip of a view that was read without an error.

    A sequence stored from ES to ED is flipped, images and masks together. A frame whose mask lacks
    the left ventricle is not labeled.
    """
    key, (ed, es) = self.volumes[0], self.ends
    frames = self.arrays[key]
    if self.stills is not None:
      frames = np.concatenate([frames, self.arrays['ES']])
    masks = self.arrays.get('sequence_gt')
    if masks is None:
      masks = np.zeros_like(frames)
      for frame, (mask, _) in zip(self.ends, self.masks_at_ends().values()):
        masks[frame] = mask
    labeled = (masks == LABELS['lv']).any(axis=(1, 2))
    masks[~labeled] = 0
    step = -1 if ed > es else 1
    if ed > es:
      ed, es = len(frames) - 1 - ed, len(frames) - 1 - es
    info = self.info
    quality = info.get('imagequality', '').capitalize()
    return Clip(
      patient=patient,
      view=self.view,
      frames=np.ascontiguousarray(frames[::step]),
      masks=np.ascontiguousarray(masks[::step]),
      labeled=np.ascontiguousarray(labeled[::step]),
      ed=ed,
      es=es,
      spacing_mm=self.spacing_mm[key],
      reversed_in_time=step < 0,
      fps=info_number(info, 'FrameRate'),
      quality=quality if quality in QUALITIES else '',
      ef_percent=info_number(info, 'EF', 'LVef'),
      edv_ml=info_number(info, 'LVedv'),
      esv_ml=info_number(info, 'LVesv'),
      sex={'f': 'F', 'm': 'M'}.get(info.get('sex', '').lower()[:1], ''),
      age=info_number(info, 'Age'),
    )
