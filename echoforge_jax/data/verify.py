"""Checks a raw CAMUS dataset file by file before anything is built from it.

Every file is read once and every fault becomes a finding. What makes the reader refuse a clip is
found by the reader itself (`formats.camus_view`); this file adds what only the whole shows.
"""

import collections
from collections.abc import Iterable, Iterator
import concurrent.futures
import functools
import hashlib
import itertools
import os
from pathlib import Path
import sys

import numpy as np
from tqdm import tqdm

from echoforge_jax.clip import LABELS, Clip
from echoforge_jax.data.datasets import SUFFIXES, Reader
from echoforge_jax.formats import camus
from echoforge_jax.formats.camus_view import ENDINGS, QUALITIES, VIEWS, View, info_number
from echoforge_jax.formats.findings import Finding, FindingError, make_finding

# Depth and width of the field of view that CAMUS can have, in mm.
_DEPTH_MM = (50.0, 250.0)
_HARMLESS = {'MANDATORY_CITATION.md'}


class Camus(Reader):
  """Reads CAMUS in all its forms; see `formats.camus`."""

  schemes = camus.SCHEMES

  @functools.cached_property
  def layout(self) -> camus.Layout:
    """Returns where the patients lie, looked for once."""
    return camus.find_layout(self.raw_dir)

  @property
  def suffixes(self) -> tuple[str, ...]:
    """Returns the endings of the files that are data."""
    return SUFFIXES if self.layout.stills is None else (*SUFFIXES, '.png')

  @property
  def synthetic(self) -> bool:
    """Returns True for patients that `echoforge phantom` wrote."""
    return camus.is_synthetic(self.layout)

  def list_clips(self, split: str, scheme: str) -> list[tuple[str, str]]:
    """Returns both views of each patient of a split, on disk or not.

    Of a copy of ED and ES frames, a patient on disk has the views that are there.
    """
    layout = self.layout
    clips = itertools.product(camus.read_split(layout, split, scheme), VIEWS)
    if layout.stills is None:
      return list(clips)
    there = {patient for patient, _ in layout.stills}
    return [clip for clip in clips if clip in layout.stills or clip[0] not in there]

  def read_clip(self, patient: str, view: str) -> Clip:
    """Reads one view, in the order ED -> ES."""
    return camus.read_clip(self.layout, patient, view)

  def verify(self) -> Iterable[Finding]:
    """Checks every file, and the lists of patients."""
    return verify_camus(self.raw_dir, progress=sys.stderr.isatty())

  def count_patients(self) -> int:
    """Returns how many patients are on disk."""
    return len(self.layout.folders)


def verify_camus(raw_dir, *, progress=False, num_threads: int | None = None) -> list[Finding]:
  """Returns the findings of a raw CAMUS folder in either form, patients first, then the splits.

  `num_threads` patients are read at once; None means one per core, 4 at most.
  """
  layout = camus.find_layout(raw_dir)
  findings = [*_strays(layout), *_check_stills(layout)]
  first_file = {}
  threads = num_threads or min(4, os.cpu_count() or 1)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    checks = pool.map(functools.partial(_check_patient, layout), layout.folders)
    options = {'total': len(layout.folders), 'unit': 'patient', 'desc': 'verify'}
    for found, digests in tqdm(checks, disable=not progress, **options):
      findings += found
      for code, digest, path in digests:
        original = first_file.setdefault((code, digest), path)
        if original != path:
          same = f'the same frames as {original}'
          findings.append(make_finding(code, path, same, 'others'))
  findings += _check_splits(layout)
  return findings


def _strays(layout: camus.Layout) -> Iterator[Finding]:
  for parent in sorted({folder.parent for folder in layout.folders.values()}):
    if parent == layout.root:
      continue  # A bare folder of patients: its neighbours are not ours.
    known = {f.name for f in layout.folders.values() if f.parent == parent}
    for name in sorted(set(os.listdir(parent)) - known - _HARMLESS):
      yield make_finding('stray-file', parent / name, name, 'patientXXXX folders')
  if layout.stills is None:
    return
  images = [view for clip in layout.stills if (view := layout.view(*clip)).is_png]
  for folder in sorted({view.stills for view in images}):
    paths = [view.path(key) for view in images for key in view.volumes if view.stills == folder]
    for name in sorted(set(os.listdir(folder)) - {path.name for path in paths}):
      wanted = f'images of patients on disk, such as {paths[0].name}'
      yield make_finding('stray-file', folder / name, name, wanted)


