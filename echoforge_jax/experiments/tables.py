"""The lines of a study -> a table with intervals and tests, and a plot."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
from typing import NamedTuple

import numpy as np

from echoforge_jax import textio
from echoforge_jax.experiments.cost import Cost
from echoforge_jax.experiments.study import Study
from echoforge_jax.metrics import statistics

METHOD = (
  'mean and SD (n - 1) over seeds; [95 % interval] of a bootstrap that draws seeds and patients '
  'independently; difference from the reference row with the same labels, seed by seed, in the '
  'same bootstrap; p: two-sided Wilcoxon signed-rank over patients, each the mean of its seeds, '
  'adjusted by Holm over the rows'
)
_HEADS = (
  '|Dice (%)|SD|difference (points)|p|ASD (mm)|HD95 (mm)|inconsistent frames (%)|p|EF r|EF bias'
).split('|')


class Column(NamedTuple):
  """A quantity of a line's patients, and how it is shown."""

  name: str
  label: str
  scale: float = 1.0
  digits: int = 2

  def show(self, entry: Mapping) -> str:
    """Returns the mean with its interval."""
    mean = textio.number(entry['mean'], self.digits, self.scale)
    return f'{mean} {textio.interval(entry["ci95"], self.digits, self.scale)}'


COLUMNS = (
  Column('dice', 'Dice (%)', 100),
  Column('asd', 'ASD (mm)'),
  Column('hd95', 'HD95 (mm)'),
  Column('inconsistent', 'inconsistent frames (%)', 100, 1),
)


def summarise(
  study: Study, lines: Sequence[Mapping], *, seed: int = 0, resamples: int = 2000
) -> dict:
  """Aggregates the lines of `runner.run_study`, which have the same seeds in every row.

  `seed` and `resamples` are the bootstrap's. Returns a dict ready for JSON: the study, how the
  numbers were made, and rows with median train_seconds, EF agreement and, by column, values,
  mean, sd, ci95, n_patients, difference, difference_ci95, p_value, p_holm.
  """
  seeds = sorted({line['seed'] for line in lines})
  table = {(line['row'], line['seed']): line for line in lines}
  reference = [table[study.reference, s] for s in seeds]
  options = {'seed': seed, 'resamples': resamples}
  rows = []
  for row in study.rows:
    own = [table[row.name, s] for s in seeds]
    rows.append(
      {
        'name': row.name,
        'label': row.label,
        'n_seeds': len(seeds),
        'train_seconds': float(np.median([x['train_seconds'] for x in own])),
        **{column.name: _entry(column.name, own, reference, options) for column in COLUMNS},
        **_ef_entries(own),
      }
    )
  for column in COLUMNS:
    others = [row for row in rows if row['name'] != study.reference]
    adjusted = statistics.holm([row[column.name]['p_value'] for row in others])
    for row, p in zip(others, adjusted):
      row[column.name]['p_holm'] = p
  return textio.to_json(
    {
      'study': study.name,
      'title': study.title,
      'reference': study.reference,
      'method': METHOD,
      'seeds': seeds,
      'n_patients': len(next(iter(table.values()))['patients']),
      'source': _source(lines, seed, resamples),
      'rows': rows,
    }
  )


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


def _entry(name: str, own, reference, options: Mapping) -> dict:
  """Returns one quantity of a row, on patients that it and the reference measured."""
  patients = set.intersection(
    *({p for p, v in line['patients'].items() if name in v} for line in (*own, *reference))
  )
  ours, theirs = (
    np.array([[line['patients'][p][name] for p in sorted(patients)] for line in lines], np.float64)
    for lines in (own, reference)
  )
  nan = [math.nan] * 2
  found = {'values': [], 'mean': math.nan, 'sd': math.nan, 'ci95': nan, 'n_patients': 0}
  if patients:
    found = statistics.over_seeds(ours[..., None], **options)
  test = {'difference': math.nan, 'ci95': nan, 'p_value': math.nan}
  if patients and own != reference:  # Of the reference itself nothing is said.
    test = statistics.paired(ours, theirs, **options)
  return found | {
    'difference': test['difference'],
    'difference_ci95': test['ci95'],
    'p_value': test['p_value'],
    'p_holm': math.nan,
  }


