"""Data of your own: a folder of images and masks, an nnU-Net dataset, or EchoNet-Pediatric."""

from collections.abc import Iterator
import concurrent.futures
import hashlib
import os

import numpy as np

from echoforge_jax.clip import Clip
from echoforge_jax.data.datasets import Reader
from echoforge_jax.data.patient_splits import SCHEMES, split_patients
from echoforge_jax.data.verify_echonet import judge_tracings
from echoforge_jax.errors import InputError
from echoforge_jax.formats.echonet_clip import Recording
from echoforge_jax.formats.findings import ERROR, Finding, fault, make_finding, raise_first
from echoforge_jax.formats.folder import Case, Folder
from echoforge_jax.formats.folder_case import CaseReading
from echoforge_jax.formats.label_names import parse_labels
from echoforge_jax.formats.nnunet_folds import NAME
from echoforge_jax.formats.pediatric import Pediatric, is_pediatric


class FolderReader(Reader):
  """Reads the layouts that docs/data.md shows under "Your own data"."""

  schemes = SCHEMES
  whole_clips = True

  def __init__(self, raw_dir: str | os.PathLike, labels: str = ''):
    """Lists the files; `labels` names the masks' values as `label_names.parse_labels` takes it."""
    super().__init__(raw_dir)
    self.options = labels
    root, named = self.raw_dir, parse_labels(labels) if labels else None
    if is_pediatric(root):
      self._source = Pediatric(root)
    elif (root / 'images').is_dir() or (root / 'imagesTr').is_dir():
      self._source = Folder(root, named)
    else:
      found = ', '.join(sorted(os.listdir(root))[:5]) or 'nothing'
      raise InputError(
        f'{root}: found {found}; wanted images/ and masks/, imagesTr/ and labelsTr/ (nnU-Net), or '
        'A4C/ and PSAX/ (EchoNet-Pediatric); docs/data.md shows each'
      )
    self._cases = {(case.patient, case.view): case for case in self._source.cases}

  def list_clips(self, split: str, scheme: str) -> list[tuple[str, str]]:
    """Returns the clips of a split; one whose line cannot be used counts as training."""
    folds, _ = self._nnunet_folds(scheme)
    chosen = split_patients(self._stated(), scheme, self.raw_dir, folds)
    return [
      clip
      for clip, case in self._cases.items()
      if chosen.get(case.patient, 'train' if case.split is None else '') == split
    ]

  def notes(self, scheme: str) -> list[str]:
    """Says whether nnU-Net's folds are used, and how many files are in no clip."""
    broken = self._source.table.broken.values() if getattr(self._source, 'table', None) else ()
    left = [f for f in self._source.findings if f.severity == ERROR and f not in broken]
    lines = [self._nnunet_folds(scheme)[1]]
    if left:
      first = f'{left[0].file}: found {left[0].found}, wanted {left[0].wanted}'
      lines.append(f'{len(left)} files or lines are left out; `verify` lists them. {first}')
    return list(filter(None, lines))

  def _nnunet_folds(self, scheme: str) -> tuple[list[set[str]], str]:
    """Returns the patients that nnU-Net's folds hold out, if a scheme can use them, and a note."""
    folds = getattr(self._source, 'folds', [])
    if not folds or not scheme.startswith('fold'):
      return [], ''
    reason = self._source.folds_misfit
    if not scheme.endswith(f'of{len(folds)}'):
      reason = f'it has {len(folds)} folds, wanted those of {scheme}'
    elif any(split.isdigit() for split in self._stated().values()):
      reason = 'cases.csv states folds'
    if reason:
      return [], f'{self.raw_dir / NAME}: ignored, because {reason}'
    return folds, f'{self.raw_dir / NAME}: its folds divide the patients'

  def read_clip(self, patient: str, view: str) -> Clip:
    """Reads one case, all frames as stored."""
    if (patient, view) not in self._cases:
      raise InputError(f'{self.raw_dir}: no clip of {patient!r} in the view {view!r}')
    reading = self._reading(self._cases[patient, view])
    raise_first(reading.read())
    return reading.clip()

  def file_names(self, patient: str, view: str) -> dict[str, int | str]:
    """Returns the name of a case, and those that cases.csv gives its stills."""
    case = self._cases[patient, view]
    stills = {case.row.ed: 0, case.row.es: 1} if case.is_pair and case.row else {}
    return {case.name: ''} | {name: frame for name, frame in stills.items() if name}

  def verify(self) -> Iterator[Finding]:
    """Checks the files' names, the tables and every case; names each fault once."""
    return iter(dict.fromkeys(self._findings()))

  def _findings(self) -> Iterator[Finding]:
    yield from self._source.findings
    splits: dict[str, str] = {}
    try:
      stated = self._stated()
      splits = split_patients(stated, 'official', self.raw_dir)
      for patient in stated.keys() - splits.keys():
        found, wanted = f'{patient} in no split', 'train, validation or test'
        yield make_finding('split-unlisted', self.raw_dir, found, wanted)
    except InputError as error:
      yield self._finding(error, self.raw_dir)
    first: dict[bytes, Case] = {}
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
      for case, (found, digest) in zip(self._cases.values(), pool.map(self._judge, self._cases)):
        yield from found
        other = first.setdefault(digest, case) if digest else case
        if other is not case:
          same = splits.get(other.patient) == splits.get(case.patient)
          found = f'the frames of {other.name} in {case.name}'
          code = 'duplicate-images' if same else 'split-leak'
          yield make_finding(code, case.images[0], found, 'a clip of its own')

  def count_patients(self) -> int:
    """Returns how many patients there are, in a split or not."""
    return len({patient for patient, _ in self._cases})

  def _stated(self) -> dict[str, str]:
    """Returns the split that files and tables give each patient; '' for none."""
    stated: dict[str, str] = {}
    for case in self._cases.values():
      if case.split is None:
        continue
      if stated.setdefault(case.patient, case.split) != case.split:
        found = f'{case.patient} in {stated[case.patient] or "none"!r} and {case.split or "none"!r}'
        table = getattr(self._source, 'table', None)
        where = table.path if table else self.raw_dir
        raise fault('split-leak', where, found, 'each patient in one split')
    return stated

  def _reading(self, case: Case) -> CaseReading | Recording:
    if isinstance(self._source, Pediatric):
      return self._source.reading(case)
    return CaseReading(case, self._source.labels)

  def _judge(self, clip: tuple[str, str]) -> tuple[list[Finding], bytes | None]:
    """Returns the findings of one clip, and a digest of its pixels."""
    try:
      reading = self._reading(self._cases[clip])
      findings = list(reading.read())
    except InputError as error:
      return [self._finding(error, self._cases[clip].images[0])], None
    if reading.frames is None:
      return findings, None
    if isinstance(reading, Recording):
      findings += judge_tracings(reading)
    digest = hashlib.blake2b(np.ascontiguousarray(reading.frames), digest_size=16)
    return findings, digest.digest()
