"""Checks a raw dataset file by file before anything is built from it.

One pass: every file is read once, every fault becomes a finding, and the pass
goes on. Errors make the reader refuse or the results wrong; warnings are what
a user should know and the reader copes with.
"""

import collections
from collections.abc import Iterable
import concurrent.futures
import hashlib
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from echoforge_jax.clip import LABELS
from echoforge_jax.data.findings import Finding, make_finding
from echoforge_jax.errors import InputError
from echoforge_jax.formats import camus
from echoforge_jax.formats.volumes import (
  MissingFileError,
  ShapeError,
  TruncatedFileError,
  VolumeError,
  VoxelError,
  as_uint8,
  read_volume,
)

# Depth and width of the field of view that CAMUS can have, in mm.
_DEPTH_MM = (50.0, 250.0)
_HARMLESS = ('MANDATORY_CITATION.md',)


def verify_camus(
  raw_dir, *, progress: bool = False, num_threads: int | None = None
) -> list[Finding]:
  """Verifies a raw CAMUS folder in either form.

  Args:
    raw_dir: see `formats.camus.find_layout`.
    progress: shows a bar.
    num_threads: patients read at once; None means one a core, 4 at most.

  Returns:
    Findings, patient after patient, then the splits; empty if all is well.

  Raises:
    InputError: `raw_dir` is no folder or holds no CAMUS patients.
  """
  layout = camus.find_layout(raw_dir)
  findings = list(_strays(layout))
  first_file = {}
  threads = num_threads or min(4, os.cpu_count() or 1)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    checks = pool.map(
      lambda folder: _check_patient(layout.form, folder),
      layout.folders.values(),
    )
    for found, digests in tqdm(
      checks,
      total=len(layout.folders),
      unit='patient',
      desc='verify',
      disable=not progress,
    ):
      findings += found
      for digest, path in digests:
        original = first_file.setdefault(digest, path)
        if original != path:
          findings.append(
            make_finding(
              'duplicate-images',
              path,
              f'the same frames as {original}',
              'a sequence of its own',
            )
          )
  findings += _check_splits(layout)
  return findings


def _strays(layout: camus.Layout) -> Iterable[Finding]:
  for parent in sorted({folder.parent for folder in layout.folders.values()}):
    if parent == layout.root:
      continue  # A bare folder of patients: its neighbours are not ours.
    known = {
      folder.name
      for folder in layout.folders.values()
      if folder.parent == parent
    }
    for name in sorted(set(os.listdir(parent)) - known - set(_HARMLESS)):
      yield make_finding(
        'stray-file', parent / name, name, 'patientXXXX folders'
      )


def _expected_names(form: str, patient: str) -> dict[str, list[str]]:
  """Volume names of each view without the ending, the sequence first."""
  names = (
    ('half_sequence', 'half_sequence_gt') if form == 'nifti' else ('sequence',)
  ) + ('ED', 'ED_gt', 'ES', 'ES_gt')
  return {
    view: [f'{patient}_{view}_{name}' for name in names] for view in camus.VIEWS
  }


def _check_patient(
  form: str, folder: Path
) -> tuple[list[Finding], list[tuple[bytes, Path]]]:
  """Findings of one patient and a digest of each of its sequences."""
  findings, digests, infos = [], [], {}
  expected = _expected_names(form, folder.name)
  endings = ('.nii.gz',) if form == 'nifti' else ('.mhd', '.raw', '.zraw')
  known = {
    name + ending
    for names in expected.values()
    for name in names
    for ending in endings
  }
  known |= {f'Info_{view}.cfg' for view in camus.VIEWS} | set(_HARMLESS)
  for name in sorted(set(os.listdir(folder)) - known):
    findings.append(
      make_finding(
        'stray-file', folder / name, name, f'only files such as {min(known)}'
      )
    )
  for view in camus.VIEWS:
    check = _View(form, folder, view)
    check.run(expected[view])
    findings += check.findings
    if check.digest:
      digests.append(check.digest)
    infos[view] = check.info
  for key in ('ef', 'lvef', 'sex', 'age'):
    values = [infos[view].get(key, '').lower() for view in camus.VIEWS]
    if all(values) and values[0] != values[1]:
      findings.append(
        make_finding(
          'views-disagree',
          folder / 'Info_4CH.cfg',
          f'{key} {values[1]}',
          f'{key} {values[0]} as in Info_2CH.cfg',
        )
      )
  return findings, digests


