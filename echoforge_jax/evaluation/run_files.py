"""Reads what `evaluate` wrote, to compare and to aggregate evaluations."""

from collections.abc import Sequence
import csv
import dataclasses
import json
import math
import pathlib

import numpy as np

from echoforge_jax.errors import InputError

HEADLINE = ('dice', 'iou', 'hd', 'hd95', 'asd')
# Columns of per_case.csv that are compared beside the classes' scores; EF
# columns are the patient's, and become the absolute error.
_OTHERS = ('area_roughness', 'inconsistent_share', 'valid_share', 'ece')
_EF = {'ef_error': 'ef_predicted', 'ef_error_whole_clip': 'ef_whole_clip'}
# True where a larger value is better.
HIGHER_IS_BETTER = ('dice', 'iou', 'valid_share')


@dataclasses.dataclass(frozen=True)
class EvaluationFiles:
  """One evaluation as its files say.

  Attributes:
    folder: where they are.
    metrics: content of metrics.json.
    values: name ('lv_dice', 'ef_error', ...) -> patient -> mean over the
      patient's clips; only finite values.
  """
  folder: pathlib.Path
  metrics: dict
  values: dict[str, dict[str, float]]

  @property
  def receipt(self) -> dict:
    """The receipt in metrics.json."""
    return self.metrics['receipt']

  @property
  def label(self) -> str:
    """The run's name, or the folder's."""
    return self.receipt.get('run') or self.folder.name


def read_evaluation(folder) -> EvaluationFiles:
  """Reads the files of an evaluation.

  Args:
    folder: where `evaluate --out` wrote metrics.json and per_case.csv.

  Returns:
    The evaluation.

  Raises:
    InputError: when a file is absent or of another kind.
  """
  folder = pathlib.Path(folder)
  try:
    metrics = json.loads((folder / 'metrics.json').read_text())
    with (folder / 'per_case.csv').open(newline='') as file:
      rows = list(csv.DictReader(file))
    classes = list(metrics['classes'])
    metrics['receipt']['protocol']['name'] + metrics['protocol']
    patients = [row['patient'] for row in rows]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(
        f'{folder}: not an evaluation ({type(error).__name__}: {error}); '
        'wanted a folder with metrics.json and per_case.csv as `evaluate '
        '--out` of this version writes them; evaluate again') from error
  names = [f'{c}_{m}' for c in classes for m in HEADLINE] + list(_OTHERS)
  values = {name: _by_patient(patients, [_number(row.get(name))
                                         for row in rows]) for name in names}
  for name, column in _EF.items():
    values[name] = _by_patient(patients, [
        abs(_number(row.get(column)) - _number(row.get('ef_reference')))
        for row in rows])
  return EvaluationFiles(folder, metrics, values)


def check_same_setting(runs: Sequence[EvaluationFiles]) -> None:
  """Raises `InputError` unless all were scored alike on the same data.

  Args:
    runs: two or more evaluations.
  """
  first = runs[0]
  for other in runs[1:]:
    for what, key in (('protocol', lambda r: r.receipt['protocol']),
                      ('split', lambda r: r.receipt.get('split')),
                      ('split scheme', lambda r: r.receipt.get(
                          'split_scheme')),
                      ('dataset', lambda r: r.receipt.get('dataset')),
                      ('raw data (fingerprint)', lambda r: r.receipt.get(
                          'raw_fingerprint')),
                      ('unit of distances', lambda r: r.metrics['unit'])):
      if key(first) != key(other):
        found = (first.metrics['protocol'], other.metrics['protocol'])
        values = found if what == 'protocol' else (key(first), key(other))
        raise InputError(
            f'{first.folder} and {other.folder} differ in {what}: found '
            f'{values[0]} and {values[1]}; wanted the same, else their '
            'numbers do not compare; evaluate both alike')


def receipt_line(runs: Sequence[EvaluationFiles]) -> str:
  """One line that says what the numbers of a table come from."""
  receipts = [run.receipt for run in runs]
  def listed(key):
    return ', '.join(dict.fromkeys(str(r.get(key)) for r in receipts))
  versions = receipts[0].get('versions', {})
  return (f'protocol {runs[0].metrics["protocol"]}, split {listed("split")} of '
          f'{listed("dataset")}, training seeds {listed("training_seed")}, '
          f'steps {listed("checkpoint_step")}, revision '
          f'{listed("git_revision")}, jax {versions.get("jax", "unknown")}, '
          f'bootstrap seed {listed("seed")}')


def _number(text) -> float:
  try:
    return float(text)
  except (TypeError, ValueError):
    return math.nan


def _by_patient(patients, numbers) -> dict[str, float]:
  """Mean of the finite values of each patient that has any."""
  found: dict[str, list[float]] = {}
  for patient, number in zip(patients, numbers):
    if math.isfinite(number):
      found.setdefault(patient, []).append(number)
  return {patient: float(np.mean(v)) for patient, v in found.items()}
