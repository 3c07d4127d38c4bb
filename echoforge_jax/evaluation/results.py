"""Writes a result: metrics.json, the two tables, the summary for a terminal."""

import csv
import math
import pathlib

import numpy as np

from echoforge_jax.evaluation.aggregate import Result
from echoforge_jax.textio import NAMES, interval, number, write_json


def write_result(result: Result, out_dir) -> dict[str, pathlib.Path]:
  """Writes metrics.json, per_case.csv and per_frame.csv.

  Args:
    result: what `score_predictions` returned.
    out_dir: folder, made if missing; the files in it are replaced.

  Returns:
    Paths by name: 'metrics', 'per_case', 'per_frame'.
  """
  out_dir = pathlib.Path(out_dir)
  out_dir.mkdir(parents=True, exist_ok=True)
  paths = {
    'metrics': out_dir / 'metrics.json',
    'per_case': out_dir / 'per_case.csv',
    'per_frame': out_dir / 'per_frame.csv',
  }
  write_json(paths['metrics'], result.metrics)
  _write_csv(paths['per_case'], result.per_case)
  _write_csv(paths['per_frame'], result.per_frame)
  return paths


def headline_rows(result: Result) -> list[tuple[str, ...]]:
  """The headline table: one row a class and metric, with its interval.

  Args:
    result: what `score_predictions` returned.

  Returns:
    (class, metric, mean, interval, median, n) as text.
  """
  unit = result.metrics['unit']
  rows = []
  for name, entries in result.metrics['classes'].items():
    for metric, entry in entries.items():
      share = metric in ('dice', 'iou')
      scale, digits = (100, 2) if share else (1, 2)
      rows.append(
        (
          name.upper(),
          f'{NAMES[metric]} ({"%" if share else unit})',
          number(entry['mean'], digits, scale),
          interval(entry['ci95'], digits, scale),
          number(entry['median'], digits, scale),
          str(entry['n']),
        )
      )
  return rows


def ef_rows(result: Result) -> list[tuple[str, str, str]]:
  """The ejection-fraction table: quantity, value, interval, as text.

  Args:
    result: what `score_predictions` returned.

  Returns:
    Rows; empty where no patient has both a reference and a prediction.
  """
  ef = result.metrics['ef']
  if not ef['n']:
    return []
  ci = ef['ci95']
  return [
    ('Pearson r', number(ef['pearson_r'], 3), interval(ci['pearson_r'], 3)),
    ('bias (points)', number(ef['bias'], 2), interval(ci['bias'], 2)),
    ('SD of differences', number(ef['sd'], 2), ''),
    ('limits of agreement', interval(ef['loa'], 2), ''),
    ('MAE', number(ef['mae'], 2), interval(ci['mae'], 2)),
    ('RMSE', number(ef['rmse'], 2), interval(ci['rmse'], 2)),
  ]


def flagged_rows(result: Result) -> list[tuple[str, str, str, str]]:
  """Patients whose predicted EF carries a flag.

  Args:
    result: what `score_predictions` returned.

  Returns:
    (patient, EF reference, EF predicted, flags) as text, one a patient.
  """
  rows = {
    r['patient']: (
      r['patient'],
      number(r['ef_reference'], 1),
      number(r['ef_predicted'], 1),
      r['flags'],
    )
    for r in result.per_case
    if r['flags']
  }
  return list(rows.values())


def _write_csv(path: pathlib.Path, rows: list[dict]) -> None:
  """A table with a header; NaN is an empty field."""
  with path.open('w', newline='') as file:
    if not rows:
      return
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writeheader()
    for row in rows:
      writer.writerow({k: _field(v) for k, v in row.items()})


def _field(value):
  if isinstance(value, bool):
    return int(value)
  if isinstance(value, (float, np.floating)):
    return f'{value:.6g}' if math.isfinite(value) else ''
  return value
