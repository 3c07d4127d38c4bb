"""Reader of CAMUS as the provider distributes it, in both of its forms.

NIfTI (2022): `database_nifti/patientXXXX/` with `Info_V.cfg` and
`patientXXXX_V_{ED,ES,half_sequence}[_gt].nii.gz`, every frame labeled, and
`database_split/subgroup_*.txt`. MetaImage (2019): `training/` and `testing/`
with `patientXXXX_V_{ED,ES}[_gt].mhd` and `..._V_sequence.mhd`, labels at ED
and ES only, anisotropic spacing. Which form it is shows in the folder.
"""

import dataclasses
import os
from pathlib import Path
import re

import numpy as np

from echoforge_jax.clip import LABELS, Clip
from echoforge_jax.errors import InputError
from echoforge_jax.formats.volumes import as_uint8, read_volume

VIEWS = ('2CH', '4CH')
QUALITIES = ('Good', 'Medium', 'Poor')
SPLIT_FILES = {
  'training': 'subgroup_training.txt',
  'validation': 'subgroup_validation.txt',
  'testing': 'subgroup_testing.txt',
}
SCHEMES = ('official', 'memsam')
# What `echoforge phantom` leaves beside the layout, and CAMUS does not.
PHANTOM_FILE = 'phantom.json'
# The names both worlds use for the three splits.
_SPLIT_NAMES = {
  'train': 'training',
  'training': 'training',
  'validation': 'validation',
  'test': 'testing',
  'testing': 'testing',
}
# Last patient number of training and validation in MemSAM (CVPR 2024).
_MEMSAM_LAST = (350, 400, 500)
_PATIENT = re.compile(r'patient\d+')


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the patients of a raw CAMUS folder lie.

  Attributes:
    form: 'nifti' or 'mhd'.
    root: the folder that holds `database_nifti`, or `training`.
    folders: folder of each patient, by patient id in id order.
  """

  form: str
  root: Path
  folders: dict[str, Path]

  @property
  def split_dir(self) -> Path:
    """Folder of the official patient lists (may be absent)."""
    return self.root / 'database_split'


def find_layout(raw_dir) -> Layout:
  """Finds the patients below `raw_dir` and tells the form by their files.

  Args:
    raw_dir: the download's root (`CAMUS_public`, its parent, or a phantom),
      or the patients' folder itself (`database_nifti`, `training`).

  Returns:
    The layout, patients in id order.

  Raises:
    InputError: `raw_dir` is no folder, or holds no CAMUS patients.
  """
  raw_dir = Path(raw_dir)
  wanted = (
    'database_nifti/patient0001/... (NIfTI) or training/patient0001/... (.mhd)'
  )
  if not raw_dir.is_dir():
    raise InputError(
      f'{raw_dir}: folder not found; wanted the CAMUS root, '
      f'which holds {wanted}; remedy: correct the path'
    )
  roots = [raw_dir, raw_dir / 'CAMUS_public']
  if raw_dir.resolve().name in ('database_nifti', 'training'):
    roots.append(raw_dir.resolve().parent)
  for root in roots:
    folders = _patient_folders(root / 'database_nifti')
    if folders:
      return Layout('nifti', root, folders)
    folders = _training_and_testing(root)
    if folders:
      return Layout(_form(folders), root, folders)
  folders = _patient_folders(raw_dir)
  if folders:
    return Layout(_form(folders), raw_dir, folders)
  found = ', '.join(sorted(os.listdir(raw_dir))[:5]) or 'an empty folder'
  raise InputError(
    f'{raw_dir}: no CAMUS patients here (found {found}); wanted '
    f'{wanted}; remedy: point at the unpacked CAMUS root'
  )


def _patient_folders(folder: Path) -> dict[str, Path]:
  if not folder.is_dir():
    return {}
  with os.scandir(folder) as entries:
    names = [
      entry.name
      for entry in entries
      if _PATIENT.fullmatch(entry.name) and entry.is_dir()
    ]
  return {name: folder / name for name in sorted(names, key=patient_number)}


def _training_and_testing(root: Path) -> dict[str, Path]:
  """Patients of both folders; a number used in both is told apart."""
  folders = _patient_folders(root / 'training')
  if not folders:
    return {}
  testing = _patient_folders(root / 'testing')
  return folders | {
    f'testing-{name}' if name in folders else name: folder
    for name, folder in testing.items()
  }


def _form(folders: dict[str, Path]) -> str:
  """The form of the first folder with volumes, by what most of them are."""
  for folder in folders.values():
    names = os.listdir(folder)
    nifti = sum(name.endswith('.nii.gz') for name in names)
    mhd = sum(name.endswith('.mhd') for name in names)
    if nifti or mhd:
      return 'nifti' if nifti >= mhd else 'mhd'
  return 'nifti'


def patient_number(patient: str) -> int:
  """The number in a patient id: 12 for 'patient0012'."""
  return int(re.findall(r'\d+', patient)[-1])


def list_patients(raw_dir) -> list[str]:
  """Ids of all patients on disk, in id order.

  Args:
    raw_dir: see `find_layout`.

  Returns:
    Ids such as 'patient0001'.

  Raises:
    InputError: no CAMUS patients there.
  """
  return list(find_layout(raw_dir).folders)


def is_synthetic(raw_dir) -> bool:
  """Whether the patients are phantoms: their truth file lies at the root.

  Args:
    raw_dir: see `find_layout`.

  Returns:
    True for what `echoforge phantom` wrote.

  Raises:
    InputError: no CAMUS patients there.
  """
  return (find_layout(raw_dir).root / PHANTOM_FILE).is_file()


def read_info(path) -> dict[str, str]:
  """Parses `Key: value` lines of an `Info_V.cfg`, unknown keys included.

  Args:
    path: the cfg file.

  Returns:
    Values by lower-case key, both stripped.

  Raises:
    InputError: the file is absent, not text, or without any such line.
  """
  path = Path(path)
  try:
    text = path.read_bytes().decode('utf-8-sig')
  except FileNotFoundError as error:
    raise InputError(
      f'{path}: file not found; wanted lines such as "ED: 1"; '
      'remedy: fetch it again'
    ) from error
  except UnicodeDecodeError as error:
    raise InputError(
      f'{path}: not a text file ({error.reason}); wanted lines '
      'such as "ED: 1"; remedy: fetch it again'
    ) from error
  info = {}
  for line in text.splitlines():
    key, colon, value = line.partition(':')
    if colon and key.strip():
      info[key.strip().lower()] = value.strip()
  if not info:
    raise InputError(
      f'{path}: no "Key: value" line found; wanted ED, ES, '
      'NbFrame and more; remedy: fetch it again'
    )
  return info


def info_number(info: dict[str, str], *keys: str) -> float:
  """First of `keys` in `info` as a float; NaN when absent or no number."""
  for key in keys:
    try:
      return float(info[key.lower()].rstrip(' %').replace(',', '.'))
    except (KeyError, ValueError):
      continue
  return float('nan')


def frame_index(
  info: dict[str, str], key: str, num_frames: int, path: Path
) -> int:
  """Zero-based frame of the 1-based entry `key` ('ED' or 'ES').

  Args:
    info: parsed cfg.
    key: 'ED' or 'ES'.
    num_frames: frames in the sequence.
    path: the cfg file, for the message.

  Returns:
    Index in 0..num_frames-1.

  Raises:
    InputError: the entry is absent, no whole number or out of range.
  """
  number = info_number(info, key)
  if not 1 <= number <= num_frames or number != int(number):
    raise InputError(
      f'{path}: found {key}: {info.get(key.lower(), "nothing")}'
      f', wanted a frame number in 1..{num_frames}; remedy: '
      'correct the line or fetch the file again'
    )
  return int(number) - 1


def read_clip(raw_dir, patient: str, view: str) -> Clip:
  """Reads one view's half-sequence, in the order ED -> ES.

  A sequence stored from ES to ED is flipped, images and masks together. In
  the MetaImage form only ED and ES are labeled, and nothing is where the
  provider withheld the labels. A frame whose mask is blank, or lacks the left
  ventricle, is not labeled.

  Args:
    raw_dir: see `find_layout`.
    patient: id out of `list_patients`.
    view: '2CH' or '4CH'.

  Returns:
    The clip at native size, spacing from the header.

  Raises:
    InputError: an unknown patient or view, or a file that is missing,
      damaged or contradicts its neighbours.
  """
  layout = find_layout(raw_dir)
  if patient not in layout.folders:
    raise InputError(
      f'{layout.root}: no patient {patient!r}; wanted one of '
      f'{len(layout.folders)} on disk, the first is '
      f'{next(iter(layout.folders))!r}'
    )
  if view not in VIEWS:
    raise InputError(f'unknown view {view!r}; wanted one of {VIEWS}')
  folder = layout.folders[patient]
  stem = f'{folder.name}_{view}'
  info_path = folder / f'Info_{view}.cfg'
  info = read_info(info_path)
  whole, ending = (
    ('half_sequence', '.nii.gz')
    if layout.form == 'nifti'
    else ('sequence', '.mhd')
  )
  image_path = folder / f'{stem}_{whole}{ending}'
  volume = read_volume(image_path)
  frames = as_uint8(volume.array, image_path)
  if 'nbframe' in info and info_number(info, 'NbFrame') != len(frames):
    raise InputError(
      f'{info_path}: found NbFrame: {info["nbframe"]}, wanted '
      f'{len(frames)}, the frames in {image_path.name}; remedy: '
      'fetch both files again'
    )
  ed = frame_index(info, 'ED', len(frames), info_path)
  es = frame_index(info, 'ES', len(frames), info_path)
  if ed == es:
    raise InputError(
      f'{info_path}: ED and ES are both frame {ed + 1}; wanted '
      'two frames; remedy: correct the cfg file'
    )
  if layout.form == 'nifti':
    masks = _read_masks(folder / f'{stem}_{whole}_gt{ending}', frames.shape)
  else:
    masks = _read_two_masks(folder, stem, frames.shape, ed, es)
  withheld = masks is None
  masks = np.zeros_like(frames) if withheld else masks
  labeled = (masks == LABELS['lv']).any(axis=(1, 2))
  masks[~labeled] = 0
  for name, frame in (('ED', ed), ('ES', es)):
    if not withheld and not labeled[frame]:
      raise InputError(
        f'{folder}: the {view} masks have no left ventricle at '
        f'{name}; wanted label {LABELS["lv"]} at ED and ES; '
        'remedy: fetch the _gt files again'
      )
  backwards = ed > es
  if backwards:
    frames, masks, labeled = frames[::-1], masks[::-1], labeled[::-1]
    ed, es = len(frames) - 1 - ed, len(frames) - 1 - es
  return Clip(
    patient=patient,
    view=view,
    frames=np.ascontiguousarray(frames),
    masks=np.ascontiguousarray(masks),
    labeled=np.ascontiguousarray(labeled),
    ed=ed,
    es=es,
    spacing_mm=volume.spacing_mm,
    reversed_in_time=backwards,
    **_clip_facts(info),
  )


def _clip_facts(info: dict[str, str]) -> dict:
  """What a clip takes from its cfg apart from the frames' order."""
  quality = info.get('imagequality', '').capitalize()
  return dict(
    fps=info_number(info, 'FrameRate'),
    quality=quality if quality in QUALITIES else '',
    ef_percent=info_number(info, 'EF', 'LVef'),
    edv_ml=info_number(info, 'LVedv'),
    esv_ml=info_number(info, 'LVesv'),
    sex={'f': 'F', 'm': 'M'}.get(info.get('sex', '').lower()[:1], ''),
    age=info_number(info, 'Age'),
  )


