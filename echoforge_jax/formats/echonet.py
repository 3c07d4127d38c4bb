"""EchoNet-Dynamic as Stanford distributes it.

    FileList.csv          a row per clip: EF, volumes, size, frame rate, split
    VolumeTracings.csv    two traced frames per clip, 21 rows each: the long axis, 20 chords
    Videos/<name>.avi     MJPG, 112 x 112, three equal channels

Facts that the files do not state, and what the reader makes of them: the decoded number of frames
may differ from the CSV (the decode is trusted); ED is the traced frame with the larger area, which
is the later one in about 1 % of the clips; six clips have no tracing; there is no pixel spacing.
"""

from collections.abc import Iterator
import csv
import math
import os
import pathlib

import numpy as np

from echoforge_jax.clip import Clip
from echoforge_jax.errors import InputError
from echoforge_jax.formats.echonet_clip import NEVER_TRACED, VIEW, FileRow, Recording
from echoforge_jax.formats.findings import Finding, FindingError, fault, raise_first

FILE_LIST = 'FileList.csv'
TRACINGS = 'VolumeTracings.csv'
VIDEOS = 'Videos'
SPLITS = {'train': 'TRAIN', 'validation': 'VAL', 'test': 'TEST'}
# Listed by the provider, but never traced.
DEFAULT_EXCLUDED = (
  '0X234005774F4CB5CD',
  '0X2DC68261CBCC04AE',
  '0X35291BE9AB90FB89',
  '0X5515B0BD077BE68A',
  '0X6C435C1B417FDE8A',
  '0X5DD5283AC43CCDD1',
)
# Traced by the provider, but without a clip.
KNOWN_ORPHAN = '0X4F8859C8AB4DA9CB'
PHANTOM_FILE = 'phantom.json'
LIST_COLUMNS = tuple('FileName EF ESV EDV FrameHeight FrameWidth FPS NumberOfFrames Split'.split())
TRACING_COLUMNS = ('FileName', 'X1', 'Y1', 'X2', 'Y2', 'Frame')


def clip_name(text: str) -> str:
  """Returns the name of a clip from what a CSV calls it, with or without '.avi'."""
  text = text.strip()
  return text[:-4] if text.lower().endswith('.avi') else text


def video_path(raw_dir: str | os.PathLike, name: str) -> pathlib.Path:
  """Returns the path of a clip's video, whether it exists or not."""
  return pathlib.Path(raw_dir) / VIDEOS / f'{name}.avi'


def is_synthetic(raw_dir: str | os.PathLike) -> bool:
  """Returns True if the phantom wrote the clips."""
  return (pathlib.Path(raw_dir) / PHANTOM_FILE).exists()


def _lines(path: pathlib.Path, columns: tuple[str, ...]) -> Iterator['_Line']:
  """Yields a table's lines; raises `InputError` if it lacks a column."""
  try:
    with path.open(newline='', encoding='utf-8-sig') as file:
      reader = csv.DictReader(file, skipinitialspace=True)
      missing = [c for c in columns if c not in (reader.fieldnames or ())]
      if missing:
        raise InputError(
          f'{path}: found the columns {reader.fieldnames or []}, wanted {list(columns)}; fetch the '
          'file again from the provider'
        )
      for row in reader:
        yield _Line(path, reader.line_num, row)
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(
      f'{path}: cannot be read ({error}); wanted a CSV file with the columns {", ".join(columns)}; '
      f'--raw is the folder that holds {FILE_LIST}, {TRACINGS} and {VIDEOS}/'
    ) from error


class _Line:
  """One line of a table; faults name the table, the line and the clip."""

  def __init__(self, path: pathlib.Path, line: int, row: dict):
    self.path, self.line, self.row = path, line, row
    self.name = clip_name(row['FileName'] or '')

  def fault(self, found: str, wanted: str) -> FindingError:
    return fault('csv-line', self.path, f'line {self.line}: {found} ({self.name})', wanted)

  def check(self) -> None:
    """Raises the fault of a line that names no clip, or has too many cells."""
    if not self.name or '/' in self.name or '\\' in self.name:
      raise self.fault(f'FileName is {self.name!r}', f'the name of a clip in {VIDEOS}/')
    if extra := self.row.get(None):  # A decimal comma moves every later column.
      raise self.fault(f'{len(extra)} fields more than columns', 'one per column')

  def number(self, column: str, *, optional: bool = False) -> float:
    text = (self.row[column] or '').strip()
    if not text and optional:
      return math.nan
    try:
      value = float(text)
    except ValueError:
      value = math.nan
    if not math.isfinite(value):
      raise self.fault(f'{column} is {text!r}', 'a number')
    return value

  def whole(self, column: str) -> int:
    value = self.number(column)
    if value != int(value):
      raise self.fault(f'{column} is {value:g}', 'a whole number')
    return int(value)


