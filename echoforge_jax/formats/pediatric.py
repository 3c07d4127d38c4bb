"""EchoNet-Pediatric as Stanford distributes it.

    A4C/, PSAX/           each with the three below
    FileList.csv          a row per clip: EF, Sex, Age, Weight, Height, Split (a fold, 0 to 9)
    VolumeTracings.csv    the outlines of two frames per clip, one point (X, Y) a row
    Videos/<name>.avi     112 x 112

Where a frame was not traced, its number is "No Systolic" or "No Diastolic": such clips are left
out. ED is the frame with the larger area.
"""

from collections.abc import Iterator
import math
import pathlib

from echoforge_jax.formats import echonet
from echoforge_jax.formats.cases_csv import is_number
from echoforge_jax.formats.echonet_clip import NEVER_TRACED, FileRow, Recording
from echoforge_jax.formats.findings import Finding, FindingError, fault, make_finding
from echoforge_jax.formats.folder import Case, view_name

VIEWS = ('A4C', 'PSAX')
_SIZE = 112


class Tables(echonet.Dataset):
  """The tables of one view."""

  list_columns = ('FileName', 'EF', 'Split')
  tracing_columns = ('FileName', 'X', 'Y', 'Frame')

  def __init__(self, folder: pathlib.Path):
    self.view = view_name(folder.resolve().name)
    self._untraced: set[str] = set()
    super().__init__(folder)
    listed, tracings = folder / echonet.FILE_LIST, folder / echonet.TRACINGS
    for name in sorted(self._untraced & set(self.files)):
      found = make_finding(NEVER_TRACED, tracings, f'{name} without ED or ES', 'two traced frames')
      self.findings.append(found)
      del self.files[name]
    known = {*self.files, *self._untraced, *self._broken}
    for name in sorted(set(self.tracings) - known):
      found = make_finding('tracing-unlisted', tracings, name, f'a line in {listed.name}')
      self.findings.append(found)
    for path in sorted((folder / echonet.VIDEOS).glob('*.avi')):
      if path.stem not in known:
        found = make_finding('clip-unlisted', path, path.stem, f'a line in {listed.name}')
        self.findings.append(found)

  def _lacks_tracing(self, line) -> bool:
    missing = (line.row['Frame'] or '').strip().lower().startswith('no ')
    if missing:
      self._untraced.add(line.name)
    return missing

  def _add_file(self, line) -> None:
    line.check()
    split = (line.row['Split'] or '').strip()
    if not is_number(split):
      found = f'{split!r} of {line.name} (line {line.line})'
      raise fault('split-unknown', line.path, found, 'the number of a fold, 0 to 9')
    ef = line.number('EF', optional=True)
    if not (0 <= ef <= 100 or math.isnan(ef)):
      raise fault('ef-range', line.path, f'EF {ef:g} of {line.name}', '0 to 100')
    nan = math.nan
    self._list(FileRow(line.name, ef, nan, nan, _SIZE, _SIZE, nan, 0, split, line.line))

  def cases(self) -> Iterator[Case]:
    """Yields the clips, those whose line cannot be used with its fault."""
    for name in {**self.files, **self._broken}:
      split = self.files[name].split if name in self.files else None
      faults = [self._broken[name]] if name in self._broken else []
      path = echonet.video_path(self.raw_dir, name)
      yield Case(name, [path], name, self.view, split, faults=faults)


class Pediatric:
  """The clips of both views, or of one where `root` is its folder."""

  def __init__(self, root: pathlib.Path):
    folders = [root / view for view in VIEWS if (root / view / echonet.FILE_LIST).is_file()]
    tables = [Tables(folder) for folder in folders or [root]]
    self._tables = {table.view: table for table in tables}
    self.findings: list[Finding] = [f for table in tables for f in table.findings]
    self.cases = [case for table in tables for case in table.cases()]

  def reading(self, case: Case) -> Recording:
    """Returns a clip, not read yet; raises `FindingError` if its line cannot be used."""
    if case.faults:
      raise FindingError(case.faults[0])
    return self._tables[case.view].recording(case.name)


def is_pediatric(root: pathlib.Path) -> bool:
  """Returns True for the dataset, or the folder of one of its views."""
  return any(
    (folder / echonet.FILE_LIST).is_file() for folder in (root, *map(root.joinpath, VIEWS))
  )
