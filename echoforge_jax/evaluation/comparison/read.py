"""Reads what `evaluate` wrote, to compare and to aggregate evaluations."""

import collections
from collections.abc import Sequence
import csv
import dataclasses
import json
import math
import pathlib

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.scoring import METRICS, finite_mean

_NEEDED = ('protocol', 'n_patients', 'n_clips', 'unit', 'classes', 'ef', 'receipt')
_COLUMNS = (
  'ef_reference',
  'ef_predicted',
  'ef_whole_clip',
  'area_roughness',
  'inconsistent_share',
  'valid_share',
  'ece',
)


@dataclasses.dataclass(frozen=True)
class Quantity:
  """Something measured on every patient.

  Attributes:
    name: key in `EvaluationFiles.values`.
    label: for tables, without the unit.
    unit: for tables; '%' values are stored as shares of one.
    better: 'higher' or 'lower'; '' where neither is (a smooth curve may be a frozen one).
  """

  name: str
  label: str
  unit: str
  better: str


_OTHERS = (
  Quantity('ef_error', 'EF |error|', 'points', 'lower'),
  Quantity('ef_error_whole_clip', 'EF |error|, whole clip', 'points', 'lower'),
  Quantity('area_roughness', 'area roughness', '%', ''),
  Quantity('inconsistent_share', 'inconsistent frames', '%', ''),
  Quantity('valid_share', 'valid frames', '%', 'higher'),
  Quantity('ece', 'calibration error', '%', 'lower'),
)


@dataclasses.dataclass(frozen=True)
class EvaluationFiles:
  """One evaluation as its files say.

  Attributes:
    folder: where they are.
    metrics: content of metrics.json.
    patients: identifiers, in the order of per_case.csv.
    values: name ('lv_dice', 'ef_error', ...) -> patient -> mean over the patient's clips; only
      finite values. 'ef_reference' and 'ef_predicted' are among them.
  """

  folder: pathlib.Path
  metrics: dict
  patients: tuple[str, ...]
  values: dict[str, dict[str, float]]

  @property
  def receipt(self) -> dict:
    """The receipt in metrics.json."""
    return self.metrics['receipt']

  @property
  def label(self) -> str:
    """The run's name, or the folder's."""
    return self.receipt.get('run') or self.folder.resolve().name

  @property
  def pooling(self) -> str | None:
    """How the protocol pools: 'clip_patient' or 'frame'."""
    return self.receipt['protocol'].get('pooling')

  def quantities(self) -> list[Quantity]:
    """What was measured on at least one patient, in the order of tables."""
    found = [
      Quantity(
        f'{name}_{metric}',
        f'{name.upper()} {textio.NAMES[metric]}',
        '%' if metric in ('dice', 'iou') else self.metrics['unit'],
        'higher' if metric in ('dice', 'iou') else 'lower',
      )
      for name in self.metrics['classes']
      for metric in METRICS
    ]
    return [q for q in (*found, *_OTHERS) if self.values[q.name]]


def read_evaluation(folder) -> EvaluationFiles:
  """Reads the files of an evaluation and checks that they belong together.

  Args:
    folder: where `evaluate --out` wrote metrics.json and per_case.csv.

  Raises:
    InputError: where a file is absent, damaged, of another kind or version, or of another
      evaluation than its neighbour.
  """
  folder = pathlib.Path(folder)
  metrics = _read_metrics(folder / 'metrics.json')
  path = folder / 'per_case.csv'
  rows = _read_rows(path, tuple(metrics['classes']))
  patients = tuple(dict.fromkeys(row['patient'] for row in rows))
  counts = len(patients), len(rows)
  if counts != (metrics['n_patients'], metrics['n_clips']):
    raise InputError(
      f'{path}: found {counts[0]} patients and {counts[1]} clips, wanted '
      f'the {metrics["n_patients"]} and {metrics["n_clips"]} of '
      'metrics.json beside it; evaluate again into an empty folder'
    )
  found = EvaluationFiles(
    folder,
    metrics,
    patients,
    {name: _by_patient(rows, name) for name in rows[0] if name not in ('patient', 'view')},
  )
  _check_means(path, found)
  return found


def check_same_setting(runs: Sequence[EvaluationFiles]) -> None:
  """Raises unless all were scored alike on the same data.

  Raises:
    InputError: where they differ in a field of the protocol, in dataset, split, patient lists, raw
      data, classes or unit; names what differs.
  """
  first = runs[0]
  for other in runs[1:]:
    differing = [
      f'{what} {_short(a)} and {_short(b)}' for what, a, b in _identities(first, other) if a != b
    ]
    if differing:
      raise InputError(
        f'{first.folder} and {other.folder} do not compare: found {"; ".join(differing)}; wanted '
        'the same; evaluate both under one protocol on one prepared data set'
      )


def _short(value) -> str:
  text = str(value)
  return text if len(text) <= 24 else text[:12] + '...'


