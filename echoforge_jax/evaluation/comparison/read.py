"""Reads what `evaluate` wrote, to compare and to aggregate evaluations."""

import collections
from collections.abc import Sequence
import csv
import dataclasses
import itertools
import json
import math
import pathlib
from typing import NamedTuple

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.scoring import METRICS, finite_mean

_NEEDED = ('protocol', 'n_patients', 'n_clips', 'unit', 'classes', 'ef', 'receipt')
_COLUMNS = ('ef_reference', 'ef_predicted', 'ef_whole_clip')
_COLUMNS += ('area_roughness', 'inconsistent_share', 'valid_share', 'ece')


class Quantity(NamedTuple):
  """Something measured on every patient."""

  name: str  # Key in `EvaluationFiles.values`.
  label: str  # For tables, without the unit.
  unit: str  # For tables; '%' values are stored as shares of one.
  better: str  # 'higher', 'lower' or '' (a smooth curve may be a frozen one).


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
  """One evaluation as its files say."""

  folder: pathlib.Path
  metrics: dict
  patients: tuple[str, ...]  # In the order of per_case.csv.
  # name ('lv_dice', 'ef_error', 'ef_predicted', ...) -> patient -> mean over the patient's clips;
  # only finite values.
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
    found = []
    for name, metric in itertools.product(self.metrics['classes'], METRICS):
      form = ('%', 'higher') if metric in ('dice', 'iou') else (self.metrics['unit'], 'lower')
      label = f'{name.upper()} {textio.NAMES[metric]}'
      found.append(Quantity(f'{name}_{metric}', label, *form))
    return [q for q in (*found, *_OTHERS) if self.values[q.name]]


def read_evaluation(folder) -> EvaluationFiles:
  """Reads what `evaluate --out` wrote into a folder and checks that it belongs together.

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
  names = [name for name in rows[0] if name not in ('patient', 'view')]
  values = {name: _by_patient(rows, name) for name in names}
  found = EvaluationFiles(folder, metrics, patients, values)
  _check_means(path, found)
  return found


def check_same_setting(runs: Sequence[EvaluationFiles]) -> None:
  """Raises InputError, naming what differs, unless all were scored alike on the same data."""
  first = runs[0]
  for other in runs[1:]:
    pairs = [pair for pair in _identities(first, other) if pair[1] != pair[2]]
    if differing := [f'{what} {_short(a)} and {_short(b)}' for what, a, b in pairs]:
      raise InputError(
        f'{first.folder} and {other.folder} do not compare: found {"; ".join(differing)}; wanted '
        'the same; evaluate both under one protocol on one data set, masks of another tool also '
        'with the same --classes and --split_scheme'
      )


def _short(value) -> str:
  text = str(value)
  return text if len(text) <= 24 else text[:12] + '...'


def _identities(first: EvaluationFiles, other: EvaluationFiles):
  """Yields (what, first's, other's) of everything that has to be equal."""
  yield 'protocol', first.metrics['protocol'], other.metrics['protocol']
  a, b = first.receipt['protocol'], other.receipt['protocol']
  for name in sorted((set(a) | set(b)) - {'name', 'description'}):
    yield f'protocol {name}', a.get(name), b.get(name)
  labels = {'split_scheme': 'patient lists', 'raw_fingerprint': 'raw data'}
  for name in ('dataset', 'split', *labels):
    yield labels.get(name, name), first.receipt.get(name), other.receipt.get(name)
  yield 'classes', list(first.metrics['classes']), list(other.metrics['classes'])
  yield 'unit', first.metrics['unit'], other.metrics['unit']


def _read_metrics(path: pathlib.Path) -> dict:
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise InputError(
      f'{path}: cannot be read ({getattr(error, "strerror", 0) or error}); wanted an evaluation; '
      f'write one with `evaluate --out={path.parent}`'
    ) from error
  found = found if isinstance(found, dict) else {}
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
  """Returns rows of per_case.csv: patient, view, and every quantity as a float."""
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
    numbers['ef_error'] = abs(numbers['ef_predicted'] - known)
    numbers['ef_error_whole_clip'] = abs(numbers['ef_whole_clip'] - known)
    rows.append({'patient': row['patient'], 'view': row['view'], **numbers})
  clips = collections.Counter((row['patient'], row['view']) for row in rows)
  if twice := [clip for clip, count in clips.items() if count > 1]:
    raise InputError(
      f'{path}: found {" ".join(twice[0])} more than once, wanted one row per clip; evaluate again'
    )
  return rows


def _number(text: str | None, where: str) -> float:
  """Returns a field of the table; an empty one is NaN."""
  try:
    return math.nan if text == '' else float(text)
  except (TypeError, ValueError) as error:
    raise InputError(
      f'{where}: found {text!r}, wanted a number or nothing; evaluate again'
    ) from error


def _by_patient(rows: list[dict], name: str) -> dict[str, float]:
  """Returns the mean of the finite values of each patient that has any."""
  found: dict[str, list[float]] = {}
  for row in rows:
    found.setdefault(row['patient'], []).append(row[name])
  means = {patient: finite_mean(v) for patient, v in found.items()}
  return {patient: m for patient, m in means.items() if math.isfinite(m)}


def _check_means(path: pathlib.Path, found: EvaluationFiles) -> None:
  """Checks that the table gives the means of metrics.json, where those pool so."""
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