def _check_stills(layout: camus.Layout) -> Iterator[Finding]:
  """Says once what a copy of ED and ES frames lacks."""
  if layout.stills is None:
    return
  count, views = len(layout.stills), {view for _, view in layout.stills}
  cfgs = sum(layout.view(*clip).cfg_path.is_file() for clip in layout.stills)
  lacks = [f'no sequence of {count} clips', f'no cfg file of {count - cfgs}']
  for view in VIEWS:
    absent = [p for p in layout.folders if (p, view) not in layout.stills]
    if absent:
      one = f' (the first is {absent[0]})' if view in views else ''
      lacks.append(f'no {view} of {len(absent)} of {len(layout.folders)} patients{one}')
    if images := sum(layout.view(*clip).is_png for clip in layout.stills if clip[1] == view):
      lacks.append(f'no pixel spacing of {images} clips ({view}, PNG)')
  lacks += [f'no {camus.SPLIT_FILES[name]}' for name in camus.missing_lists(layout)]
  yield make_finding('no-sequences', layout.root, ', '.join(lacks), 'what the provider ships')


def _check_patient(
  layout: camus.Layout, patient: str
) -> tuple[list[Finding], list[tuple[str, bytes, Path]]]:
  """Returns findings of one patient, and `_digests` of its views."""
  folder, views = layout.folders[patient], layout.views(patient)
  if not views:
    wanted = f'frames such as {layout.view(patient, VIEWS[-1]).path("ED").name}'
    return [make_finding('missing-file', folder, 'no frame of any view', wanted)], []
  findings, digests = list(_stray_files(folder, views)), []
  for view in views:
    findings += view.read(everything=True)
    findings += _judge(view)
    digests += _digests(view)
    # Nothing else is needed of it: eight patients are in memory at once.
    view.arrays.clear()
  for key in ('ef', 'lvef', 'sex', 'age'):
    said = [view.info.get(key, '').lower() for view in views]
    if len(said) == 2 and all(said) and said[0] != said[1]:
      two, four = said
      wanted = f'{key} {two} as in {views[0].cfg_path.name}'
      findings.append(make_finding('views-disagree', views[1].cfg_path, f'{key} {four}', wanted))
  return findings, digests


def _digests(view: View) -> Iterator[tuple[str, bytes, Path]]:
  """Yields (code if another file has them too, digest, path) of a view's images."""
  images = ('ED', 'ES') if view.stills else ('sequence',)
  found = [np.ascontiguousarray(view.arrays[key]) for key in images if key in view.arrays]
  if len(found) < len(images):
    return
  parts = [hashlib.blake2b(array, digest_size=16).digest() for array in found]
  yield 'duplicate-images', b''.join(parts), view.path(images[0])
  if view.stills:
    yield from zip(('frame-shared',) * 2, parts, map(view.path, images))


def _stray_files(folder: Path, views: list[View]) -> Iterator[Finding]:
  known = {view.cfg_path.name for view in views} | _HARMLESS
  for view in views:
    names = {view.path(key).name for key in view.volumes}
    known |= names
    if view.form == 'mhd':
      known |= {name.replace(ENDINGS['mhd'], data) for name in names for data in ('.raw', '.zraw')}
  wanted = f'only files such as {min(known - _HARMLESS)}'
  for name in sorted(set(os.listdir(folder)) - known):
    yield make_finding('stray-file', folder / name, name, wanted)


def _judge(view: View) -> Iterator[Finding]:
  """Yields what the reader of a clip copes with, or cannot see."""
  yield from _judge_info(view)
  yield from _judge_spacing(view)
  yield from _judge_images(view)
  if view.ends:
    yield from _judge_single_frames(view)
    yield from _judge_masks(view)


def _judge_info(view: View) -> Iterator[Finding]:
  info, path = view.info, view.cfg_path
  if not info:
    return
  quality = info.get('imagequality', 'nothing')
  if quality.capitalize() not in QUALITIES:
    yield make_finding('quality-unknown', path, quality, ' or '.join(QUALITIES))
  withheld = view.withheld and 'lvef' not in info
  if not withheld and not 0 <= info_number(info, 'EF', 'LVef') <= 100:
    ef = info.get('ef', info.get('lvef', 'nothing'))
    yield make_finding('ef-range', path, ef, 'a percentage in 0..100')
  has_rate = view.form == 'nifti' or 'framerate' in info
  if has_rate and not 5 <= info_number(info, 'FrameRate') <= 500:
    rate = info.get('framerate', 'nothing')
    yield make_finding('fps-range', path, rate, 'frames per second in 5..500')
  if 'sequence' in view.arrays and 'nbframe' not in info:
    wanted = f'{len(view.arrays["sequence"])}, the frames of the sequence'
    yield make_finding('cfg-count', path, 'NbFrame: nothing', wanted)