class _View:
  """The checks of one view of one patient; fills `findings`."""

  def __init__(self, form: str, folder: Path, view: str):
    self.form, self.folder, self.view = form, folder, view
    self.ending = '.nii.gz' if form == 'nifti' else '.mhd'
    self.cfg_path = folder / f'Info_{view}.cfg'
    self.labels_withheld = False
    self.findings: list[Finding] = []
    self.info: dict[str, str] = {}
    self.digest: tuple[bytes, Path] | None = None
    self.spacing: tuple[np.ndarray, Path] | None = None

  def add(self, code: str, file, found, wanted) -> None:
    self.findings.append(make_finding(code, file, found, wanted))

  def run(self, names: list[str]) -> None:
    """Reads the cfg, then each volume once; the sequence comes first."""
    self._read_cfg()
    withheld = self._withheld(names)
    arrays = {}
    for name in names:
      if name in withheld:
        continue
      key = name.removeprefix(f'{self.folder.name}_{self.view}_')
      array = self._read(self.folder / (name + self.ending))
      if array is not None:
        arrays[key.removeprefix('half_')] = array
    if 'sequence' in arrays:
      path = self.folder / (names[0] + self.ending)
      self.digest = (
        hashlib.blake2b(arrays['sequence'], digest_size=16).digest(),
        path,
      )
    frames = self._check_cfg(arrays.get('sequence'))
    self._check_shapes(arrays)
    if frames:
      self._check_single_frames(arrays, *frames)
      self._check_heart(arrays, *frames)

  def _path(self, key: str) -> Path:
    key = (
      key.replace('sequence', 'half_sequence')
      if (self.form == 'nifti')
      else key
    )
    return self.folder / f'{self.folder.name}_{self.view}_{key}{self.ending}'

  def _withheld(self, names: list[str]) -> list[str]:
    """The masks of an older test patient, when none is there."""
    masks = [name for name in names if name.endswith('_gt')]
    if (
      self.form == 'mhd'
      and self.folder.parent.name == 'testing'
      and not any(
        (self.folder / (name + self.ending)).exists() for name in masks
      )
    ):
      self.labels_withheld = True
      self.add(
        'labels-withheld',
        self.folder,
        f'no _gt file for {self.view}',
        'masks at ED and ES',
      )
      return masks
    return []

  def _read_cfg(self) -> None:
    if not self.cfg_path.is_file():
      self.add('missing-file', self.cfg_path, 'nothing', 'a cfg file')
      return
    try:
      self.info = camus.read_info(self.cfg_path)
    except InputError as error:
      self.add('cfg-unreadable', self.cfg_path, error, '"Key: value" lines')

  def _read(self, path: Path) -> np.ndarray | None:
    """One volume as uint8 [T, H, W], or None after a finding says why."""
    codes = {
      MissingFileError: 'missing-file',
      TruncatedFileError: 'truncated-file',
      ShapeError: 'volume-shape',
      VoxelError: 'voxel-values',
    }
    try:
      volume = read_volume(path)
      self._check_spacing(path, volume)
      array = as_uint8(volume.array, path)
    except VolumeError as error:
      self.add(
        codes.get(type(error), 'damaged-file'),
        error.path,
        error.fault,
        'an intact volume',
      )
      return None
    if array is not volume.array:
      self.add('voxel-dtype', path, volume.array.dtype, 'uint8')
    if path.name.endswith('_gt' + self.ending):
      wrong = np.flatnonzero(np.bincount(array.ravel(), minlength=256))
      wrong = [int(value) for value in wrong if value > max(LABELS.values())]
      if wrong:
        self.add('label-values', path, f'labels {wrong}', '0, 1, 2, 3')
        return None
    elif (blank := array.min(axis=(1, 2)) == array.max(axis=(1, 2))).any():
      self.add(
        'image-blank',
        path,
        f'one value only on frames {(np.flatnonzero(blank) + 1).tolist()}',
        'gray levels',
      )
    elif array.max() <= max(LABELS.values()):
      self.add(
        'image-is-mask', path, f'values 0 to {array.max()}', 'gray levels'
      )
    return array

  def _check_spacing(self, path: Path, volume) -> None:
    spacing = volume.spacing_mm
    if not np.isfinite(spacing).all():
      self.add(
        'spacing-missing', path, spacing.tolist(), 'mm per pixel (row, column)'
      )
      return
    size = np.array(volume.array.shape[1:]) * spacing
    if not all(_DEPTH_MM[0] <= side <= 2 * _DEPTH_MM[1] for side in size) or (
      size[0] > _DEPTH_MM[1]
    ):
      self.add(
        'spacing-implausible',
        path,
        f'{spacing[0]:g} x {spacing[1]:g} mm, an image of {size[0]:.0f}'
        f' x {size[1]:.0f} mm',
        'an image 50 to 250 mm deep',
      )
    if self.spacing is None:
      self.spacing = spacing, path
    elif not np.allclose(spacing, self.spacing[0], rtol=1e-3):
      self.add(
        'spacing-mismatch',
        path,
        spacing.tolist(),
        f'{self.spacing[0].tolist()} as in {self.spacing[1].name}',
      )

  def _check_cfg(self, sequence: np.ndarray | None) -> tuple[int, int] | None:
    """Zero-based (ed, es) if the cfg and the sequence agree on them."""
    if not self.info:
      return None
    info, path = self.info, self.cfg_path
    if info.get('imagequality', '').capitalize() not in camus.QUALITIES:
      self.add(
        'quality-unknown',
        path,
        info.get('imagequality', 'nothing'),
        ' or '.join(camus.QUALITIES),
      )
    withheld = self.labels_withheld and 'lvef' not in info
    if not withheld and not 0 <= camus.info_number(info, 'EF', 'LVef') <= 100:
      self.add(
        'ef-range',
        path,
        info.get('ef', info.get('lvef', 'nothing')),
        'a percentage in 0..100',
      )
    if (self.form == 'nifti' or 'framerate' in info) and not (
      5 <= camus.info_number(info, 'FrameRate') <= 500
    ):
      self.add(
        'fps-range',
        path,
        info.get('framerate', 'nothing'),
        'frames per second in 5..500',
      )
    count = camus.info_number(info, 'NbFrame')
    if sequence is not None and count != len(sequence):
      self.add(
        'cfg-count',
        path,
        f'NbFrame: {info.get("nbframe", "nothing")}',
        f'{len(sequence)}, the frames of the sequence',
      )
    if sequence is not None:
      count = len(sequence)
    frames = []
    for key in ('ED', 'ES'):
      number = camus.info_number(info, key)
      if not 1 <= number <= count or number != int(number):
        found = info.get(key.lower(), 'nothing')
        self.add(
          'cfg-frame', path, f'{key}: {found}', f'a frame in 1..{count:g}'
        )
      else:
        frames.append(int(number) - 1)
    if len(frames) < 2:
      return None
    if frames[0] == frames[1]:
      self.add(
        'ed-equals-es', path, f'both are frame {frames[0] + 1}', 'two frames'
      )
      return None
    if frames[0] > frames[1]:
      self.add(
        'es-before-ed',
        path,
        f'ED: {frames[0] + 1}, ES: {frames[1] + 1}',
        'ED before ES',
      )
    return frames[0], frames[1]

  def _check_shapes(self, arrays: dict[str, np.ndarray]) -> None:
    """Drops what does not fit the sequence (or the first file read)."""
    if not arrays:
      return
    reference = next(iter(arrays))
    size = arrays[reference].shape[1:]
    for key, array in list(arrays.items()):
      wanted = (
        (*arrays.get('sequence', array).shape[:1], *size)
        if ('sequence' in key)
        else (1, *size)
      )
      if array.shape != wanted:
        self.add(
          'shape-mismatch',
          self._path(key),
          array.shape,
          f'{wanted}, judged by {self._path(reference).name}',
        )
        del arrays[key]

  def _check_single_frames(
    self, arrays: dict[str, np.ndarray], ed: int, es: int
  ) -> None:
    """The ED and ES files against their frames of the sequence."""
    for suffix in ('', '_gt'):
      sequence = arrays.get(f'sequence{suffix}')
      if sequence is None:
        continue
      for name, frame in (('ED', ed), ('ES', es)):
        single = arrays.get(name + suffix)
        if single is None or np.array_equal(single[0], sequence[frame]):
          continue
        wanted = f'those of frame {frame + 1} of the sequence'
        same = (sequence == single[0]).all(axis=(1, 2))
        if same.any():
          self.add(
            'frame-order',
            self._path(name + suffix),
            f'the pixels of frame {same.argmax() + 1}',
            wanted,
          )
        else:
          self.add(
            'frame-mismatch', self._path(name + suffix), 'other pixels', wanted
          )

  def _check_heart(
    self, arrays: dict[str, np.ndarray], ed: int, es: int
  ) -> None:
    """What the masks say about the ventricle and the atrium."""
    masks = {}
    for name, frame in (('ED', ed), ('ES', es)):
      if 'sequence_gt' in arrays:
        masks[name] = (arrays['sequence_gt'][frame], 'sequence_gt')
      elif f'{name}_gt' in arrays:
        masks[name] = (arrays[f'{name}_gt'][0], f'{name}_gt')
    areas = {}
    for name, (mask, key) in masks.items():
      areas[name] = int((mask == LABELS['lv']).sum())
      if not areas[name]:
        self.add(
          'lv-empty',
          self._path(key),
          f'no label 1 at {name}',
          'a left ventricle',
        )
    if len(areas) == 2 and all(areas.values()) and areas['ED'] < areas['ES']:
      self.add(
        'ed-es-swapped' if areas['ED'] < 0.95 * areas['ES'] else 'ed-es-close',
        self.cfg_path,
        f'{areas["ED"]} pixels at ED, {areas["ES"]} at ES',
        'the larger ventricle at ED',
      )
    if 'sequence_gt' in arrays:
      empty = ~(arrays['sequence_gt'] == LABELS['lv']).any(axis=(1, 2))
      empty[[ed, es]] = False
      if empty.any():
        self.add(
          'frame-unlabeled',
          self._path('sequence_gt'),
          f'no label 1 on frames {(np.flatnonzero(empty) + 1).tolist()}',
          'a left ventricle on every frame',
        )
    cut = [
      name
      for name, (mask, _) in masks.items()
      if any(
        (edge == LABELS['la']).any()
        for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1])
      )
    ]
    if cut:
      self.add(
        'atrium-cut',
        self._path(masks[cut[0]][1]),
        f'label 3 on the border at {" and ".join(cut)}',
        'a whole atrium',
      )


