"""Several training seeds of one config, evaluated alike, as one result."""

from collections.abc import Mapping, Sequence

import numpy as np

from echoforge_jax import textio
from echoforge_jax.errors import InputError
from echoforge_jax.evaluation.comparison import document, read
from echoforge_jax.metrics import statistics

METHOD = (
  'patient = mean of its clips, patients with a value in every run; t_ci95: '
  "Student t over the runs' values, on these patients; ci95: bootstrap that "
  'draws seeds and patients independently (2.5 and 97.5 %); sd: ddof 1'
)


def aggregate_runs(
  folders: Sequence,
  *,
  seed: int = 0,
  resamples: int = statistics.RESAMPLES,
  allow_mixed: bool = False,
) -> dict:
  """Aggregates two or more evaluations of runs that differ in nothing but the seed.

  Every metric goes through `statistics.over_seeds`, over the patients that all runs could measure;
  the dict is ready for JSON. `allow_mixed` lets configs, steps and networks differ, and seeds be
  equal.

  Raises:
    InputError: when protocols, data, patients or configs differ, two runs have the same seed, or
      there is one run only.
  """
  runs = [read.read_evaluation(folder) for folder in folders]
  if len(runs) < 2:
    raise InputError(
      f'found {len(runs)} evaluation, wanted two or more runs of one config; give several --workdir'
    )
  read.check_same_setting(runs)
  for run in runs[1:]:
    if set(run.patients) != set(runs[0].patients):
      raise InputError(
        f'{runs[0].folder} and {run.folder} have different patients; wanted '
        'the same; evaluate all runs on one prepared data set'
      )
  warnings = document.setting_notes(runs)
  if allow_mixed:
    warnings.append('configs were not compared: SD and intervals are not those of seeds alone')
  else:
    check_receipts({str(run.folder): run.receipt for run in runs})
  options = dict(seed=seed, resamples=resamples)
  return document.document(
    runs,
    options,
    runs=[document.run_entry(run) for run in runs],
    n_seeds=len(runs),
    n_patients=len(runs[0].patients),
    method=METHOD,
    rows=_rows(runs, options),
    warnings=warnings,
  )


def check_receipts(receipts: Mapping[str, Mapping]) -> None:
  """Raises InputError unless runs, name -> receipt, differ in nothing but the training seed.

  A receipt that does not say is refused, as are two runs with the same seed.
  """
  names = ', '.join(receipts)
  labels = {'config_digest': 'config', 'which': 'network', 'checkpoint_step': 'steps'}
  for key, label in labels.items():
    found = [receipt.get(key) for receipt in receipts.values()]
    if key == 'checkpoint_step':  # The best of one score may be any step.
      best = [(receipt.get('step_choice') or '') for receipt in receipts.values()]
      found = [b if b.startswith('best ') else step for b, step in zip(best, found)]
    if None in found:
      raise InputError(
        f'{list(receipts)[found.index(None)]}: found no {key} in its receipt, wanted one to see '
        'whether the runs belong together; it is older: evaluate again'
      )
    if len(set(found)) > 1:
      raise InputError(
        f'the runs {names} differ in {label} ({key} {", ".join(map(str, found))}); wanted runs '
        'that differ in the seed only'
      )
  seeds = [receipt.get('training_seed') for receipt in receipts.values()]
  if len(set(seeds)) < len(seeds):
    raise InputError(
      f'the runs {names} have the training seeds '
      f'{", ".join(map(str, seeds))}; wanted different ones (--config.seed)'
    )


def _rows(runs: Sequence[read.EvaluationFiles], options: dict) -> list[dict]:
  """Returns a row per quantity, then Pearson r and bias of the EF."""
  rows = []

  def add(name, label, unit, values, statistic):
    """`values` has a dict per run: patient -> number or (reference, value)."""
    common = sorted(set.intersection(*map(set, values)))
    if not common:
      return
    table = np.array([[v[p] for p in common] for v in values], np.float64)
    table = table.reshape(len(values), len(common), -1)
    found = statistics.over_seeds(table, statistic, **options)
    if np.isfinite(found['values']).all():
      rows.append({'name': name, 'label': label, 'unit': unit, **found})

  for q in runs[0].quantities():
    values = [run.values[q.name] for run in runs]
    add(q.name, q.label, q.unit, values, statistics.first_mean)
  names = {'ef_predicted': ('ef', 'EF'), 'ef_whole_clip': ('ef_whole_clip', 'EF whole clip')}
  for column, (name, label) in names.items():
    both = [(run.values['ef_reference'], run.values[column]) for run in runs]
    pairs = [{p: (known[p], v) for p, v in found.items() if p in known} for known, found in both]
    add(f'{name}_pearson_r', f'{label} Pearson r', '', pairs, statistics.pearson_r)
    add(f'{name}_bias', f'{label} bias', 'points', pairs, statistics.bias)
  return rows


def seeds_table(found: dict) -> str:
  """Returns what `aggregate_runs` found as lines of text."""
  seeds = found['n_seeds']
  head = (
    f'{seeds} seeds, {found["n_patients"]} patients: mean, SD and 95 % '
    't-interval over seeds; 95 % interval over seeds and patients'
  )
  table = [('', 'each seed', 'mean', 'SD', 'seeds', 'seeds and patients', 'n')]
  for row in found['rows']:
    form = 2 if row['unit'] else 3, 100 if row['unit'] == '%' else 1
    unit = f' ({row["unit"]})' if row['unit'] else ''
    table.append(
      (
        row['label'] + unit,
        ' '.join(textio.number(v, *form) for v in row['values']),
        *(textio.number(row[key], *form) for key in ('mean', 'sd')),
        *(textio.interval(row[key], *form) for key in ('t_ci95', 'ci95')),
        str(row['n_patients']),
      )
    )
  remarks = [
    f'note: {seeds}: {statistics.TOO_FEW_SEEDS} about the method (wanted {statistics.MIN_SEEDS}): '
    'the t-interval is wide for that reason, the other somewhat too narrow'
  ]
  return document.table_text(head, table, remarks * (seeds < statistics.MIN_SEEDS), found)