def _file_row(line: _Line) -> FileRow:
  """Returns one line of FileList.csv; raises `FindingError` where it is wrong."""
  line.check()
  return FileRow(
    name=line.name,
    ef_percent=line.number('EF', optional=True),
    esv_ml=line.number('ESV', optional=True),
    edv_ml=line.number('EDV', optional=True),
    height=line.whole('FrameHeight'),
    width=line.whole('FrameWidth'),
    fps=line.number('FPS'),
    num_frames=line.whole('NumberOfFrames'),
    split=(line.row['Split'] or '').strip(),
    line=line.line,
  )


class Dataset:
  """The tables of a raw folder, read once. A line that cannot be used costs its clip only."""

  list_columns, tracing_columns = LIST_COLUMNS, TRACING_COLUMNS
  view = VIEW

  def __init__(self, raw_dir: str | os.PathLike):
    """Reads both tables."""
    self.raw_dir = pathlib.Path(raw_dir)
    self.files: dict[str, FileRow] = {}  # By clip; the first line if there are several.
    self.findings: list[Finding] = []  # What is wrong with single lines.
    self._split: dict[str, str] = {}
    self._broken: dict[str, Finding] = {}
    for line in _lines(self.raw_dir / FILE_LIST, self.list_columns):
      try:
        self._add_file(line)
      except FindingError as error:
        self._refuse(line.name, error.finding)
    found = {}
    for line in _lines(self.raw_dir / TRACINGS, self.tracing_columns):
      if self._lacks_tracing(line):
        continue
      try:
        rows = found.setdefault(line.name, {}).setdefault(line.whole('Frame'), [])
        rows.append([line.number(c) for c in self.tracing_columns[1:-1]])
      except FindingError as error:
        self._refuse(line.name, error.finding)
    # Clip -> frame -> rows float64 [R, 4] (x1, y1, x2, y2), or points [R, 2] (x, y).
    self.tracings = {
      name: {frame: np.asarray(rows) for frame, rows in frames.items() if rows}
      for name, frames in found.items()
    }

  def _refuse(self, name: str, finding: Finding) -> None:
    self.findings.append(finding)
    self._broken.setdefault(name, finding)

  def _lacks_tracing(self, line: _Line) -> bool:
    """Tells whether a line says that a frame was not traced."""
    return False

  def _add_file(self, line: _Line) -> None:
    split = (line.row['Split'] or '').strip().upper()
    known = split in SPLITS.values()
    # What belongs nowhere is reported with the training clips.
    self._split.setdefault(line.name, split if known else 'TRAIN')
    row = _file_row(line)
    self._list(row)
    if not known:
      found = f'{row.split!r} of {row.name} (line {row.line})'
      raise fault('split-unknown', line.path, found, ', '.join(SPLITS.values()))

  def _list(self, row: FileRow) -> None:
    if row.name in self.files:
      found = f'{row.name} in lines {self.files[row.name].line} and {row.line}'
      raise fault('listed-twice', self.raw_dir / FILE_LIST, found, 'every clip once')
    self.files[row.name] = row

  def clips_of(self, split: str) -> list[tuple[str, str]]:
    """Returns (name, view) of the clips of 'train', 'validation' or 'test'."""
    return sorted((name, VIEW) for name, found in self._split.items() if found == SPLITS[split])

  def recording(self, name: str) -> Recording:
    """Returns a listed clip, not read yet."""
    return Recording(
      video_path(self.raw_dir, name),
      self.raw_dir / TRACINGS,
      self.files[name],
      self.tracings.get(name, {}),
      never_traced=name in DEFAULT_EXCLUDED,
      view=self.view,
    )

  def read_clip(self, name: str, view: str = VIEW) -> Clip:
    """Reads one whole clip, frames as stored.

    The two traced frames are labeled, and `ed` is the one with the larger area; it may come after
    `es`. `name` is that of FileList.csv without '.avi', `view` is '4CH'.
    """
    if name in self._broken:
      raise FindingError(self._broken[name])
    recording = self.recording(name)
    raise_first(recording.read(), also=NEVER_TRACED)
    return recording.clip()


def read_clip(raw_dir: str | os.PathLike, patient: str, view: str = VIEW) -> Clip:
  """Reads one clip; `Dataset` reads many without parsing the tables again."""
  dataset = Dataset(raw_dir)
  if all((patient, VIEW) not in dataset.clips_of(split) for split in SPLITS):
    raise InputError(f'{dataset.raw_dir / FILE_LIST}: lists no {patient!r}')
  return dataset.read_clip(patient, view)
