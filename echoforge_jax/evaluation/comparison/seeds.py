"""Several training seeds of one config, evaluated alike, as one result."""

from collections.abc import Callable, Mapping, Sequence
import math
import pathlib

import numpy as np
from scipy import stats

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.comparison.read import (
  check_same_setting,
  read_evaluation,
  receipt_line,
  setting_notes,
)
from echoforge_jax.metrics import statistics
from echoforge_jax.provenance import git_revision, versions

METHOD = (
  'patient = mean of its clips, patients with a value in every run; t_ci95: '
  "Student t over the runs' values, on these patients; ci95: bootstrap that "
  'draws seeds and patients independently (2.5 and 97.5 %); sd: ddof 1'
)
_CHUNK = 200  # Resamples drawn at a time, to bound memory on large sets.


def aggregate_runs(
  folders: Sequence,
  *,
  seed: int = 0,
  resamples: int = statistics.RESAMPLES,
  allow_mixed: bool = False,
) -> dict:
  """Aggregates evaluations of runs that differ in nothing but the seed.

  For every metric: each run's value (mean over the patients that all runs
  could measure), their mean, SD (ddof 1) and 95 % t-interval over seeds, which
  covers the variation between trainings on these patients; and a two-level
  bootstrap interval that draws seeds and, independently, patients, with
  replacement, which covers both. The draws are crossed, not nested, as all
  seeds share the patients (Owen 2007); drawing from S seeds understates their
  variance by (S - 1) / S.

  Args:
    folders: of the evaluations, two or more.
    seed: of the bootstrap.
    resamples: bootstrap resamples.
    allow_mixed: let configs, steps and networks differ, and seeds be equal.

  Returns:
    JSON-ready dict: protocol, unit, runs (folder, run, receipt), n_seeds,
    n_patients, method, rows (name, label, unit, values, mean, sd, t_ci95,
    ci95, n_patients), warnings, receipt, source (its text).

  Raises:
    InputError: when protocols, data, patients or configs differ, two runs
      have the same seed, or there is one run only.
  """
  runs = [read_evaluation(folder) for folder in folders]
  if len(runs) < 2:
    raise InputError(
      f'found {len(runs)} evaluation, wanted two or more runs '
      'of one config; give several --workdir'
    )
  check_same_setting(runs)
  for run in runs[1:]:
    if set(run.patients) != set(runs[0].patients):
      raise InputError(
        f'{runs[0].folder} and {run.folder} have different patients; wanted '
        'the same; evaluate all runs on one prepared data set'
      )
  warnings = setting_notes(runs)
  if allow_mixed:
    warnings.append(
      'configs were not compared: SD and intervals are not those of seeds alone'
    )
  else:
    check_receipts({str(run.folder): run.receipt for run in runs})
  rows = [
    row
    for q in runs[0].quantities()
    if (
      row := _row(
        q.label,
        q.unit,
        [r.values[q.name] for r in runs],
        seed,
        resamples,
        name=q.name,
      )
    )
  ]
  for column, label in (('ef_predicted', ''), ('ef_whole_clip', ' whole clip')):
    rows += _ef_rows(runs, column, label, seed, resamples)
  receipt = {
    'seed': seed,
    'resamples': resamples,
    'git_revision': git_revision(),
    'versions': versions(),
  }
  return textio.to_json(
    {
      'protocol': runs[0].metrics['protocol'],
      'unit': runs[0].metrics['unit'],
      'runs': [
        {'folder': str(run.folder), 'run': run.label, 'receipt': run.receipt}
        for run in runs
      ],
      'n_seeds': len(runs),
      'n_patients': len(runs[0].patients),
      'method': METHOD,
      'rows': rows,
      'warnings': warnings,
      'receipt': receipt,
      'source': receipt_line(runs, receipt),
    }
  )


def check_receipts(receipts: Mapping[str, Mapping]) -> None:
  """Raises unless runs differ in nothing but the training seed.

  Args:
    receipts: name of a run -> its receipt.

  Raises:
    InputError: where config, network or steps differ, a receipt does not say,
      or two runs have the same seed.
  """
  names = ', '.join(receipts)
  for key, label in (
    ('config_digest', 'config'),
    ('which', 'network'),
    ('checkpoint_step', 'steps'),
  ):
    found = [receipt.get(key) for receipt in receipts.values()]
    if None in found:
      raise InputError(
        f'{list(receipts)[found.index(None)]}: found no {key} in its '
        'receipt, wanted one to see whether the runs belong together; it is '
        'older: evaluate again'
      )
    if len(set(found)) > 1:
      raise InputError(
        f'the runs {names} differ in {label} ({key} '
        f'{", ".join(map(str, found))}); wanted runs that differ in the '
        'seed only'
      )
  seeds = [receipt.get('training_seed') for receipt in receipts.values()]
  if len(set(seeds)) < len(seeds):
    raise InputError(
      f'the runs {names} have the training seeds '
      f'{", ".join(map(str, seeds))}; wanted different ones (--config.seed)'
    )


def mean_of(drawn: np.ndarray) -> np.ndarray:
  """Returns the mean over patients of the first number: [R, N, K] -> [R]."""
  return drawn[..., 0].mean(axis=1)


