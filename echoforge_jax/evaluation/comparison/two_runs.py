"""Two evaluations on the same patients: would other patients show the difference, too?"""

import math

import numpy as np

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.comparison import document, read
from echoforge_jax.evaluation.comparison.read import EvaluationFiles, Quantity
from echoforge_jax.metrics import statistics

METHOD = (
  'patient = mean of its clips; difference first - second over patients with both; ci95: expanded '
  'percentile bootstrap over pairs, of these two trainings; p: two-sided Wilcoxon signed-rank, '
  'zero differences dropped (scipy, method auto); p_holm: Holm over all rows'
)


def compare_runs(
  first_dir, second_dir, *, seed: int = 0, resamples: int = statistics.RESAMPLES
) -> dict:
  """Compares the evaluations in two folders patient by patient (`statistics.wilcoxon`).

  It says whether other patients would show the difference between these two trainings, and nothing
  about other trainings: methods are compared by seeds (`statistics.paired_seeds`). A patient's
  value is the mean of its clips'; p is adjusted by Holm over all metrics of the table.

  Returns:
    JSON-ready dict. In a row, only_first and only_second are the patients that only one of them
    could measure, left out; smallest_p_holm is p had all its patients agreed; better is 'first',
    'second', 'neither', or '' where neither direction is.

  Raises:
    InputError: when the two differ in protocol or data, or share no patient.
  """
  runs = [read.read_evaluation(folder) for folder in (first_dir, second_dir)]
  read.check_same_setting(runs)
  first, second = runs
  common = set(first.patients) & set(second.patients)
  if not common:
    raise InputError(
      f'{first.folder} and {second.folder}: found no common patient, wanted '
      'evaluations of the same split; evaluate both alike'
    )
  options = dict(seed=seed, resamples=resamples)
  rows = [_row(q, runs, common, options) for q in first.quantities()]
  rows = [row for row in rows if row]
  p_values = [row['p_value'] for row in rows]
  for k, row in enumerate(rows):
    agreeing = [*p_values[:k], row.pop('smallest_p'), *p_values[k + 1 :]]
    row['p_holm'] = statistics.holm(p_values)[k]
    row['smallest_p_holm'] = statistics.holm(agreeing)[k]
    row['verdict'] = _verdict(row)
  return document.document(
    runs,
    options,
    first=document.run_entry(first),
    second=document.run_entry(second),
    n_patients=len(common),
    method=METHOD,
    rows=rows,
    warnings=_warnings(first, second, common),
  )


def _row(quantity: Quantity, runs, common: set[str], options: dict) -> dict | None:
  values = [run.values[quantity.name] for run in runs]
  have = [common & set(v) for v in values]
  both = sorted(have[0] & have[1])
  if not both:
    return None
  first, second = (np.array([v[p] for p in both]) for v in values)
  apart = statistics.estimate(first - second, **options)
  found = {'first': float(first.mean()), 'second': float(second.mean())}
  found |= {'difference': apart.mean, 'ci95': list(apart.ci95)}
  found |= statistics.wilcoxon(first, second)
  del found['statistic']
  better = ''
  if quantity.better:
    gain = found['difference'] if quantity.better == 'higher' else -found['difference']
    better = 'neither' if gain == 0 else 'first' if gain > 0 else 'second'
  only = {'only_first': len(have[0] - have[1]), 'only_second': len(have[1] - have[0])}
  texts = {'name': quantity.name, 'label': quantity.label, 'unit': quantity.unit}
  return {**texts, **found, **only, 'better': better}


def _verdict(row: dict) -> str:
  """Returns what may be said: nothing, where the patients cannot show anything."""
  if not row['n_different']:
    return 'equal'
  if row['smallest_p_holm'] >= statistics.ALPHA:
    return f'too few (differing: {row["n_different"]})'
  if row['p_holm'] >= statistics.ALPHA:
    return 'not distinguishable'
  if row['difference'] * row['median_difference'] < 0:
    return 'differ; mean and median disagree'
  if not row['better']:
    return 'first is larger' if row['difference'] > 0 else 'second is larger'
  return f'{row["better"]} is better'


def _warnings(first: EvaluationFiles, second: EvaluationFiles, common: set[str]) -> list[str]:
  found = document.setting_notes([first, second])
  if left := len(set(first.patients) ^ set(second.patients)):
    found.append(f'{left} patients are in one evaluation only and left out')
  a, b = first.receipt, second.receipt

  def same(*keys):
    return all(a.get(k) is not None and a.get(k) == b.get(k) for k in keys)

  if first.folder.resolve() == second.folder.resolve():
    found.append('both are the same evaluation')
  elif same('config_digest', 'training_seed', 'which'):
    found.append(
      'both are the same checkpoint of the same run'
      if same('run', 'checkpoint_step')
      else 'both are trainings of one config from one seed: expect no '
      'difference but that of steps or machines'
    )
  pairs = [[run.values['ef_reference'].get(p, math.nan) for run in (first, second)] for p in common]
  if any(abs(x - y) > 0.5 for x, y in pairs):
    found.append('the reference EF of some patients differs: other masks or another image size')
  found.append(
    'one training run each: the test covers the choice of patients, not the variation between '
    f'training runs: {statistics.TOO_FEW_SEEDS} about the methods; train {statistics.MIN_SEEDS} of '
    'each and compare them with `study`'
  )
  return found


def comparison_table(comparison: dict) -> str:
  """Returns what `compare_runs` found as lines of text."""
  rows = comparison['rows']
  head = (
    f'first {comparison["first"]["run"]} minus second {comparison["second"]["run"]}, '
    f'{comparison["n_patients"]} patients: mean difference of these two trainings [95 % interval '
    f'over patients], Wilcoxon signed-rank p over patients, adjusted by Holm for {len(rows)} rows'
  )
  table = [('', 'first', 'second', 'difference', '', 'n', 'p', 'p Holm', '')]
  for row in rows:
    scale = 100 if row['unit'] == '%' else 1
    table.append(
      (
        f'{row["label"]} ({row["unit"]})',
        *(textio.number(row[key], 2, scale) for key in ('first', 'second')),
        f'{row["difference"] * scale:+.2f}',
        textio.interval(row['ci95'], 2, scale),
        str(row['n']),
        *(textio.p_text(row[key]) for key in ('p_value', 'p_holm')),
        row['verdict'],
      )
    )
  return document.table_text(head, table, _remarks(rows), comparison)


def _remarks(rows: list[dict]) -> list[str]:
  """Returns what the verdicts do not say."""
  lines = []
  if any(row['verdict'].startswith('too few') for row in rows):
    wanted = 1 + math.ceil(math.log2(len(rows) / statistics.ALPHA) + 1e-9)
    lines.append(
      'too few: no adjusted p below .05 is possible, whatever the '
      f'data; {wanted} differing patients always suffice'
    )
  return lines + [
    f'{row["label"]}: patients left out because only the '
    f'{side} could measure them: {row[f"only_{side}"]}'
    for row in rows
    for side in ('first', 'second')
    if row[f'only_{side}']
  ]
