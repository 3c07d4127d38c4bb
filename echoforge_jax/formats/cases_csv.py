"""`cases.csv`: who and what the clips of a folder are."""

import csv
import dataclasses
import math
import pathlib
import re

from echoforge_jax.formats import raw_clip
from echoforge_jax.formats.findings import Finding, FindingError, fault, make_finding

NAME = 'cases.csv'
COLUMNS = ('case', 'patient', 'view', 'split', 'ed', 'es', 'spacing_mm', 'fps', 'ef')
_SPLITS = {
  'train': 'train training tr',
  'validation': 'validation val valid dev',
  'test': 'test testing ts',
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names.split()}
_NO_NAME = re.compile(r'[/\\\x00-\x1f\x7f]|^\.+$')


def is_number(text: str) -> bool:
  """Returns True for the number of a frame, fold or value: up to six digits."""
  return re.fullmatch('[0-9]{1,6}', text) is not None


@dataclasses.dataclass(frozen=True)
class Row:
  """One line; texts are empty and numbers NaN where the cell is."""

  case: str
  patient: str
  view: str
  split: str  # 'train', 'validation', 'test', the number of a fold from 0, or ''.
  ed: str  # A frame from 0, or the stem of a still.
  es: str
  spacing_mm: tuple[float, float]  # Per pixel (row, column).
  fps: float
  ef_percent: float
  line: int


class Table:
  """The lines of a `cases.csv`; one that cannot be used costs its case only."""

  def __init__(self, path: pathlib.Path):
    """Reads the file: commas, semicolons or tabs, any line ends, with or without a BOM."""
    self.path = path
    self.rows: dict[str, Row] = {}
    self.broken: dict[str, Finding] = {}  # By case.
    self.findings: list[Finding] = []
    try:
      lines = path.read_text(encoding='utf-8-sig').splitlines()
      self._comma = max(';\t,', key=lines[0].count) if lines else ','
      table = list(csv.reader(lines, delimiter=self._comma, skipinitialspace=True, strict=True))
    except (OSError, ValueError, csv.Error) as error:
      raise fault('csv-line', path, f'no table ({error})', 'a CSV file in UTF-8') from error
    names = [name.strip().lower() for name in table[0]] if table else []
    if 'case' not in names or len(set(names)) < len(names):
      raise fault('csv-line', path, f'the columns {names}', f'"case" and some of {COLUMNS[1:]}')
    for name in names:
      if name not in COLUMNS:
        self.findings.append(make_finding('column-unknown', path, repr(name), ', '.join(COLUMNS)))
    for number, cells in enumerate(table[1:], start=2):
      if any(cell.strip() for cell in cells):
        self._add(number, dict(zip(names, map(str.strip, cells))), len(cells) - len(names))

  def _add(self, line: int, cells: dict[str, str], surplus: int) -> None:
    case = cells.get('case', '')
    try:
      row = _read_row(_Line(self.path, line, cells, self._comma), surplus)
      if case in self.rows:
        found = f'{case} in lines {self.rows[case].line} and {line}'
        raise fault('listed-twice', self.path, found, 'every case once')
      self.rows[case] = row
    except FindingError as error:
      self.findings.append(error.finding)
      self.broken.setdefault(case, error.finding)


@dataclasses.dataclass(frozen=True)
class _Line:
  path: pathlib.Path
  line: int
  cells: dict[str, str]
  comma: str  # What stands between cells.

  def fault(self, found: str, wanted: str, code: str = 'csv-line') -> FindingError:
    return fault(code, self.path, f'line {self.line}: {found}', wanted)

  def number(self, text: str) -> float:
    """Returns a number, NaN for none; a decimal comma is one where cells end with another sign."""
    try:
      return float(text if self.comma == ',' else text.replace(',', '.'))
    except ValueError:
      return math.nan

  def quantity(self, name: str, low: float, high: float, code: str = 'csv-line') -> float:
    text = self.cells.get(name, '')
    if not text:
      return math.nan
    value = self.number(text.removesuffix('%').strip())
    if not low <= value <= high:
      raise self.fault(f'{name} is {text!r}', f'{low:g} to {high:g}, or an empty cell', code)
    return value


def _read_row(line: _Line, surplus: int) -> Row:
  """Reads one line; raises `FindingError` where it is wrong."""
  text = {name: line.cells.get(name, '') for name in COLUMNS}
  if surplus > 0:  # A decimal comma moves every later cell.
    raise line.fault(f'{surplus} cells more than columns', 'one per column')
  for name in ('case', 'patient', 'view', 'ed', 'es'):
    if _NO_NAME.search(text[name]):
      raise line.fault(f'{name} is {text[name]!r}', 'a name, no path')
  if not text['case']:
    raise line.fault('no case', 'the stem of a file in images/')
  split = text['split'].lower()
  if split and not is_number(split) and split not in _SPLIT_OF:
    wanted = 'train, validation, test, or the number of a fold from 0 on'
    raise line.fault(f'the split {text["split"]!r}', wanted, 'split-unknown')
  if bool(text['ed']) != bool(text['es']):
    raise line.fault(f'ed is {text["ed"]!r} and es is {text["es"]!r}', 'both, or none')
  if text['ed'] and text['ed'] == text['es']:
    raise line.fault(f'ed and es are both {text["ed"]}', 'two frames', 'ed-equals-es')
  low, high = raw_clip.SPACING_RANGE
  spacing = [line.number(part) for part in re.split(r'[x×\s]+', text['spacing_mm'])]
  if text['spacing_mm'] and not (len(spacing) < 3 and all(low <= s <= high for s in spacing)):
    wanted = f'{low:g} to {high:g} mm per pixel such as 0.3 or 0.3x0.25 (row x column)'
    raise line.fault(f'spacing_mm is {text["spacing_mm"]!r}', wanted, 'spacing-unit')
  return Row(
    case=text['case'],
    patient=text['patient'],
    view=text['view'],
    split=_SPLIT_OF.get(split, split),
    ed=text['ed'],
    es=text['es'],
    spacing_mm=(spacing[0], spacing[-1]),
    fps=line.quantity('fps', *raw_clip.FPS_RANGE),
    ef_percent=line.quantity('ef', 0, 100, 'ef-range'),
    line=line.line,
  )
