"""The lines of a study -> tables with intervals and tests, and a plot of the rows."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from echoforge_jax import textio
from echoforge_jax.experiments import curve
from echoforge_jax.experiments.cost import Cost
from echoforge_jax.experiments.study import Row, Study
from echoforge_jax.metrics import statistics

METHOD = (
  'Mean over seeds and patients, with the 95 % bootstrap interval over patients, of these '
  'trainings; SD over seeds (n - 1). Difference from the row named, seed by seed, with the same '
  "labeled patients: Student's 95 % t interval over seeds, on these patients, and beside it the "
  'bootstrap interval over patients, of these trainings. p: paired t over seeds, adjusted by Holm '
  f'over the rows with at least {statistics.MIN_SEEDS} seeds'
)


class Column(NamedTuple):
  """A quantity of a line's patients, and how it is shown."""

  name: str
  label: str
  scale: float = 1.0
  digits: int = 2

  def show(self, entry: Mapping) -> str:
    """Returns the mean with its interval over patients."""
    mean = textio.number(entry['mean'], self.digits, self.scale)
    return f'{mean} {textio.interval(entry["patients_ci95"], self.digits, self.scale)}'.strip()


DICE = Column('dice', 'Dice (%)', 100)
# Shown where they were measured.
OTHERS = (
  Column('myo_dice', 'myocardium Dice (%)', 100),
  Column('la_dice', 'atrium Dice (%)', 100),
  Column('asd', 'ASD (mm)'),
  Column('hd95', 'HD95 (mm)'),
  Column('inconsistent', 'inconsistent frames (%)', 100, 1),
)


def summarise(
  study: Study, lines: Sequence[Mapping], *, seed: int = 0, resamples: int = 2000
) -> dict:
  """Aggregates lines of `runner.run_study`, of some or all runs; rows without any are left out.

  `seed` and `resamples` are the bootstrap's. Returns a dict ready for JSON: the study, how the
  numbers were made, and rows with n_seeds, median train_seconds, EF agreement and, by column,
  values, mean, sd, patients_ci95, n_patients and `compared`, of `statistics.paired_seeds`; `parts`
  are those of every class, view and phase.
  """
  options = {'seed': seed, 'resamples': resamples}
  table: dict[str, dict[int, Mapping]] = {}
  for line in sorted(lines, key=lambda line: line['seed']):
    table.setdefault(line['row'], {})[line['seed']] = line
  rows = [_row(study, row, table, options) for row in study.rows if row.name in table]
  for column in (DICE, *OTHERS):
    tests = [row[column.name]['compared'] for row in rows if column.name in row]
    tests = [test for test in tests if test and test['enough']]
    for test, p in zip(tests, statistics.holm([test['p_value'] for test in tests])):
      test['p_holm'] = p
  return textio.to_json(
    {
      'study': study.name,
      'title': study.title,
      'method': METHOD,
      'n_patients': len(lines[0]['patients']) if lines else 0,
      'source': _source(lines, seed, resamples),
      'rows': rows,
      'worth': curve.worth(rows),
    }
  )


def _row(study: Study, row: Row, table: Mapping, options: Mapping) -> dict:
  """Aggregates the runs of one row."""
  own, against = table[row.name], study.reference_of(row)
  lines = list(own.values())
  names = set.union(*(set(v) for line in lines for v in line['patients'].values()))
  found: dict[str, Any] = {
    'name': row.name,
    'label': row.label,
    'against': against,
    'curve': row.curve,
    'n_seeds': len(lines),
    'labeled_patients': lines[0]['receipt'].get('labeled_patients'),
    'train_seconds': float(np.median([line['train_seconds'] for line in lines])),
    **_ef_entries(lines),
  }
  for column in (DICE, *OTHERS):
    if column.name in names:
      other = table.get(against, {})
      found[column.name] = _entry(column.name, own, options)
      found[column.name]['compared'] = _compared(column.name, own, other, options)
  parts = sorted(name for name in names if '_dice_' in name or '_asd_' in name)
  found['parts'] = {name: _entry(name, own, options) for name in parts}
  return found


