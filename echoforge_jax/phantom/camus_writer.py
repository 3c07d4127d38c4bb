"""Synthetic patients as raw CAMUS folders, in either of CAMUS's two forms.

The files are what the provider ships, so that reader and verification treat them as such. The exact
truth lies beside that layout in `phantom.json`: CAMUS itself gives EF as a whole number only.
"""

from collections.abc import Callable
import os
from pathlib import Path
import shutil

import cv2
import numpy as np

from echoforge_jax import textio
from echoforge_jax.clip import Clip
from echoforge_jax.errors import InputError
from echoforge_jax.formats import volumes
from echoforge_jax.formats.camus import SPLIT_FILES, VIEWS
from echoforge_jax.phantom import writing
from echoforge_jax.phantom.config import PhantomConfig

LAYOUTS = ('nifti', 'mhd')
# Share of sequences stored from ES to ED (ours: CAMUS has some).
_ES_FIRST_SHARE = 0.1
# The older form samples rows twice as densely as columns.
_MHD_ROW_FACTOR = 2
_MHD_STEP_Z = 1.54


def write_camus(
  out_dir,
  *,
  num_patients: int,
  seed: int,
  config=None,
  layout: str = 'nifti',
  num_test: int | None = None,
  num_workers: int = 0,
  progress: bool = True,
  generate: Callable | None = None,
) -> dict:
  """Writes synthetic patients as CAMUS, continuing a stopped run; returns the truth written.

  A patient's folder appears whole or not at all; patients that are there are not made again. The
  same arguments give the same bytes.

  Args:
    out_dir: gets `phantom.json` and `database_{nifti,split}/` (or `training/` and `testing/`).
    num_patients: 1 to 9999.
    seed: root seed of all patients and of the split.
    config: `PhantomConfig`; None means `PhantomConfig.camus()`.
    layout: 'nifti' or 'mhd', see `formats/camus.py`.
    num_test: test patients; None takes a tenth, as CAMUS does.
    num_workers: processes beside this one; 0 works in this one.
    progress: shows a bar.
    generate: picklable `(seed, index, config) -> Patient`; None means `patient.generate_patient`.
  """
  writing.check_counts(num_patients, seed)
  if layout not in LAYOUTS:
    raise InputError(f'unknown layout {layout!r}; wanted one of {LAYOUTS}')
  config = PhantomConfig.camus() if config is None else config
  out_dir = Path(out_dir)
  splits = split_patients(num_patients, seed, num_test)
  counts = dict(num_patients=num_patients, num_test=len(splits['testing']))
  truth = writing.open_truth(out_dir, config, **counts, seed=seed, layout=layout)
  jobs = []
  for index in range(num_patients):
    patient = _patient_id(index)
    parent = 'testing' if patient in splits['testing'] else 'training'
    folder = out_dir / ('database_nifti' if layout == 'nifti' else parent) / patient
    if patient not in truth['patients'] or not folder.is_dir():
      jobs.append((seed, index, config, layout, str(folder), generate))
  writing.make_patients(
    _write_patient, jobs, truth, out_dir, num_workers=num_workers, progress=progress
  )
  if layout == 'nifti':
    (out_dir / 'database_split').mkdir(exist_ok=True)
    for name, patients in splits.items():
      path = out_dir / 'database_split' / SPLIT_FILES[name]
      textio.write_text(path, ''.join(f'{patient}\n' for patient in patients))
  return truth


def split_patients(
  num_patients: int, seed: int, num_test: int | None = None
) -> dict[str, list[str]]:
  """Draws 80/10/10: sorted ids of 'training', 'validation', 'testing' (`writing.split_sizes`)."""
  val, test = writing.split_sizes(num_patients, num_test, (0.1, 0.1))
  order = np.random.default_rng([seed, 1]).permutation(num_patients)
  parts = np.split(order, [num_patients - test - val, num_patients - test])
  return {name: [_patient_id(i) for i in np.sort(p)] for name, p in zip(SPLIT_FILES, parts)}


def _patient_id(index: int) -> str:
  return f'patient{index + 1:04d}'


