"""A folder of images and masks: its files, put together into cases.

    images/STEM.*      a clip or a single still, or stills STEM_ED.* and STEM_ES.*
    masks/STEM.*       of the still, of every frame of the clip, or of its ED and ES
          STEM_frameNN.*, STEM_ED.*, STEM_ES.*   of one frame of the clip, counted from 0
    cases.csv          optional: who the cases are (`cases_csv`)
    dataset.json       optional: what the masks' values mean (`label_names`)

An nnU-Net dataset (imagesTr, labelsTr, imagesTs, labelsTs) is the same with other names.
"""

import collections
from collections.abc import Iterator
import dataclasses
import os
import pathlib
import re

from natsort import natsorted

from echoforge_jax.errors import InputError
from echoforge_jax.formats import cases_csv, masks, nnunet_folds, readers
from echoforge_jax.formats.findings import Finding, fault, make_finding
from echoforge_jax.formats.label_names import Labels, read_dataset_json

JSON = 'dataset.json'
NO_VIEW = 'unknown'
ALL = -1
_VIEW = re.compile(r'(.+?)[_-]([234]CH|A[2345]C|AP[2345]|PSAX|PLAX)', re.IGNORECASE)
_PHASE = re.compile(r'(.+?)[_-](ED|ES)', re.IGNORECASE)
_FRAME = re.compile(r'(.+?)_frame(\d{1,6})', re.IGNORECASE)
_CHANNEL = re.compile(r'(.+)_(\d{4})')
# Files that belong to others of the layout, or to an operating system.
_IGNORED = ('.raw', '.zraw', 'thumbs.db', 'desktop.ini')


@dataclasses.dataclass
class Case:
  """One clip: its files and what is known of it before they are read."""

  name: str
  images: list[pathlib.Path]  # The clip (or still), or the stills of ED and ES.
  patient: str = ''
  view: str = NO_VIEW
  split: str | None = ''  # As in `cases_csv.Row`; None if its line cannot be used.
  # By frame; one of the whole clip under `ALL`.
  masks: dict[int, pathlib.Path] = dataclasses.field(default_factory=dict)
  row: cases_csv.Row | None = None
  faults: list[Finding] = dataclasses.field(default_factory=list)

  @property
  def is_pair(self) -> bool:
    """Returns True for two stills, which are ED and ES."""
    return len(self.images) == 2


def view_name(text: str) -> str:
  """Returns the name of a view as this project has it: '4CH' for 'A4C' and 'AP4'."""
  text = text.upper()
  return re.sub(r'^(AP?)?([2345])(C|CH)?$', r'\2CH', text) if text else NO_VIEW