def _tables(name: str, *rows: Mapping[int, Mapping]) -> list[np.ndarray]:
  """Returns a quantity of each row, [S, N], on the seeds and patients that all have."""
  seeds = sorted(set.intersection(*map(set, rows)))
  lines = [row[s] for row in rows for s in seeds]
  if not lines:
    return []
  patients = set.intersection(
    *({p for p, v in line['patients'].items() if name in v} for line in lines)
  )
  return [
    np.array([[row[s]['patients'][p][name] for p in sorted(patients)] for s in seeds], np.float64)
    for row in rows
  ]


def _entry(name: str, own: Mapping[int, Mapping], options: Mapping) -> dict:
  """Returns one quantity of a row, on the patients measured in each of its runs."""
  (values,) = _tables(name, own)
  if not values.size:
    nan = [math.nan] * 2
    return {'values': [], 'mean': math.nan, 'sd': math.nan, 'patients_ci95': nan, 'n_patients': 0}
  means = values.mean(axis=1)
  over_patients = statistics.estimate(values.mean(axis=0), **options)
  return {
    'values': means.tolist(),
    'mean': over_patients.mean,
    'sd': float(means.std(ddof=1)) if len(means) > 1 else math.nan,
    't_ci95': statistics.t_interval(means),
    'patients_ci95': list(over_patients.ci95),
    'n_patients': values.shape[1],
  }


def _compared(name: str, own: Mapping, reference: Mapping, options: Mapping) -> dict | None:
  """Compares a row with its reference on the seeds that both have; None without any."""
  tables = _tables(name, own, reference)
  if not tables or not tables[0].size:
    return None
  return statistics.paired_seeds(*tables, **options)


def _source(lines: Sequence[Mapping], seed: int, resamples: int) -> str:
  """Returns the receipt of a table, in a line: data, protocol, code, versions."""

  def listed(values) -> str:
    return ', '.join(sorted({str(v) for v in values})) or 'unknown'

  receipts = [line['receipt'] for line in lines]
  protocol = listed(r.get('protocol', {}).get('name') for r in receipts)
  raw = listed(str(r.get('raw_fingerprint'))[:8] for r in receipts)
  kind = 'synthetic' if all(r.get('synthetic') for r in receipts) else 'real'
  packages = listed(
    f'{name} {r["versions"][name]}'
    for r in receipts
    for name in ('jax', 'flax', 'numpy')
    if name in r.get('versions', {})
  )
  return (
    f'protocol {protocol} on {listed(r.get("dataset") for r in receipts)} '
    f'{listed(r.get("split") for r in receipts)} ({kind}, raw files {raw}); '
    f'bootstrap seed {seed} x {resamples}; revision '
    f'{listed(r.get("trained_at", r.get("study_git")) for r in receipts)}; '
    f'{packages}; {listed(r.get("device") for r in receipts)}'
  )


def _ef_entries(lines: Sequence[Mapping]) -> dict[str, dict]:
  """Returns r, bias and mean error of the EF, of the patient and of each view, over seeds."""
  columns = {'ef': ('ef_reference', 'ef_predicted')}
  values = [v for line in lines for v in line['patients'].values()]
  views = {
    n.split('_')[1] for v in values for n in v if n.startswith('ef_') and n.endswith('_masks')
  }
  columns |= {f'ef_{view}': (f'ef_{view}_masks', f'ef_{view}_predicted') for view in sorted(views)}
  found = {}
  for key, names in columns.items():
    pairs = [
      [[v.get(n, math.nan) for n in names] for v in line['patients'].values()] for line in lines
    ]
    # A network that finds no cavity in any patient has none of them.
    agreements = [statistics.agreement(*np.array(p).reshape(-1, 2).T, resamples=1) for p in pairs]
    for name in ('pearson_r', 'bias', 'mae'):
      numbers = np.array([getattr(a, name) for a in agreements])
      found[f'{key}_{name}'] = {
        'values': numbers.tolist(),
        'sd': float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan,
        'mean': float(numbers.mean()),
      }
  return found