def _check_splits(layout: camus.Layout) -> Iterable[Finding]:
  """The patient lists against each other and against the disk."""
  if layout.form == 'mhd' and not layout.split_dir.is_dir():
    return
  owners = collections.defaultdict(list)
  complete = True
  for split, name in camus.SPLIT_FILES.items():
    path = layout.split_dir / name
    if not path.is_file():
      complete = False
      yield make_finding(
        'split-missing', path, 'nothing', 'one patient id a line'
      )
      continue
    try:
      patients = camus.read_split_file(path)
    except InputError as error:
      complete = False
      yield make_finding('split-unreadable', path, error, 'patient ids')
      continue
    if not patients:
      yield make_finding('split-empty', path, 'no id', 'at least one')
    for patient, times in collections.Counter(patients).items():
      if times > 1:
        yield make_finding(
          'split-duplicate', path, f'{patient} {times} times', 'once'
        )
      if patient not in layout.folders:
        yield make_finding(
          'split-absent',
          path,
          f'{patient}, not on disk',
          f'one of {len(layout.folders)} patients on disk',
        )
      if owners[patient]:
        yield make_finding(
          'split-leak',
          path,
          f'{patient}, also in {owners[patient][0]}',
          'each patient in one split',
        )
      owners[patient].append(split)
  if complete:
    for patient, folder in layout.folders.items():
      if not owners[patient]:
        yield make_finding(
          'split-unlisted',
          folder,
          f'{patient} in no list',
          'a line in one of database_split',
        )