def _es_first(seed: int, index: int, view: str) -> bool:
  """Tells if a sequence is stored from ES to ED; patient 2 always has one."""
  draw = np.random.default_rng([seed, 2, index, VIEWS.index(view)]).random()
  return draw < _ES_FIRST_SHARE or (index == 1 and view == '4CH')


def _write_patient(job: tuple) -> tuple[str, dict]:
  """Makes one patient and moves its finished folder into place."""
  seed, index, config, layout, folder, generate = job
  if generate is None:
    from echoforge_jax.phantom.patient import generate_patient as generate
  patient = generate(seed, index, config)
  folder = Path(folder)
  partial = folder.with_name(f'.{folder.name}.partial')
  for leftover in (partial, folder):
    if leftover.exists():
      shutil.rmtree(leftover)
  partial.mkdir(parents=True)
  es_first = {}
  for view in VIEWS:
    clip = patient.clips[view]
    flip = es_first[view] = _es_first(seed, index, view)
    frames, masks = (part[clip.ed : clip.es + 1] for part in (clip.frames, clip.masks))
    if flip:
      frames, masks = frames[::-1], masks[::-1]
    write = _write_nifti if layout == 'nifti' else _write_mhd
    write(partial, f'{folder.name}_{view}', frames, masks, clip.spacing_mm, flip)
    (partial / f'Info_{view}.cfg').write_text(_cfg(patient, clip, len(frames), layout, flip))
  os.rename(partial, folder)
  facts = {'sex': str(patient.sex), 'age': round(float(patient.age)), 'es_first': es_first}
  return folder.name, writing.facts_of(patient) | facts


def _cfg(patient, clip: Clip, num_frames: int, layout: str, es_first: bool) -> str:
  """Returns the text of an `Info_V.cfg`; the older form names its volumes."""
  ed, es = (num_frames, 1) if es_first else (1, num_frames)
  lines = {'ED': ed, 'ES': es, 'NbFrame': num_frames, 'Sex': patient.sex}
  lines |= {'Age': round(float(patient.age)), 'ImageQuality': clip.quality}
  if layout == 'nifti':
    lines |= {'EF': round(float(patient.ef_percent)), 'FrameRate': f'{float(clip.fps):.1f}'}
  else:
    for key in ('edv_ml', 'esv_ml', 'ef_percent'):
      lines['LV' + key.split('_')[0]] = f'{float(getattr(patient, key)):.1f}'
  return ''.join(f'{key}: {value}\n' for key, value in lines.items())


def _write_nifti(folder, stem, frames, masks, spacing_mm, es_first) -> None:
  """Writes six gzipped volumes of one view: ED, ES, half_sequence, each with _gt.

  The orientation is the identity in ITK's terms, as in the provider's files.
  """
  ed, es = (-1, 0) if es_first else (0, -1)
  row, column = (float(step) for step in spacing_mm)
  for suffix, array in (('', frames), ('_gt', masks)):
    for name, part in (('ED', array[ed]), ('ES', array[es]), ('half_sequence', array)):
      # ITK writes no time stamp into the gzip header: same bytes every time.
      path = folder / f'{stem}_{name}{suffix}.nii.gz'
      volumes.write_volume(path, part, (column, row, 1.0)[: part.ndim])


def _write_mhd(folder, stem, frames, masks, spacing_mm, es_first) -> None:
  """Writes the older form: sequence, ED and ES with their labels, rows doubled."""
  height, width = frames.shape[1:]
  size = (width, _MHD_ROW_FACTOR * height)
  frames = np.stack([cv2.resize(f, size, interpolation=cv2.INTER_LINEAR) for f in frames])
  masks = masks.repeat(_MHD_ROW_FACTOR, axis=1)
  row, column = (float(step) for step in spacing_mm)
  spacing = (round(column, 6), round(row / _MHD_ROW_FACTOR, 6), _MHD_STEP_Z)
  ed, es = (len(frames) - 1, 0) if es_first else (0, len(frames) - 1)
  volumes.write_volume(folder / f'{stem}_sequence.mhd', frames, spacing)
  for name, frame in (('ED', ed), ('ES', es)):
    only = slice(frame, frame + 1)
    volumes.write_volume(folder / f'{stem}_{name}.mhd', frames[only], spacing)
    volumes.write_volume(folder / f'{stem}_{name}_gt.mhd', masks[only], spacing)