def _judge_spacing(view: View) -> Iterator[Finding]:
  reference = None
  low, high = _DEPTH_MM
  for key, spacing in view.spacing_mm.items():
    path, shown = view.path(key), _millimeters(spacing)
    if view.is_png:
      continue  # Said once, by `_check_stills`.
    if not np.isfinite(spacing).all():
      yield make_finding('spacing-missing', path, shown, 'mm per pixel (row, column)')
      continue
    if key in view.arrays:
      size = np.array(view.arrays[key].shape[1:]) * spacing
      if size.min() < low or size[0] > high or size[1] > 2 * high:
        found = f'{spacing[0]:g} x {spacing[1]:g} mm, an image of {size[0]:.0f} x {size[1]:.0f} mm'
        yield make_finding('spacing-implausible', path, found, 'an image 50 to 250 mm deep')
    reference = reference or key
    if not np.allclose(spacing, view.spacing_mm[reference], rtol=1e-3):
      wanted = f'{_millimeters(view.spacing_mm[reference])} as in {view.path(reference).name}'
      yield make_finding('spacing-mismatch', path, shown, wanted)


def _millimeters(spacing: np.ndarray) -> str:
  return ' x '.join(f'{step:.4g}' for step in spacing) + ' mm'


def _judge_images(view: View) -> Iterator[Finding]:
  for key, array in view.arrays.items():
    if key.endswith('_gt'):
      continue
    blank = np.flatnonzero(array.min(axis=(1, 2)) == array.max(axis=(1, 2))) + 1
    if len(blank):
      found = f'one value only on frames {blank.tolist()}'
      yield make_finding('image-blank', view.path(key), found, 'gray levels')
    elif array.max() <= max(LABELS.values()):
      found = f'values 0 to {array.max()}'
      yield make_finding('image-is-mask', view.path(key), found, 'gray levels')


def _judge_single_frames(view: View) -> Iterator[Finding]:
  """Compares the ED and ES files with their frames of the sequence."""
  for suffix in ('', '_gt'):
    sequence = view.arrays.get(f'sequence{suffix}')
    for name, frame in zip(('ED', 'ES'), view.ends):
      single = view.arrays.get(name + suffix)
      if sequence is None or single is None:
        continue
      same = (sequence == single[0]).all(axis=(1, 2))
      if same[frame]:
        continue
      code, found = 'frame-mismatch', 'other pixels'
      if same.any():
        code, found = 'frame-order', f'the pixels of frame {same.argmax() + 1}'
      wanted = f'those of frame {frame + 1} of the sequence'
      yield make_finding(code, view.path(name + suffix), found, wanted)


def _judge_masks(view: View) -> Iterator[Finding]:
  """Yields what the masks say about the ventricle and the atrium."""
  masks = view.masks_at_ends()
  areas = [int((mask == LABELS['lv']).sum()) for mask, _ in masks.values()]
  if len(areas) == 2 and 0 < areas[0] < areas[1]:
    code = 'ed-es-swapped' if areas[0] < 0.95 * areas[1] else 'ed-es-close'
    found = f'{areas[0]} pixels at ED, {areas[1]} at ES'
    path = view.cfg_path if view.stills is None else view.path('ED_gt')
    yield make_finding(code, path, found, 'the larger ventricle at ED')
  if 'sequence_gt' in view.arrays:
    empty = ~(view.arrays['sequence_gt'] == LABELS['lv']).any(axis=(1, 2))
    empty[list(view.ends)] = False
    if empty.any():
      found = f'no label 1 on frames {(np.flatnonzero(empty) + 1).tolist()}'
      wanted = 'a left ventricle on every frame'
      yield make_finding('frame-unlabeled', view.path('sequence_gt'), found, wanted)
  cut = []
  for name, (mask, _) in masks.items():
    if any((edge == LABELS['la']).any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1])):
      cut.append(name)
  if cut:
    found = f'label 3 on the border at {" and ".join(cut)}'
    yield make_finding('atrium-cut', view.path(masks[cut[0]][1]), found, 'a whole atrium')


def _check_splits(layout: camus.Layout) -> Iterable[Finding]:
  """Compares the patient lists with each other and with the disk."""
  if layout.form == 'mhd' and not layout.split_dir.is_dir():
    return
  owners = collections.defaultdict(list)
  missing = camus.missing_lists(layout)
  complete = not missing
  for split, name in camus.SPLIT_FILES.items():
    path = layout.split_dir / name
    if split in missing:
      continue
    try:
      patients = camus.read_split_file(path)
    except FindingError as error:
      complete = False
      yield error.finding
      continue
    if not patients:
      yield make_finding('split-empty', path, 'no id', 'at least one')
    for patient, times in collections.Counter(patients).items():
      if times > 1:
        yield make_finding('split-duplicate', path, f'{patient} {times} times', 'once')
      if patient not in layout.folders:
        wanted = f'one of {len(layout.folders)} patients on disk'
        yield make_finding('split-absent', path, f'{patient}, not on disk', wanted)
      if owners[patient]:
        found = f'{patient}, also in {owners[patient][0]}'
        yield make_finding('split-leak', path, found, 'each patient in one split')
      owners[patient].append(split)
  for patient, folder in layout.folders.items():
    if complete and not owners[patient]:
      wanted = 'a line in one of database_split'
      yield make_finding('split-unlisted', folder, f'{patient} in no list', wanted)
