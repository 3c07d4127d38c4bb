"""The lines of a study -> a table with intervals and tests, and a plot."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib

import numpy as np

from echoforge_jax import textio
from echoforge_jax.evaluation.comparison.seeds import two_level
from echoforge_jax.experiments.cost import Cost
from echoforge_jax.experiments.study import Study
from echoforge_jax.metrics import statistics

METHOD = (
  'mean and SD (n - 1) over seeds; [95 % interval] of a bootstrap that draws '
  'seeds and patients independently; difference from the reference row with '
  'the same labels, seed by seed, in the same bootstrap; p: two-sided '
  'Wilcoxon signed-rank over patients, each the mean of its seeds, adjusted '
  'by Holm over the rows'
)


@dataclasses.dataclass(frozen=True)
class Column:
  """One quantity of the table.

  Attributes:
    name: key of a line's patients.
    label: with the unit.
    scale: factor for display.
    digits: for display.
  """

  name: str
  label: str
  scale: float = 1.0
  digits: int = 2


COLUMNS = (
  Column('dice', 'Dice (%)', 100),
  Column('asd', 'ASD (mm)'),
  Column('hd95', 'HD95 (mm)'),
  Column('inconsistent', 'inconsistent frames (%)', 100, 1),
)


def summarise(
  study: Study,
  lines: Sequence[Mapping],
  *,
  seed: int = 0,
  resamples: int = 2000,
) -> dict:
  """Aggregates the runs of a study.

  Args:
    study: rows and reference.
    lines: of `runner.run_study`; every row with the same seeds.
    seed: of the bootstrap.
    resamples: of the bootstrap.

  Returns:
    JSON-ready dict: study, title, reference, method, seeds, n_patients,
    source (data, protocol, revisions and versions), rows.
    A row has name, label, n_seeds, ef_pearson_r and ef_bias (values, mean,
    sd), train_seconds (median) and, by column: values, mean, sd, ci95,
    difference, difference_ci95, p_value, p_holm.
  """
  seeds = sorted({line['seed'] for line in lines})
  table = {(line['row'], line['seed']): line for line in lines}
  rows = [
    _row(
      row,
      [table[row.name, s] for s in seeds],
      [table[study.reference, s] for s in seeds],
      seed,
      resamples,
    )
    for row in study.rows
  ]
  for column in COLUMNS:
    others = [row for row in rows if row['name'] != study.reference]
    adjusted = statistics.holm([row[column.name]['p_value'] for row in others])
    for row, p in zip(others, adjusted):
      row[column.name]['p_holm'] = p
  patients = sorted(next(iter(table.values()))['patients'])
  return textio.to_json(
    {
      'study': study.name,
      'title': study.title,
      'reference': study.reference,
      'method': METHOD,
      'seeds': seeds,
      'n_patients': len(patients),
      'source': _source(lines, seed, resamples),
      'rows': rows,
    }
  )


def _source(lines: Sequence[Mapping], seed: int, resamples: int) -> str:
  """The receipt of a table, in a line: data, protocol, code, versions."""

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


def _values(lines: Sequence[Mapping], name: str, patients) -> np.ndarray:
  """[S, N, 1], seeds by patients."""
  return np.array(
    [[line['patients'][p][name] for p in patients] for line in lines],
    np.float64,
  )[..., None]


def _mean(drawn: np.ndarray) -> np.ndarray:
  return drawn[..., 0].mean(axis=1)


def _row(row, lines, reference, seed: int, resamples: int) -> dict:
  found = {
    'name': row.name,
    'label': row.label,
    'n_seeds': len(lines),
    'train_seconds': float(
      np.median([line['train_seconds'] for line in lines])
    ),
  }
  for column in COLUMNS:
    common = sorted(
      set.intersection(
        *(
          {p for p, v in line['patients'].items() if column.name in v}
          for line in (*lines, *reference)
        )
      )
    )
    if not common:
      nan = [math.nan] * 2
      found[column.name] = dict(
        values=[],
        mean=math.nan,
        sd=math.nan,
        n_patients=0,
        ci95=nan,
        difference=math.nan,
        difference_ci95=nan,
        p_value=math.nan,
        p_holm=math.nan,
      )
      continue
    own = _values(lines, column.name, common)
    other = _values(reference, column.name, common)
    each = own[..., 0].mean(axis=1)
    test = statistics.wilcoxon(
      own[..., 0].mean(axis=0), other[..., 0].mean(axis=0)
    )
    same = lines == reference
    found[column.name] = {
      'values': each.tolist(),
      'mean': float(each.mean()),
      'sd': _sd(each),
      'n_patients': len(common),
      'ci95': list(two_level(own, _mean, seed, resamples)),
      # Of the reference against itself nothing is said.
      'difference': math.nan if same else float((own - other).mean()),
      'difference_ci95': [math.nan] * 2
      if same
      else list(two_level(own - other, _mean, seed, resamples)),
      'p_value': math.nan if same else test['p_value'],
      'p_holm': math.nan,
    }
  pairs = [
    np.array(
      [
        (v['ef_reference'], v['ef_predicted'])
        for v in line['patients'].values()
        if 'ef_reference' in v and 'ef_predicted' in v
      ]
    )
    for line in lines
  ]
  # A network that finds no cavity in any patient has neither r nor bias.
  agreements = [
    statistics.agreement(*p.reshape(-1, 2).T, resamples=1) for p in pairs
  ]
  for name in ('pearson_r', 'bias'):
    values = np.array([getattr(a, name) for a in agreements])
    found[f'ef_{name}'] = {
      'values': values.tolist(),
      'sd': _sd(values),
      'mean': float(values.mean()),
    }
  return found


def _sd(values: np.ndarray) -> float:
  return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def markdown(summary: Mapping, costs: Mapping[str, Cost] | None = None) -> str:
  """The summary as a Markdown table.

  Args:
    summary: of `summarise`.
    costs: row name -> cost; None leaves the columns out.

  Returns:
    Text with a trailing newline.
  """
  heads = [
    '',
    'Dice (%)',
    'SD',
    'difference (points)',
    'p',
    'ASD (mm)',
    'HD95 (mm)',
    'inconsistent frames (%)',
    'p',
    'EF r',
    'EF bias',
  ]
  if costs:
    heads += ['M parameters', 'GFLOP', 'frames/s']
  lines = [
    f'**{summary["title"]}.** {_seeds(summary)}, '
    f'{summary["n_patients"]} test patients; differences from '
    f'`{summary["reference"]}`.',
    '',
    _line(heads),
    _line(['---', *['---:'] * (len(heads) - 1)]),
  ]
  for row in summary['rows']:
    dice, asd, hd95, jumps = (row[c.name] for c in COLUMNS)
    same = row['name'] == summary['reference']
    cells = [
      f'{row["label"]} (`{row["name"]}`)',
      _with_interval(dice, COLUMNS[0]),
      _number(dice['sd'], 2, 100),
      ''
      if same
      else f'{100 * dice["difference"]:+.2f} '
      + textio.interval(dice['difference_ci95'], 2, 100),
      '' if same else textio.p_text(dice['p_holm']),
      _with_interval(asd, COLUMNS[1]),
      _with_interval(hd95, COLUMNS[2]),
      _with_interval(jumps, COLUMNS[3]),
      '' if same else textio.p_text(jumps['p_holm']),
      _number(row['ef_pearson_r']['mean'], 3),
      _number(row['ef_bias']['mean'], 1),
    ]
    if costs:
      cost = costs.get(row['name'])
      cells += (
        ['', '', '']
        if cost is None
        else [
          f'{cost.total_parameters / 1e6:.2f}',
          f'{cost.gflop:.2f}',
          f'{cost.frames_per_second:.0f}',
        ]
      )
    lines.append(_line(cells))
  return (
    '\n'.join(
      [*lines, '', f'{summary["method"]}.', '', f'{summary["source"]}.']
    )
    + '\n'
  )


def _seeds(summary: Mapping) -> str:
  count = len(summary['seeds'])
  return f'{count} seed{"s"[: count > 1]}'


def _line(cells: Sequence[str]) -> str:
  return f'| {" | ".join(cells)} |'


def _number(value, digits: int, scale: float = 1.0) -> str:
  return textio.number(value, digits, scale)


def _with_interval(entry: Mapping, column: Column) -> str:
  return (
    f'{_number(entry["mean"], column.digits, column.scale)} '
    + textio.interval(entry['ci95'], column.digits, column.scale)
  )


def plot(summary: Mapping, path: pathlib.Path) -> None:
  """Draws Dice and inconsistent frames of every row, with intervals.

  Args:
    summary: of `summarise`.
    path: of the PNG.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  rows = summary['rows']
  figure = Figure(figsize=(9, 0.9 + 0.42 * len(rows)), layout='constrained')
  FigureCanvasAgg(figure)
  axes = figure.subplots(1, 2, sharey=True)
  places = np.arange(len(rows))[::-1]
  for axis, column in zip(axes, (COLUMNS[0], COLUMNS[3])):
    for place, row in zip(places, rows):
      entry = row[column.name]
      if entry['mean'] is None:
        continue
      color = '0.45' if row['name'] == summary['reference'] else 'tab:blue'
      low, high = (
        np.nan if v is None else column.scale * v for v in entry['ci95']
      )
      axis.plot([low, high], [place] * 2, color=color, lw=2)
      axis.plot(
        column.scale * np.array(entry['values']),
        [place] * len(entry['values']),
        'o',
        ms=4,
        mfc='white',
        color=color,
      )
      axis.plot(column.scale * entry['mean'], place, 'D', ms=6, color=color)
    axis.set_xlabel(column.label)
    axis.grid(axis='x', color='0.9')
    axis.spines[['top', 'right']].set_visible(False)
  axes[0].set_yticks(places, [row['label'] for row in rows])
  axes[0].set_ylim(-0.6, len(rows) - 0.4)
  figure.suptitle(
    f'{summary["title"]}\n{_seeds(summary)} (circles), mean '
    f'(diamond), 95 % interval over seeds and {summary["n_patients"]} '
    'patients',
    fontsize=10,
  )
  figure.savefig(path, dpi=150)


def write(
  summary: Mapping,
  out_dir: pathlib.Path,
  costs: Mapping[str, Cost] | None = None,
) -> list[pathlib.Path]:
  """Writes STUDY.json, STUDY.md and STUDY.png.

  Args:
    summary: of `summarise`.
    out_dir: an existing folder.
    costs: as in `markdown`.

  Returns:
    The files.
  """
  stem = out_dir / summary['study']
  extra = (
    {'costs': {name: dataclasses.asdict(cost) for name, cost in costs.items()}}
    if costs
    else {}
  )
  textio.write_json(stem.with_suffix('.json'), dict(summary) | extra)
  stem.with_suffix('.md').write_text(markdown(summary, costs))
  plot(summary, stem.with_suffix('.png'))
  return [stem.with_suffix(s) for s in ('.json', '.md', '.png')]
