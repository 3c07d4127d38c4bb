"""Reader of CAMUS in both forms of its provider, and as copies of its ED and ES frames.

NIfTI (2022): every frame labeled, splits in `database_split/subgroup_*.txt`. MetaImage (2019):
labels at ED and ES only, anisotropic spacing, `training/` and `testing/`. Many copies hold neither
sequences nor cfg files: their clips are the frames at ED and ES. docs/data.md shows the files. The
folder tells which form it is.
"""

import dataclasses
import math
import os
from pathlib import Path
import re

import numpy as np

from echoforge_jax.clip import LABELS, Clip
from echoforge_jax.errors import InputError
from echoforge_jax.formats.camus_view import VIEWS, View
from echoforge_jax.formats.findings import ERROR, fault, raise_first
from echoforge_jax.metrics import ejection

SPLIT_FILES = {name: f'subgroup_{name}.txt' for name in ('training', 'validation', 'testing')}
SCHEMES = ('official', 'memsam')
# What `echoforge phantom` leaves beside the layout, and CAMUS does not.
PHANTOM_FILE = 'phantom.json'
# The names both worlds use for the three splits.
_SPLIT_NAMES = {'train': 'training', 'test': 'testing'} | {name: name for name in SPLIT_FILES}
# Last patient number of training and validation in MemSAM (CVPR 2024).
_MEMSAM_LAST = (350, 400)
_PATIENT = re.compile(r'patient\d+')
_LISTED = re.compile(r'(testing-)?patient\d+')


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the patients of a raw CAMUS folder lie."""

  form: str  # 'nifti' or 'mhd'.
  root: Path  # Holds `database_nifti`, or `training`.
  folders: dict[str, Path]  # By patient id, in id order.
  # Folder of the ED and ES frames by (patient, view), where no patient has a sequence; else None.
  stills: dict[tuple[str, str], Path] | None = None

  @property
  def split_dir(self) -> Path:
    """Returns the folder of the official patient lists (may be absent)."""
    return self.root / 'database_split'

  def view(self, patient: str, view: str) -> View:
    """Returns a view of a patient on disk, not read yet."""
    folder = self.folders[patient]
    if self.stills is None:
      return View(self.form, folder, view)
    return View(self.form, folder, view, stills=self.stills.get((patient, view), folder))

  def views(self, patient: str) -> list[View]:
    """Returns the views that a patient on disk has, or should have."""
    names = [v for v in VIEWS if self.stills is None or (patient, v) in self.stills]
    return [self.view(patient, name) for name in names]


def find_layout(raw_dir) -> Layout:
  """Finds the patients below `raw_dir` and tells the form by their files.

  Args:
    raw_dir: the download's root (`CAMUS_public`, its parent, or a phantom), or the patients' folder
      itself (`database_nifti`, `training`). A layout is returned as it is: whatever takes a raw
      folder here takes the layout that was found in it.
  """
  if isinstance(raw_dir, Layout):
    return raw_dir
  raw_dir = Path(raw_dir)
  wanted = 'database_nifti/patient0001/... (NIfTI) or training/patient0001/... (.mhd)'
  if not raw_dir.is_dir():
    raise InputError(
      f'{raw_dir}: folder not found; wanted the CAMUS root, which holds {wanted}; remedy: correct '
      'the path'
    )
  roots = [raw_dir, raw_dir / 'CAMUS_public']
  if raw_dir.resolve().name in ('database_nifti', 'training'):
    roots.append(raw_dir.resolve().parent)
  for root in roots:
    folders = _patient_folders(root / 'database_nifti')
    if folders:
      return _layout('nifti', root, folders)
    folders = _training_and_testing(root)
    if folders:
      return _layout(_form(folders), root, folders)
  folders = _patient_folders(raw_dir)
  if folders:
    return _layout(_form(folders), raw_dir, folders)
  found = ', '.join(sorted(os.listdir(raw_dir))[:5]) or 'an empty folder'
  raise InputError(
    f'{raw_dir}: no CAMUS patients here (found {found}); wanted {wanted}; remedy: point at the '
    'unpacked CAMUS root'
  )


def _layout(form: str, root: Path, folders: dict[str, Path]) -> Layout:
  """Looks for sequences, and for the frames at ED and ES where there are none."""
  stills = {}
  for patient, folder in folders.items():
    names = os.listdir(folder)
    if any('sequence' in name for name in names):
      return Layout(form, root, folders)
    for view in VIEWS:
      if any(name.startswith(f'{folder.name}_{view}_') for name in names):
        stills[patient, view] = folder
  for view in VIEWS:
    folder = root / f'stills_{view}'
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
      patient, _, rest = name.partition(f'_{view}_')
      if rest and patient in folders:
        stills.setdefault((patient, view), folder)
  return Layout(form, root, folders, stills or None)


def _patient_folders(folder: Path) -> dict[str, Path]:
  if not folder.is_dir():
    return {}
  with os.scandir(folder) as entries:
    names = [entry.name for entry in entries if _PATIENT.fullmatch(entry.name) and entry.is_dir()]
  return {name: folder / name for name in sorted(names, key=patient_number)}


def _training_and_testing(root: Path) -> dict[str, Path]:
  """Returns the patients of both folders; a number used in both is told apart."""
  folders = _patient_folders(root / 'training')
  if not folders:
    return {}
  testing = _patient_folders(root / 'testing')
  return folders | {
    f'testing-{name}' if name in folders else name: folder for name, folder in testing.items()
  }


def _form(folders: dict[str, Path]) -> str:
  """Returns what most of the volumes are in the first folder that holds any."""
  for folder in folders.values():
    names = os.listdir(folder)
    nifti = sum(name.endswith('.nii.gz') for name in names)
    mhd = sum(name.endswith('.mhd') for name in names)
    if nifti or mhd:
      return 'nifti' if nifti >= mhd else 'mhd'
  return 'nifti'


def patient_number(patient: str) -> int:
  """Returns the number in a patient id: 12 for 'patient0012'."""
  return int(re.findall(r'\d+', patient)[-1])


def list_patients(raw_dir) -> list[str]:
  """Returns the ids of all patients on disk, in id order."""
  return list(find_layout(raw_dir).folders)


def is_synthetic(raw_dir) -> bool:
  """Returns True for patients that `echoforge phantom` wrote."""
  return (find_layout(raw_dir).root / PHANTOM_FILE).is_file()


def read_clip(raw_dir, patient: str, view: str) -> Clip:
  """Reads one view's half-sequence, in the order ED -> ES.

  In the MetaImage form only ED and ES are labeled, and nothing is where the provider withheld the
  labels. Size and spacing are native. Where no patient has a sequence, the clip is the frames at ED
  and ES, and without a cfg its EF is measured on the masks (`Clip.ef_source`).
  """
  layout = find_layout(raw_dir)
  if patient not in layout.folders:
    raise InputError(
      f'{layout.root}: no patient {patient!r}; wanted one of {len(layout.folders)} on disk, the '
      f'first is {next(iter(layout.folders))!r}'
    )
  if view not in VIEWS:
    raise InputError(f'unknown view {view!r}; wanted one of {VIEWS}')
  found = layout.view(patient, view)
  raise_first(found.read())
  clip = found.clip(patient)
  if layout.stills is None or math.isfinite(clip.ef_percent):
    return clip
  return dataclasses.replace(clip, **_measure(layout, patient, found))


def _measure(layout: Layout, patient: str, already: View) -> dict:
  """Measures a patient's volumes and EF on the masks of all views with a known pixel spacing.

  The view `already` was read without an error.
  """
  ends: tuple[dict, dict] = {}, {}
  for view in layout.views(patient):
    if view.is_png:
      continue
    if view.view == already.view:
      view = already
    elif any(finding.severity == ERROR for finding in view.read()):
      continue
    masks = view.masks_at_ends()
    if len(masks) == 2 and np.isfinite(view.spacing_mm['ED']).all():
      for cavities, (mask, _) in zip(ends, masks.values()):
        spacing = tuple(map(float, view.spacing_mm['ED']))
        cavities[view.view] = ejection.measure_cavity(mask == LABELS['lv'], spacing)
  if not ends[0]:
    return {}
  found = ejection.measure_ejection(*ends)
  numbers = {name: getattr(found, name) for name in ('ef_percent', 'edv_ml', 'esv_ml')}
  if not math.isfinite(found.ef_percent):
    return numbers
  plane = 'biplane' if len(ends[0]) == 2 else f'single plane {next(iter(ends[0]))}'
  return numbers | {'ef_source': f'masks, {plane}'}


def read_split(raw_dir, split: str, scheme: str = 'official') -> list[str]:
  """Returns the patient ids of one split, in id order, on disk or not.

  'official' reads `database_split/subgroup_*.txt` (400/50/50). Without that folder the MetaImage
  form's own folders decide: `testing/` is the test set and the last ninth of `training/` by id
  validates (50 of 450; ours). 'memsam' goes by patient number: 1-350, 351-400, 401-500. A set that
  does not reach number 401 or passes 500 is no CAMUS: there the same shares (70, 10 and 20 %) are
  cut by id order (ours). Copies of ED and ES frames may lack a list, whose split is then empty.

  Args:
    raw_dir: see `find_layout`.
    split: 'training' ('train'), 'validation' or 'testing' ('test').
    scheme: 'official' or 'memsam'.
  """
  layout = find_layout(raw_dir)
  if split not in _SPLIT_NAMES:
    raise InputError(f'unknown split {split!r}; wanted one of {sorted(_SPLIT_NAMES)}')
  if scheme not in SCHEMES:
    raise InputError(f'unknown split scheme {scheme!r}; wanted one of {SCHEMES}')
  name = _SPLIT_NAMES[split]
  if scheme == 'memsam':
    patients = _memsam(layout)[name]
  elif layout.form == 'mhd' and not layout.split_dir.is_dir():
    patients = _folder_split(layout)[name]
  elif name in missing_lists(layout):
    patients = []
  else:
    patients = read_split_file(layout.split_dir / SPLIT_FILES[name])
  if not patients and layout.stills is None:
    raise InputError(
      f'{layout.root}: the {scheme} {name} split is empty; wanted at least one patient; remedy: '
      'more patients, or another scheme'
    )
  return patients


def missing_lists(layout: Layout) -> list[str]:
  """Returns the splits that a copy of ED and ES frames has no list of, though it has one."""
  names = [name for name in SPLIT_FILES if not (layout.split_dir / SPLIT_FILES[name]).exists()]
  return names if layout.stills is not None and len(names) < len(SPLIT_FILES) else []


def read_split_file(path) -> list[str]:
  """Returns the ids of a `subgroup_*.txt`, one per line, in id order, duplicates kept."""
  path = Path(path)
  if not path.is_file():
    raise fault('split-missing', path, 'nothing', 'one patient id per line')
  try:
    lines = path.read_text(encoding='utf-8-sig').split('\n')
  except UnicodeDecodeError as error:
    raise fault('split-unreadable', path, f'no text ({error.reason})', 'patient ids') from error
  patients = []
  for number, line in enumerate(map(str.strip, lines), start=1):
    if not line:
      continue
    if not _LISTED.fullmatch(line):
      found = f'{line[:60]!r} in line {number}'
      raise fault('split-unreadable', path, found, "one patient id a line, such as 'patient0001'")
    patients.append(line)
  return sorted(patients, key=patient_number)


def _memsam(layout: Layout) -> dict[str, list[str]]:
  patients = sorted(layout.folders, key=patient_number)
  numbers = [patient_number(patient) for patient in patients]
  if len(set(numbers)) == len(numbers) and 400 < max(numbers) <= 500:
    cuts = [sum(number <= last for number in numbers) for last in _MEMSAM_LAST]
  else:
    count = len(patients)
    test, validation = max(1, round(0.2 * count)), max(1, round(0.1 * count))
    cuts = [max(count - test - validation, 0), max(count - test, 0)]
  return {
    'training': patients[: cuts[0]],
    'validation': patients[cuts[0] : cuts[1]],
    'testing': patients[cuts[1] :],
  }


def _folder_split(layout: Layout) -> dict[str, list[str]]:
  training = [name for name, folder in layout.folders.items() if folder.parent.name != 'testing']
  testing = [patient for patient in layout.folders if patient not in set(training)]
  validation = max(1, round(len(training) / 9))
  return {
    'training': training[:-validation],
    'validation': training[-validation:],
    'testing': testing,
  }