def _ef_entries(lines: Sequence[Mapping]) -> dict[str, dict]:
  names, nan = ('ef_reference', 'ef_predicted'), math.nan
  pairs = [[[v.get(n, nan) for n in names] for v in line['patients'].values()] for line in lines]
  # A network that finds no cavity in any patient has neither r nor bias.
  agreements = [statistics.agreement(*np.array(p).reshape(-1, 2).T, resamples=1) for p in pairs]
  found = {}
  for name in ('pearson_r', 'bias'):
    values = np.array([getattr(a, name) for a in agreements])
    found[f'ef_{name}'] = {
      'values': values.tolist(),
      'sd': float(values.std(ddof=1)) if len(values) > 1 else math.nan,
      'mean': float(values.mean()),
    }
  return found


def markdown(summary: Mapping, costs: Mapping[str, Cost] | None = None) -> str:
  """Returns the summary as a Markdown table; `costs` by row add columns."""
  heads = _HEADS + (['M parameters', 'GFLOP', 'frames/s'] if costs else [])
  rows = [heads, ['---', *['---:'] * (len(heads) - 1)]]
  for row in summary['rows']:
    dice, asd, hd95, jumps = (row[c.name] for c in COLUMNS)
    difference = dice_p = jumps_p = ''
    if row['name'] != summary['reference']:
      interval = textio.interval(dice['difference_ci95'], 2, 100)
      difference = f'{100 * dice["difference"]:+.2f} {interval}'
      dice_p, jumps_p = (textio.p_text(x['p_holm']) for x in (dice, jumps))
    cells = [
      f'{row["label"]} (`{row["name"]}`)',
      COLUMNS[0].show(dice),
      textio.number(dice['sd'], 2, 100),
      difference,
      dice_p,
      COLUMNS[1].show(asd),
      COLUMNS[2].show(hd95),
      COLUMNS[3].show(jumps),
      jumps_p,
      textio.number(row['ef_pearson_r']['mean'], 3),
      textio.number(row['ef_bias']['mean'], 1),
    ]
    if cost := (costs or {}).get(row['name']):
      cells += [f'{cost.total_parameters / 1e6:.2f}', f'{cost.gflop:.2f}']
      cells.append(f'{cost.frames_per_second:.0f}')
    rows.append(cells + [''] * (len(heads) - len(cells)))
  table = '\n'.join(f'| {" | ".join(cells)} |' for cells in rows)
  return (
    f'**{summary["title"]}.** {_seeds(summary)}, {summary["n_patients"]} test patients; '
    f'differences from `{summary["reference"]}`.\n\n{table}\n\n'
    f'{summary["method"]}.\n\n{summary["source"]}.\n'
  )


def _seeds(summary: Mapping) -> str:
  count = len(summary['seeds'])
  return f'{count} seed{"s"[: count > 1]}'


def plot(summary: Mapping, path: pathlib.Path) -> None:
  """Draws Dice and inconsistent frames of every row, with intervals, as PNG."""
  from matplotlib.figure import Figure

  rows = summary['rows']
  figure = Figure(figsize=(9, 0.9 + 0.42 * len(rows)), layout='constrained')
  axes = figure.subplots(1, 2, sharey=True)
  heights = np.arange(len(rows))[::-1]
  for axis, column in zip(axes, (COLUMNS[0], COLUMNS[3])):
    for y, row in zip(heights, rows):
      entry = row[column.name]
      if entry['mean'] is None:
        continue
      color = '0.45' if row['name'] == summary['reference'] else 'tab:blue'
      ends = [np.nan if v is None else column.scale * v for v in entry['ci95']]
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
    f'{summary["title"]}\n{_seeds(summary)} (circles), mean (diamond), '
    f'95 % interval over seeds and {summary["n_patients"]} patients',
    fontsize=10,
  )
  figure.savefig(path, dpi=150)


def write(
  summary: Mapping, out_dir: pathlib.Path, costs: Mapping[str, Cost] | None = None
) -> list[pathlib.Path]:
  """Writes STUDY.json, STUDY.md and STUDY.png to an existing folder; returns these files."""
  files = [out_dir / f'{summary["study"]}.{suffix}' for suffix in ('json', 'md', 'png')]
  found = dict(summary)
  if costs:
    found['costs'] = {name: dataclasses.asdict(c) for name, c in costs.items()}
  textio.write_json(files[0], found)
  textio.write_text(files[1], markdown(summary, costs))
  plot(summary, files[2])
  return files
