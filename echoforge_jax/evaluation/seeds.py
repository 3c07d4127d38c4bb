"""Several training seeds of one config, evaluated alike, as one result."""

from collections.abc import Sequence
import json
import math
import pathlib

import numpy as np
from scipy import stats

from echoforge_jax.errors import InputError
from echoforge_jax.evaluation import results, statistics
from echoforge_jax.evaluation.run_files import (
  EvaluationFiles,
  check_same_setting,
  read_evaluation,
  receipt_line,
)

_CHUNK = 500


def aggregate_runs(folders: Sequence, *, seed: int = 0,
                   resamples: int = statistics.RESAMPLES,
                   allow_mixed: bool = False) -> dict:
  """Aggregates evaluations of runs that differ in nothing but the seed.

  For every metric: each run's value (mean over patients; for EF Pearson r and
  bias as well), their mean, SD (ddof 1) and 95 % t-interval over seeds, which
  covers the variation between trainings on these patients; and a two-level
  bootstrap interval that draws seeds, then patients, with replacement, which
  covers both (ours; with few seeds it is too narrow).

  Args:
    folders: of the evaluations, two or more.
    seed: of the bootstrap.
    resamples: bootstrap resamples.
    allow_mixed: let the runs' configs differ.

  Returns:
    JSON-ready dict: runs, n_seeds, n_patients, rows (name, values, mean, sd,
    t_ci95, ci95, n_patients), source.

  Raises:
    InputError: when protocols, data or configs differ, two runs have the same
      seed, or there is one run only.
  """
  runs = [read_evaluation(folder) for folder in folders]
  if len(runs) < 2:
    raise InputError(f'found {len(runs)} evaluation, wanted two or more seeds')
  check_same_setting(runs)
  if not allow_mixed:
    _check_configs(runs)
  rows = [row for name in runs[0].values
          if (row := _row(name, runs, seed, resamples))]
  for block, label in (('ef', 'ef'), ('whole_clip', 'ef_whole_clip')):
    rows += _ef_rows(runs, block, label)
  return results.to_json({
      'runs': [{'folder': str(run.folder), 'run': run.label,
                'receipt': run.receipt} for run in runs],
      'n_seeds': len(runs), 'n_patients': runs[0].metrics['n_patients'],
      'protocol': runs[0].metrics['protocol'], 'seed': seed,
      'resamples': resamples, 'rows': rows, 'source': receipt_line(runs)})


def _check_configs(runs: list[EvaluationFiles]) -> None:
  receipts = [run.receipt for run in runs]
  for key in ('config_digest', 'checkpoint_step', 'which'):
    found = {str(r.get(key)) for r in receipts}
    if len(found) > 1:
      raise InputError(
          f'the runs {", ".join(run.label for run in runs)} differ in {key} '
          f'({", ".join(sorted(found))}); wanted runs of one config that '
          'differ in the seed only')
  seeds = [r.get('training_seed') for r in receipts]
  if len(set(seeds)) < len(seeds):
    raise InputError(
        f'the runs {", ".join(run.label for run in runs)} have the training '
        f'seeds {seeds}; wanted different ones (--config.seed)')


def _row(name, runs, seed, resamples) -> dict | None:
  common = sorted(set.intersection(*(set(r.values.get(name, {}))
                                     for r in runs)))
  if not common:
    return None
  table = np.array([[run.values[name][p] for p in common] for run in runs])
  return {**_over_seeds(name, table.mean(axis=1)), 'n_patients': len(common),
          'ci95': list(_two_level(table, seed, resamples))}


def _over_seeds(name: str, values: np.ndarray) -> dict:
  mean, sd = float(values.mean()), float(values.std(ddof=1))
  half = stats.t.ppf(.975, len(values) - 1) * sd / math.sqrt(len(values))
  return {'name': name, 'values': values.tolist(), 'mean': mean, 'sd': sd,
          't_ci95': [mean - half, mean + half]}


def _two_level(table: np.ndarray, seed: int, resamples: int):
  """Percentiles of the mean of resampled seeds and patients [S, N]."""
  rng = np.random.default_rng(seed)
  count, patients = table.shape
  if patients < 2:
    return math.nan, math.nan
  drawn = []
  for start in range(0, resamples, _CHUNK):
    size = min(_CHUNK, resamples - start)
    rows = rng.integers(count, size=(size, count))
    columns = rng.integers(patients, size=(size, patients))
    drawn.append(table[rows[:, :, None], columns[:, None, :]].mean(
        axis=(1, 2)))
  low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
  return float(low), float(high)


def _ef_rows(runs, block: str, label: str) -> list[dict]:
  """Pearson r and bias of the EF, over seeds only."""
  found = [run.metrics.get(block) or {} for run in runs]
  if block == 'whole_clip':
    found = [entry.get('ef') or {} for entry in found]
  rows = []
  for key in ('pearson_r', 'bias'):
    values = [entry.get(key) for entry in found]
    if all(isinstance(v, (int, float)) for v in values):
      rows.append({**_over_seeds(f'{label}_{key}', np.array(values, float)),
                   'n_patients': found[0].get('n'),
                   'ci95': [math.nan, math.nan]})
  return rows


def write_seeds(found: dict, out_dir) -> dict[str, pathlib.Path]:
  """Writes seeds.json.

  Args:
    found: of `aggregate_runs`.
    out_dir: folder, made if missing.

  Returns:
    {'seeds': path}.
  """
  path = pathlib.Path(out_dir) / 'seeds.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(found, indent=2, allow_nan=False) + '\n')
  return {'seeds': path}


def seeds_table(found: dict) -> str:
  """The aggregate as text.

  Args:
    found: of `aggregate_runs`.

  Returns:
    Lines without a trailing newline.
  """
  lines = [f'{found["n_seeds"]} seeds, {found["n_patients"]} patients: mean, '
           'SD and 95 % t-interval over seeds; interval over seeds and '
           'patients']
  table = [('', 'each seed', 'mean', 'SD', 'seeds', 'seeds and patients')]
  for row in found['rows']:
    share = row['name'].endswith(('dice', 'iou', 'share', 'roughness', 'ece'))
    scale, unit, digits = (100, ' %', 2) if share else (1, '', 2)
    if row['name'].endswith('pearson_r'):
      digits = 3
    def between(pair, digits=digits, scale=scale):
      return results.interval(
          [math.nan if v is None else v for v in pair], digits, scale)
    table.append((
        row['name'] + unit,
        ' '.join(results.number(v, digits, scale) for v in row['values']),
        results.number(row['mean'], digits, scale),
        results.number(row['sd'], digits, scale), between(row['t_ci95']),
        between(row['ci95'])))
  return '\n'.join([*lines, *results.columns(table), f'  {found["source"]}'])