def _identities(first: EvaluationFiles, other: EvaluationFiles):
  """(what, first's, other's) of everything that has to be equal."""
  yield 'protocol', first.metrics['protocol'], other.metrics['protocol']
  a, b = first.receipt['protocol'], other.receipt['protocol']
  for name in sorted((set(a) | set(b)) - {'name', 'description'}):
    yield f'protocol {name}', a.get(name), b.get(name)
  for name, label in (
    ('dataset', 'dataset'),
    ('split', 'split'),
    ('split_scheme', 'patient lists'),
    ('raw_fingerprint', 'raw data'),
  ):
    yield label, first.receipt.get(name), other.receipt.get(name)
  yield ('classes', list(first.metrics['classes']), list(other.metrics['classes']))
  yield 'unit', first.metrics['unit'], other.metrics['unit']


def _read_metrics(path: pathlib.Path) -> dict:
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise InputError(
      f'{path}: cannot be read ({getattr(error, "strerror", 0) or error}); wanted an evaluation; '
      f'write one with `evaluate --out={path.parent}`'
    ) from error
  if not isinstance(found, dict):
    found = {}
  missing = [k for k in _NEEDED if k not in found]
  receipt = found.get('receipt')
  if not missing and not (isinstance(receipt, dict) and isinstance(receipt.get('protocol'), dict)):
    missing = ['protocol in its receipt']
  if missing:
    raise InputError(
      f'{path}: found no {", ".join(missing)}, wanted the metrics.json of '
      'this version; it is of another program or older: evaluate again'
    )
  return found


def _read_rows(path: pathlib.Path, classes: tuple[str, ...]) -> list[dict]:
  """Rows of per_case.csv: patient, view, and every quantity as a float."""
  columns = [f'{c}_{m}' for c in classes for m in METRICS] + list(_COLUMNS)
  try:
    with path.open(newline='') as file:
      reader = csv.DictReader(file)
      table = [(reader.line_num, row) for row in reader]
  except (OSError, csv.Error, UnicodeDecodeError) as error:
    raise InputError(
      f'{path}: cannot be read ({getattr(error, "strerror", 0) or error}); '
      'wanted the table beside metrics.json; evaluate again'
    ) from error
  header = reader.fieldnames or ()
  missing = [c for c in ('patient', 'view', *columns) if c not in header]
  if missing or not table:
    raise InputError(
      f'{path}: found no {"column " + missing[0] if missing else "rows"}, '
      'wanted the table of this version; evaluate again'
    )
  rows = []
  for line, row in table:
    if None in row:
      raise InputError(
        f'{path}, line {line}: found {len(header) + len(row[None])} fields, '
        f'wanted {len(header)}; evaluate again'
      )
    numbers = {c: _number(row[c], f'{path}, line {line}, column {c}') for c in columns}
    known = numbers['ef_reference']
    rows.append(
      {
        'patient': row['patient'],
        'view': row['view'],
        **numbers,
        'ef_error': abs(numbers['ef_predicted'] - known),
        'ef_error_whole_clip': abs(numbers['ef_whole_clip'] - known),
      }
    )
  clips = [(row['patient'], row['view']) for row in rows]
  twice = [c for c, count in collections.Counter(clips).items() if count > 1]
  if twice:
    raise InputError(
      f'{path}: found {" ".join(twice[0])} more than once, wanted a row a clip; evaluate again'
    )
  return rows


def _number(text: str | None, where: str) -> float:
  """A field of the table; an empty one is NaN."""
  try:
    return math.nan if text == '' else float(text)
  except (TypeError, ValueError) as error:
    raise InputError(
      f'{where}: found {text!r}, wanted a number or nothing; evaluate again'
    ) from error


def _by_patient(rows: list[dict], name: str) -> dict[str, float]:
  """Mean of the finite values of each patient that has any."""
  found: dict[str, list[float]] = {}
  for row in rows:
    found.setdefault(row['patient'], []).append(row[name])
  means = {patient: finite_mean(v) for patient, v in found.items()}
  return {patient: m for patient, m in means.items() if math.isfinite(m)}


def _check_means(path: pathlib.Path, found: EvaluationFiles) -> None:
  """The table has to give the means of metrics.json, where those pool so."""
  if found.pooling != 'clip_patient':
    return
  for name, entries in found.metrics['classes'].items():
    for metric, entry in entries.items():
      mean = finite_mean(found.values[f'{name}_{metric}'].values())
      wanted = math.nan if entry['mean'] is None else entry['mean']
      if math.isnan(mean) != math.isnan(wanted) or abs(mean - wanted) > (1e-5 + 1e-5 * abs(wanted)):
        raise InputError(
          f'{path}: found a mean {name} {metric} of {mean:.6g}, wanted the '
          f'{wanted:.6g} of metrics.json beside it: they are of different '
          'evaluations; evaluate again into an empty folder'
        )