class Folder:
  """The files of a folder, in cases; nothing is decoded yet."""

  def __init__(self, root: pathlib.Path, labels: Labels | None = None):
    """Lists the files; raises `InputError` where there is no folder of this layout.

    Args:
      root: holds images and masks, or an nnU-Net dataset.
      labels: what the values of masks mean, instead of what dataset.json says.
    """
    self.root = root
    self.findings: list[Finding] = []  # Of files that belong to no case.
    self.is_nnunet = (root / 'imagesTr').is_dir()
    described = {}
    if os.path.lexists(root / JSON) or self.is_nnunet:
      described = read_dataset_json(root / JSON)
    named = {'named': described['labels'], 'source': root / JSON} if 'labels' in described else {}
    if self.is_nnunet and not named and labels is None:
      raise fault('labels-unreadable', root / JSON, 'no "labels"', 'the labels of the dataset')
    self.labels = labels or Labels(**named)
    if self.labels.unused:
      found = ', '.join(self.labels.unused)[:80]
      self.findings.append(make_finding('label-unused', root / JSON, found, 'lv, myo, la'))
    self.table = None
    if os.path.lexists(root / cases_csv.NAME):
      self.table = cases_csv.Table(root / cases_csv.NAME)
      self.findings += self.table.findings
    self._ending = str(described.get('file_ending') or '').lower() if self.is_nnunet else ''
    self.cases: list[Case] = []
    self._orphans: set[str] = set()  # Masks without images, reported.
    self._training: dict[str, str] = {}  # Stem of an image that is not in imagesTs -> case.
    for images, labels_of, split in self._folders():
      self.cases += self._read_folder(root / images, root / labels_of, split)
    self._check_rows()
    if not self.cases:
      raise InputError(f'{root}: found no image; wanted files in {self._folders()[0][0]}/')
    self._name_views()
    # Patients that each of nnU-Net's folds holds out, and why they cannot be used.
    self.folds: list[set[str]] = []
    self.folds_misfit, path = '', root / nnunet_folds.NAME
    if self.is_nnunet and os.path.lexists(path):
      patient_of = {case.name: case.patient for case in self.cases}
      patients = {stem: patient_of.get(case, '') for stem, case in self._training.items()}
      self.folds, self.folds_misfit = nnunet_folds.read_folds(path, patients)
    if self.folds_misfit:
      wanted = 'all cases in every fold, and every patient held out by one'
      self.findings.append(make_finding('folds-unused', path, self.folds_misfit, wanted))

  def _folders(self) -> list[tuple[str, str, str]]:
    """Returns (images, masks, split) of the folders there are."""
    if not self.is_nnunet:
      return [('images', 'masks', '')]
    if (self.root / 'labelsTs').is_dir():
      return [('imagesTr', 'labelsTr', 'train'), ('imagesTs', 'labelsTs', 'test')]
    if (self.root / 'imagesTs').is_dir():
      found = make_finding('labels-absent', self.root / 'imagesTs', 'no labelsTs', 'labelsTs/')
      self.findings.append(found)
    return [('imagesTr', 'labelsTr', '')]

  def _files(self, folder: pathlib.Path, suffixes) -> tuple[dict, dict[str, Finding]]:
    """Returns the files of a folder by stem, and what is wrong with stems that two have."""
    if not folder.is_dir():
      raise InputError(f'{folder}: no such folder; wanted one file for every case')
    files, twice, channels = {}, {}, 0
    for path in natsorted(folder.iterdir(), key=lambda path: path.name):
      name = path.name.lower()
      if name.startswith('.') or name.endswith(_IGNORED):
        continue
      if not path.stem.isprintable():
        code = 'image-unreadable' if folder.name.startswith('images') else 'mask-unreadable'
        wanted = 'printable characters: rename it'
        self.findings.append(make_finding(code, folder, f'the name {ascii(path.name)}', wanted))
        continue
      if not name.endswith(self._ending or suffixes) or not path.is_file():
        wanted = self._ending or ', '.join(suffixes)
        self.findings.append(make_finding('stray-file', path, path.name, f'files {wanted}'))
        continue
      stem = path.name[: -len(self._ending)] if self._ending else readers.stem_of(path)
      if self.is_nnunet and folder.name.startswith('images'):
        channel = _CHANNEL.fullmatch(stem)
        if channel and int(channel[2]):
          channels += 1
          continue
        stem = channel[1] if channel else stem
      if stem in files:
        twice[stem] = make_finding('stem-twice', path, f'{files[stem].name} too', 'one file')
      files.setdefault(stem, path)
    if channels:
      found = f'{channels} files of other channels'
      self.findings.append(make_finding('channel-unused', folder, found, 'CASE_0000 only'))
    return files, twice

  def _read_folder(self, images: pathlib.Path, labels: pathlib.Path, split: str) -> list[Case]:
    """Puts the files of two folders together."""
    files, twice = self._files(images, readers.SUFFIXES)
    drawn, twice_drawn = self._files(labels, masks.SUFFIXES)
    rows = self.table.rows if self.table else {}
    owner = dict(_owners(files, rows))
    if split != 'test':
      self._training |= {stem: case for stem, (case, _) in owner.items()}
    grouped = collections.defaultdict(dict)
    for stem, (name, phase) in owner.items():
      grouped[name][phase] = files[stem]
    cases = {name: _case(name, found, rows.get(name), split) for name, found in grouped.items()}
    for stem in twice:
      cases[owner[stem][0]].faults.append(twice[stem])
    orphans = {}
    for stem, path in drawn.items():
      case = _give_mask(stem, path, owner, cases)
      if case is None:
        orphans[stem] = path
      elif stem in twice_drawn:
        case.faults.append(twice_drawn[stem])
    self._judge_halves(cases, orphans, images, labels)
    return [case for case in cases.values() if self._is_listed(case)]

  def _judge_halves(self, cases, orphans, images, labels) -> None:
    """Finds the images without masks and the masks without images."""
    bare = {case.name: case for case in cases.values() if not case.masks and not case.faults}
    for stem, path in orphans.items():
      base = _without(_PHASE, _without(_FRAME, stem))
      if base in cases and cases[base].faults:
        continue  # Its image is missing, which is said already.
      view = _VIEW.fullmatch(base)
      others = [case for case in bare.values() if view and _VIEW.fullmatch(case.name)]
      others = [case for case in others if _VIEW.fullmatch(case.name)[1] == view[1]]
      if not others:
        self._orphans.add(base)
        wanted = f'an image {stem} in {images.name}/'
        self.findings.append(make_finding('image-missing', path, f'a mask of {stem}', wanted))
      elif not others[0].faults:
        wanted = f'a mask of {others[0].name}'
        others[0].faults.append(make_finding('mask-other-view', path, stem, wanted))
    for case in bare.values():
      if not case.faults:
        wanted = f'{labels.name}/{case.name} with one of {", ".join(masks.SUFFIXES)}'
        case.faults.append(make_finding('mask-missing', case.images[0], 'no mask', wanted))

  def _is_listed(self, case: Case) -> bool:
    """Returns False, with a finding, for a case that cases.csv does not name."""
    if self.table is None or case.row:
      return True
    if case.name in self.table.broken:
      case.faults, case.split = [self.table.broken[case.name]], None
      return True
    found = make_finding('case-unlisted', case.images[0], case.name, f'a line in {cases_csv.NAME}')
    self.findings.append(found)
    return False

  def _check_rows(self) -> None:
    """Finds the lines of cases.csv without an image."""
    there = {case.name for case in self.cases} | self._orphans
    for row in self.table.rows.values() if self.table else ():
      if row.case not in there:
        found, where = f'line {row.line}: {row.case}', ' or '.join(f[0] for f in self._folders())
        wanted = f'an image of that stem in {where}/, without its ending'
        self.findings.append(make_finding('image-missing', self.table.path, found, wanted))

  def _name_views(self) -> None:
    """Numbers the further clips that a patient has of one view."""
    seen = collections.Counter()
    self.cases = natsorted(self.cases, key=lambda case: (case.patient, case.view, case.name))
    for case in self.cases:
      seen[case.patient, case.view] += 1
      if (number := seen[case.patient, case.view]) > 1:
        case.view += f'-{number}'