def over_seeds(
  values: Sequence[Mapping],
  seed: int,
  resamples: int,
  statistic: Callable[[np.ndarray], np.ndarray] = mean_of,
) -> dict | None:
  """Summarises one quantity over the patients that all runs could measure.

  Args:
    values: of each run: patient -> number or K numbers.
    seed: of the bootstrap.
    resamples: of the bootstrap.
    statistic: maps [R, N, K] to [R].

  Returns:
    `values` (one per run), `mean` and `sd` (ddof 1; NaN of one run) over them,
    `ci95` of `two_level`, `n_patients`; None without a patient or where a value
    is not finite.
  """
  common = sorted(set.intersection(*map(set, values)))
  if not common:
    return None
  table = np.array([[v[p] for p in common] for v in values], np.float64)
  table = table.reshape(len(values), len(common), -1)
  each = statistic(table)
  if not np.isfinite(each).all():
    return None
  return {
    'values': each.tolist(),
    'mean': float(each.mean()),
    'sd': float(each.std(ddof=1)) if len(each) > 1 else math.nan,
    'ci95': list(two_level(table, statistic, seed, resamples)),
    'n_patients': len(common),
  }


def _row(
  label: str,
  unit: str,
  values: Sequence[dict],
  seed: int,
  resamples: int,
  *,
  name: str,
  statistic: Callable[[np.ndarray], np.ndarray] = mean_of,
) -> dict | None:
  found = over_seeds(values, seed, resamples, statistic)
  if found is None:
    return None
  count = len(values)
  half = stats.t.ppf(1 - statistics.ALPHA / 2, count - 1) * found['sd']
  half /= math.sqrt(count)
  return {
    'name': name,
    'label': label,
    'unit': unit,
    **found,
    't_ci95': [found['mean'] - half, found['mean'] + half],
  }


def two_level(
  table: np.ndarray,
  statistic: Callable[[np.ndarray], np.ndarray],
  seed: int,
  resamples: int,
) -> tuple[float, float]:
  """95 % interval over draws of seeds and, independently, patients.

  Args:
    table: [S, N, K], K numbers of each patient in each run.
    statistic: maps [R, N, K] to [R].
    seed: of the draws.
    resamples: draws.

  Returns:
    2.5 and 97.5 percentiles of the mean over seeds of the statistic; NaN with
    fewer than two patients.
  """
  rng = np.random.default_rng(seed)
  seeds, patients = table.shape[:2]
  if patients < 2:
    return math.nan, math.nan
  drawn = []
  for start in range(0, resamples, _CHUNK):
    size = min(_CHUNK, resamples - start)
    rows = rng.integers(seeds, size=(size, seeds, 1))
    columns = rng.integers(patients, size=(size, 1, patients))
    sample = table[rows, columns].reshape(size * seeds, patients, -1)
    drawn.append(statistic(sample).reshape(size, seeds).mean(axis=1))
  drawn = np.concatenate(drawn)
  drawn = drawn[np.isfinite(drawn)]
  if not drawn.size:
    return math.nan, math.nan
  low, high = np.percentile(drawn, [2.5, 97.5])
  return float(low), float(high)


def _ef_rows(
  runs, column: str, suffix: str, seed: int, resamples: int
) -> list[dict]:
  """Pearson r and bias of the EF."""
  pairs = [
    {
      p: (run.values['ef_reference'][p], value)
      for p, value in run.values[column].items()
      if p in run.values['ef_reference']
    }
    for run in runs
  ]
  key = column.replace('ef_predicted', 'ef')
  options = dict(values=pairs, seed=seed, resamples=resamples)
  rows = [
    _row(
      f'EF{suffix} Pearson r',
      '',
      name=f'{key}_pearson_r',
      statistic=statistics.pearson_r,
      **options,
    ),
    _row(
      f'EF{suffix} bias',
      'points',
      name=f'{key}_bias',
      statistic=lambda x: (x[..., 1] - x[..., 0]).mean(axis=1),
      **options,
    ),
  ]
  return [row for row in rows if row]


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
  textio.write_json(path, found)
  return {'seeds': path}


def seeds_table(found: dict) -> str:
  """The aggregate as text.

  Args:
    found: of `aggregate_runs`.

  Returns:
    Lines without a trailing newline.
  """
  lines = [
    f'{found["n_seeds"]} seeds, {found["n_patients"]} patients: mean, '
    'SD and 95 % t-interval over seeds; 95 % interval over seeds and '
    'patients'
  ]
  table = [('', 'each seed', 'mean', 'SD', 'seeds', 'seeds and patients', 'n')]
  for row in found['rows']:
    scale = 100 if row['unit'] == '%' else 1
    digits = 2 if row['unit'] else 3
    unit = f' ({row["unit"]})' if row['unit'] else ''
    table.append(
      (
        row['label'] + unit,
        ' '.join(textio.number(v, digits, scale) for v in row['values']),
        textio.number(row['mean'], digits, scale),
        textio.number(row['sd'], digits, scale),
        textio.interval(row['t_ci95'], digits, scale),
        textio.interval(row['ci95'], digits, scale),
        str(row['n_patients']),
      )
    )
  lines += textio.columns(table)
  if found['n_seeds'] < 5:
    lines.append(
      f'  note: {found["n_seeds"]} seeds are few: the t-interval '
      'is wide for that reason, the other somewhat too narrow'
    )
  lines += [f'  note: {warning}' for warning in found['warnings']]
  return '\n'.join([*lines, f'  {found["source"]}'])