def _read_masks(path: Path, shape: tuple[int, ...]) -> np.ndarray:
  masks = as_uint8(read_volume(path).array, path)
  if masks.shape != shape:
    raise InputError(
      f'{path}: found masks of shape {masks.shape}, wanted '
      f'{shape} as the images; remedy: fetch both files again'
    )
  if masks.max() > max(LABELS.values()):
    raise InputError(
      f'{path}: found label {masks.max()}, wanted 0 background '
      f'and {LABELS}; remedy: fetch the file again'
    )
  return masks


def _read_two_masks(
  folder: Path, stem: str, shape: tuple[int, ...], ed: int, es: int
) -> np.ndarray | None:
  """Masks of the MetaImage form: blank but at ED and ES; None if withheld."""
  paths = {ed: folder / f'{stem}_ED_gt.mhd', es: folder / f'{stem}_ES_gt.mhd'}
  if folder.parent.name == 'testing' and not any(
    path.exists() for path in paths.values()
  ):
    return None
  masks = np.zeros(shape, np.uint8)
  for frame, path in paths.items():
    masks[frame] = _read_masks(path, (1, *shape[1:]))[0]
  return masks


def read_split(raw_dir, split: str, scheme: str = 'official') -> list[str]:
  """Patients of one split, in id order.

  'official' reads `database_split/subgroup_*.txt` (400/50/50). Without that
  folder the MetaImage form's own folders decide: `testing/` is the test set
  and the last ninth of `training/` by id validates (50 of 450; ours).
  'memsam' goes by patient number: 1-350, 351-400, 401-500. A set that does
  not reach number 401 or passes 500 is no CAMUS: there the same shares (70,
  10 and 20 %) are cut by id order (ours).

  Args:
    raw_dir: see `find_layout`.
    split: 'training' ('train'), 'validation' or 'testing' ('test').
    scheme: 'official' or 'memsam'.

  Returns:
    Patient ids, each on disk or not (`verify` compares).

  Raises:
    InputError: unknown names, or an absent or empty list.
  """
  layout = find_layout(raw_dir)
  if split not in _SPLIT_NAMES:
    raise InputError(
      f'unknown split {split!r}; wanted one of {sorted(_SPLIT_NAMES)}'
    )
  if scheme not in SCHEMES:
    raise InputError(
      f'unknown split scheme {scheme!r}; wanted one of {SCHEMES}'
    )
  name = _SPLIT_NAMES[split]
  if scheme == 'memsam':
    patients = _memsam(layout)[name]
  elif layout.form == 'mhd' and not layout.split_dir.is_dir():
    patients = _folder_split(layout)[name]
  else:
    patients = read_split_file(layout.split_dir / SPLIT_FILES[name])
  if not patients:
    raise InputError(
      f'{layout.root}: the {scheme} {name} split is empty; '
      'wanted at least one patient; remedy: more patients, or '
      'another scheme'
    )
  return patients