def main_table(summary: Mapping, costs: Mapping[str, Cost] | None = None) -> list[list[str]]:
  """Returns the cells of the table of rows, heads first."""
  others = [c for c in OTHERS if any((r.get(c.name) or {}).get('values') for r in summary['rows'])]
  heads = [
    '',
    'seeds',
    DICE.label,
    'SD',
    'difference, [t over seeds]',
    '[over patients]',
    'p (Holm)',
  ]
  heads += [column.label for column in others] + ['EF r', 'EF bias']
  heads += ['M parameters', 'GFLOP', 'frames/s'] if costs else []
  rows = [heads]
  for row in summary['rows']:
    dice = row['dice']
    cells = [
      f'{row["label"]} (`{row["name"]}`)',
      str(row['n_seeds']),
      DICE.show(dice),
      textio.number(dice['sd'], 2, 100),
      *_difference(row),
      *(column.show(row[column.name]) if column.name in row else 'n/a' for column in others),
      textio.number(row['ef_pearson_r']['mean'], 3),
      textio.number(row['ef_bias']['mean'], 1),
    ]
    if cost := (costs or {}).get(row['name']):
      cells += [f'{cost.total_parameters / 1e6:.2f}', f'{cost.gflop:.2f}']
      cells.append(f'{cost.frames_per_second:.0f}')
    rows.append(cells + [''] * (len(heads) - len(cells)))
  return rows


def _difference(row: Mapping) -> tuple[str, str, str]:
  """Returns a row's Dice minus its reference's: over seeds, over patients, and what may be said."""
  if not (test := row['dice']['compared']):
    return '', '', ''
  intervals = [textio.interval(test[key], 2, 100) for key in ('t_ci95', 'patients_ci95')]
  claim = textio.p_text(test['p_holm']) if test['enough'] else statistics.TOO_FEW_SEEDS
  return f'{100 * test["difference"]:+.2f} {intervals[0]}'.strip(), intervals[1], claim


def parts_table(summary: Mapping) -> list[list[str]]:
  """Returns the cells of the table by class, view and phase, heads first."""
  names = sorted(
    {name for row in summary['rows'] for name in row['parts']},
    key=lambda name: ('_asd_' in name, _CLASS_ORDER.get(name.split('_')[0], 9), name),
  )
  planes = sorted(
    {k for row in summary['rows'] for k in row if k.startswith('ef_') and k.count('_') == 2}
  )
  planes = [name for name in planes if name.endswith('_mae')]
  heads = [
    '',
    *(name.replace('_', ' ').replace('asd', 'ASD mm').replace('dice', 'Dice') for name in names),
  ]
  heads += [f'EF {name.split("_")[1]} MAE, r' for name in planes]
  rows = [heads]
  for row in summary['rows']:
    cells = [f'`{row["name"]}`']
    for name in names:
      scale, digits = (1, 2) if '_asd_' in name else (100, 1)
      cells.append(textio.number(row['parts'].get(name, {}).get('mean'), digits, scale))
    for name in planes:
      r = row.get(name.replace('mae', 'pearson_r'), {}).get('mean')
      cells.append(f'{textio.number(row[name]["mean"], 1)}, {textio.number(r, 2)}')
    rows.append(cells)
  return rows


_CLASS_ORDER = {'lv': 0, 'myo': 1, 'la': 2}


def markdown(summary: Mapping, costs: Mapping[str, Cost] | None = None) -> str:
  """Returns the summary as Markdown tables; `costs` by row add columns."""
  texts = [
    f'**{summary["title"]}.** {summary["n_patients"]} patients are scored.{_against(summary)}'
  ]
  for table in (main_table(summary, costs), parts_table(summary)):
    if len(table[0]) > 1:
      lines = [table[0], ['---', *['---:'] * (len(table[0]) - 1)], *table[1:]]
      texts.append('\n'.join(f'| {" | ".join(cells)} |' for cells in lines))
  texts += curve.worth_text(summary['worth'])
  return '\n\n'.join([*texts, f'{summary["method"]}.', f'{summary["source"]}.']) + '\n'


