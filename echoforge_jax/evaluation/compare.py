"""Two evaluations on the same patients: is the difference more than chance?"""

import json
import math
import pathlib

import numpy as np

from echoforge_jax.evaluation import results, statistics
from echoforge_jax.evaluation.run_files import (
  HIGHER_IS_BETTER,
  EvaluationFiles,
  check_same_setting,
  read_evaluation,
  receipt_line,
)


def compare_runs(first_dir, second_dir, *, seed: int = 0,
                 resamples: int = statistics.RESAMPLES) -> dict:
  """Compares two evaluations patient by patient.

  For every metric: the mean difference first - second over the patients that
  both have, with a percentile bootstrap interval that resamples patients as
  pairs; the Wilcoxon signed-rank test (two-sided, scipy); p adjusted by Holm
  over all metrics of the table. A patient's value is the mean of its clips'.

  Args:
    first_dir: folder of an evaluation.
    second_dir: folder of the other.
    seed: of the bootstrap.
    resamples: bootstrap resamples.

  Returns:
    JSON-ready dict: first, second (folder, run, receipt), n_patients, seed,
    rows (name, n, first, second, difference, ci95, p_value, p_holm, better),
    warnings.

  Raises:
    InputError: when the two differ in protocol or data, or share no patient.
  """
  runs = [read_evaluation(folder) for folder in (first_dir, second_dir)]
  check_same_setting(runs)
  rows = []
  for name in runs[0].values:
    row = _row(name, *runs, seed, resamples)
    if row:
      rows.append(row)
  for row, p in zip(rows, statistics.holm([r['p_value'] for r in rows])):
    row['p_holm'] = p
  patients = [set().union(*run.values.values()) for run in runs]
  return results.to_json({
      **{side: {'folder': str(run.folder), 'run': run.label,
                'receipt': run.receipt}
         for side, run in zip(('first', 'second'), runs)},
      'n_patients': len(patients[0] & patients[1]),
      'seed': seed, 'resamples': resamples, 'rows': rows,
      'warnings': _warnings(runs, patients), 'source': receipt_line(runs)})


def _row(name, first: EvaluationFiles, second: EvaluationFiles, seed,
         resamples) -> dict | None:
  common = sorted(set(first.values[name]) & set(second.values.get(name, {})))
  if not common:
    return None
  a, b = (np.array([run.values[name][p] for p in common])
          for run in (first, second))
  test = statistics.wilcoxon(a, b)
  ci = statistics.bootstrap_ci(a - b, lambda x: x.mean(axis=1), seed=seed,
                               resamples=resamples)
  metric = name.split('_', 1)[1] if name.startswith(
      tuple(f'{c}_' for c in first.metrics['classes'])) else name
  gain = (a - b).mean() * (1 if metric in HIGHER_IS_BETTER else -1)
  return {'name': name, 'n': len(common), 'first': float(a.mean()),
          'second': float(b.mean()), 'difference': float((a - b).mean()),
          'ci95': list(ci), 'p_value': test['p_value'],
          'n_different': test['n_different'], 'smallest_p': test['smallest_p'],
          'better': ('neither' if gain == 0 else
                     'first' if gain > 0 else 'second')}


def _warnings(runs, patients) -> list[str]:
  first, second = (run.receipt for run in runs)
  found = []
  if patients[0] != patients[1]:
    found.append(f'{len(patients[0] ^ patients[1])} patients are in one '
                 'evaluation only and left out')
  same = ('run', 'checkpoint_step', 'which', 'training_seed')
  if all(first.get(k) == second.get(k) for k in same) and first.get('run'):
    found.append('both are the same checkpoint of the same run')
  steps = [r.get('checkpoint_step') or 0 for r in (first, second)]
  if max(steps) > 1.1 * min(steps):
    found.append(f'the checkpoints differ in steps: {steps[0]} and {steps[1]}')
  found.append('one training run each: the test covers the choice of patients, '
               'not the variation between training runs; aggregate several '
               'seeds for that')
  return found


def write_comparison(comparison: dict, out_dir) -> dict[str, pathlib.Path]:
  """Writes comparison.json.

  Args:
    comparison: of `compare_runs`.
    out_dir: an existing folder.

  Returns:
    {'comparison': path}.
  """
  path = pathlib.Path(out_dir) / 'comparison.json'
  path.write_text(json.dumps(comparison, indent=2, allow_nan=False) + '\n')
  return {'comparison': path}


def comparison_table(comparison: dict) -> str:
  """The comparison as text.

  Args:
    comparison: of `compare_runs`.

  Returns:
    Lines without a trailing newline.
  """
  rows = comparison['rows']
  lines = [f'{comparison["first"]["run"]} minus '
           f'{comparison["second"]["run"]}, {comparison["n_patients"]} '
           'patients: mean difference [95 % interval], Wilcoxon signed-rank p '
           f'(Holm over {len(rows)} rows)']
  table = [('', 'first', 'second', 'difference', '', 'p', 'p Holm', '')]
  for row in rows:
    share = row['name'].endswith(('dice', 'iou', 'share', 'roughness', 'ece'))
    scale, unit = (100, ' %') if share else (1, '')
    # However well all patients agree, the test could not show it.
    few = row['smallest_p'] >= statistics.ALPHA
    table.append((
        row['name'] + unit, results.number(row['first'], 2, scale),
        results.number(row['second'], 2, scale),
        f'{row["difference"] * scale:+.2f}',
        results.interval([math.nan if v is None else v for v in row['ci95']],
                         2, scale),
        _p(row['p_value']), _p(row['p_holm']),
        _verdict(row, few)))
  lines += results.columns(table)
  lines += [f'  note: {warning}' for warning in comparison['warnings']]
  lines.append(f'  {comparison["source"]}')
  return '\n'.join(lines)


def _verdict(row: dict, few: bool) -> str:
  if row['better'] == 'neither':
    return 'equal'
  if few:
    return f'too few pairs ({row["n_different"]}) for p < .05'
  return f'{row["better"]} is better' if row['p_holm'] < statistics.ALPHA else (
      'not distinguishable')


def _p(value) -> str:
  return 'n/a' if value is None else (
      '<.0001' if value < 1e-4 else f'{value:.4f}'.lstrip('0'))