def read_split_file(path) -> list[str]:
  """Ids in one official list, one a line, in id order, duplicates kept.

  Args:
    path: a `subgroup_*.txt`.

  Returns:
    Ids; blank lines are skipped.

  Raises:
    InputError: the file is absent, not text, or a line is no patient id.
  """
  path = Path(path)
  if not path.is_file():
    raise InputError(
      f'{path}: split list not found; wanted one patient id a '
      'line; remedy: copy database_split out of the CAMUS '
      "download, or use the scheme 'memsam'"
    )
  try:
    lines = path.read_text(encoding='utf-8-sig').split('\n')
  except UnicodeDecodeError as error:
    raise InputError(
      f'{path}: not a text file ({error.reason}); wanted one '
      'patient id a line; remedy: fetch it again'
    ) from error
  patients = []
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    if not _PATIENT.search(line.strip()):
      raise InputError(
        f'{path}: line {number} is {line.strip()!r}, wanted a '
        "patient id such as 'patient0001'; remedy: correct it"
      )
    patients.append(line.strip())
  return sorted(patients, key=patient_number)


def _memsam(layout: Layout) -> dict[str, list[str]]:
  patients = sorted(layout.folders, key=patient_number)
  numbers = [patient_number(patient) for patient in patients]
  if len(set(numbers)) == len(numbers) and 400 < max(numbers) <= 500:
    cuts = [
      sum(number <= last for number in numbers) for last in _MEMSAM_LAST[:2]
    ]
  else:
    count = len(patients)
    test = max(1, round(0.2 * count))
    validation = max(1, round(0.1 * count))
    cuts = [max(count - test - validation, 0), max(count - test, 0)]
  return {
    'training': patients[: cuts[0]],
    'validation': patients[cuts[0] : cuts[1]],
    'testing': patients[cuts[1] :],
  }


def _folder_split(layout: Layout) -> dict[str, list[str]]:
  training = [
    patient
    for patient, folder in layout.folders.items()
    if folder.parent.name != 'testing'
  ]
  testing = [
    patient for patient in layout.folders if patient not in set(training)
  ]
  validation = max(1, round(len(training) / 9))
  return {
    'training': training[:-validation],
    'validation': training[-validation:],
    'testing': testing,
  }