def _without(pattern: re.Pattern, stem: str) -> str:
  match = pattern.fullmatch(stem)
  return match[1] if match else stem


def _owners(files, rows) -> Iterator[tuple[str, tuple[str, str]]]:
  """Yields stem -> (case, 'ED', 'ES' or '') of the images."""
  stills = {}
  for row in rows.values():
    if row.case not in files:
      stills |= {stem: (row.case, p) for stem, p in ((row.ed, 'ED'), (row.es, 'ES')) if stem}
  for stem in files:
    match = _PHASE.fullmatch(stem)
    if stem in stills:
      yield stem, stills[stem]
    elif match and stem not in rows:
      yield stem, (match[1], match[2].upper())
    else:
      yield stem, (stem, '')


def _case(name: str, found: dict[str, pathlib.Path], row, split: str) -> Case:
  """Returns a case of its images, by '', 'ED' or 'ES'."""
  images = [found[phase] for phase in ('', 'ED', 'ES') if phase in found]
  case = Case(name, images, row=row, split=split)
  if '' in found and len(found) > 1:
    wanted = 'a clip, or stills of ED and ES'
    case.faults.append(make_finding('stem-twice', images[1], f'{images[0].name} too', wanted))
  elif '' not in found and len(found) == 1:
    (phase,) = found
    wanted = f'{name}_{"ES" if phase == "ED" else "ED"} beside it, or a still without {phase}'
    case.faults.append(make_finding('still-missing', images[0], f'{phase} only', wanted))
  match = _VIEW.fullmatch(name)
  case.patient, case.view = (match[1], view_name(match[2])) if match else (name, NO_VIEW)
  if row:
    case.patient, case.split = row.patient or case.patient, row.split or split
    case.view = view_name(row.view) if row.view else case.view
  return case


def _give_mask(stem: str, path: pathlib.Path, owner, cases: dict[str, Case]) -> Case | None:
  """Gives a mask to the case that its stem names, and returns the case, if there is one."""
  frame, phase = _FRAME.fullmatch(stem), _PHASE.fullmatch(stem)
  match = None if stem in owner else frame or phase
  name, still = owner.get(match[1] if match else stem, (None, ''))
  if name is None or (match and still):
    return None
  case = cases[name]
  if not match:
    number = {'ED': 0, 'ES': 1, '': ALL}[still]
  elif frame:
    number = int(frame[2])
  else:
    end = getattr(case.row, phase[2].lower()) if case.row else ''
    if not cases_csv.is_number(end):
      found = f'a mask of {phase[2].upper()}, which no line of {cases_csv.NAME} gives'
      case.faults.append(make_finding('ends-unknown', path, found, 'the frame numbers ed and es'))
      return case
    number = int(end)
  if case.masks and (number in case.masks or ALL in (number, *case.masks)):
    found = f'{next(iter(case.masks.values())).name} too'
    case.faults.append(make_finding('stem-twice', path, found, 'one mask a frame'))
  case.masks[number] = path
  return case