def _against(summary: Mapping) -> str:
  """Says which rows are compared with which."""
  found = {row['against']: [] for row in summary['rows'] if row['against']}
  for row in summary['rows']:
    if row['against']:
      found[row['against']].append(f'`{row["name"]}`')
  if len(found) == 1:
    return f' Differences are from `{next(iter(found))}`.'
  pairs = '; '.join(f'{", ".join(rows)} from `{name}`' for name, rows in found.items())
  return f' Differences: {pairs}.' if pairs else ''


def latex(summary: Mapping, costs: Mapping[str, Cost] | None = None) -> str:
  """Returns the same tables for LaTeX with the package booktabs."""
  texts = []
  for table in (main_table(summary, costs), parts_table(summary)):
    if len(table[0]) > 1:
      lines = [' & '.join(map(_escape, cells)) + r' \\' for cells in table]
      head = [rf'\begin{{tabular}}{{l{"r" * (len(table[0]) - 1)}}}', r'\toprule', lines[0]]
      texts.append('\n'.join([*head, r'\midrule', *lines[1:], r'\bottomrule', r'\end{tabular}']))
  note = f'% {summary["title"]}. {summary["method"]}. {summary["source"]}.'
  return '\n\n'.join([note, *texts]) + '\n'


def _escape(text: str) -> str:
  """Returns a cell as LaTeX: special characters, and `code` as typewriter text."""
  for char in '&%#_':
    text = text.replace(char, f'\\{char}')
  parts = text.split('`')
  return ''.join(rf'\texttt{{{part}}}' if k % 2 else part for k, part in enumerate(parts))


def plot(summary: Mapping, paths: Sequence[pathlib.Path]) -> None:
  """Draws Dice and inconsistent frames of every row, with intervals, into files."""
  from matplotlib.figure import Figure

  rows = summary['rows']
  columns = [
    c for c in (DICE, OTHERS[-1]) if any((r.get(c.name) or {}).get('values') for r in rows)
  ]
  figure = Figure(figsize=(3 + 3 * len(columns), 0.9 + 0.42 * len(rows)), layout='constrained')
  axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
  heights = np.arange(len(rows))[::-1]
  for axis, column in zip(axes, columns):
    for y, row in zip(heights, rows):
      entry = row.get(column.name) or {'mean': None}
      if entry['mean'] is None:
        continue
      color = 'tab:blue' if row['against'] else '0.45'
      ends = [np.nan if v is None else column.scale * v for v in entry['patients_ci95']]
      values = column.scale * np.array(entry['values'])
      axis.plot(ends, [y] * 2, color=color, lw=2)
      axis.plot(values, [y] * len(values), 'o', ms=4, mfc='white', color=color)
      axis.plot(column.scale * entry['mean'], y, 'D', ms=6, color=color)
    axis.set_xlabel(column.label)
    axis.grid(axis='x', color='0.9')
    axis.spines[['top', 'right']].set_visible(False)
  axes[0].set_yticks(heights, [row['label'] for row in rows])
  axes[0].set_ylim(-0.6, len(rows) - 0.4)
  figure.suptitle(
    f'{summary["title"]}\nseeds (circles), mean (diamond), 95 % interval over '
    f'{summary["n_patients"]} patients',
    fontsize=10,
  )
  for path in paths:
    figure.savefig(path, dpi=150)


def write(
  summary: Mapping, out_dir: pathlib.Path, costs: Mapping[str, Cost] | None = None
) -> list[pathlib.Path]:
  """Writes STUDY.json, .md, .tex, .png and .pdf to an existing folder; returns these files."""
  suffixes = ('json', 'md', 'tex', 'png', 'pdf')
  files = [out_dir / f'{summary["study"]}.{suffix}' for suffix in suffixes]
  found = dict(summary)
  if costs:
    found['costs'] = {name: dataclasses.asdict(c) for name, c in costs.items()}
  textio.write_json(files[0], found)
  textio.write_text(files[1], markdown(summary, costs))
  textio.write_text(files[2], latex(summary, costs))
  draw = curve.plot if any(row['curve'] for row in summary['rows']) else plot
  draw(summary, files[3:])
  return files
