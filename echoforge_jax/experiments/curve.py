"""Dice over the number of labeled patients: a plot, and what weights are worth in labels."""

from collections.abc import Mapping, Sequence
import math
import pathlib

import numpy as np

DRAWS, SEED = 10_000, 0


def worth(rows: Sequence[Mapping]) -> list[dict]:
  """Says how many patients the reference needs for the Dice that a row has with fewer.

  The mean Dice of the references is interpolated over the logarithm of the number of patients,
  after making it monotone. The interval draws the mean of every reference, and that of the paired
  differences from it, from their t distributions over seeds, 10,000 times, each by itself; it ends
  at the smallest and the largest number.

  Args:
    rows: of `tables.summarise`.

  Returns:
    For every row with a curve and a reference, but those with the most patients: name, n_seeds,
    patients, equals (of the means) and ci95, in patients; empty where there are fewer than two
    numbers.
  """
  by_name = {row['name']: row for row in rows if row['curve'] and row['labeled_patients']}
  compared = [row for row in by_name.values() if row['against'] in by_name]
  names = {row['against'] for row in compared}
  base = sorted((by_name[name] for name in names), key=lambda row: row['labeled_patients'])
  if len(base) < 2:
    return []
  rng = np.random.default_rng(SEED)
  sizes = np.log([row['labeled_patients'] for row in base])
  drawn = {row['name']: _draw(row['dice']['values'], rng) for row in base}
  known = np.maximum.accumulate(np.stack(list(drawn.values()), 1), axis=1)
  found = []
  for row in compared:
    test = row['dice']['compared']
    if test and row['labeled_patients'] < base[-1]['labeled_patients']:
      wanted = drawn[row['against']] + _draw(test['values'], rng)
      equal = [math.exp(np.interp(y, line, sizes)) for y, line in zip(wanted, known)]
      low, high = np.percentile(equal[1:], [2.5, 97.5])
      found.append(
        {
          'name': row['name'],
          'n_seeds': len(test['values']),
          'patients': row['labeled_patients'],
          'equals': equal[0],
          'ci95': [float(low), float(high)],
          'range': [base[0]['labeled_patients'], base[-1]['labeled_patients']],
        }
      )
  return found


def _draw(values: Sequence[float], rng: np.random.Generator) -> np.ndarray:
  """Returns the mean of the values of seeds, then draws of it, [1 + DRAWS]."""
  values = np.array(values)
  spread = np.full(DRAWS, math.nan)  # Of a single seed nothing is known.
  if len(values) > 1:
    error = values.std(ddof=1) / math.sqrt(len(values))
    spread = error * rng.standard_t(len(values) - 1, DRAWS)
  return values.mean() + np.concatenate([[0.0], spread])


def worth_text(found: Sequence[Mapping]) -> list[str]:
  """Returns a sentence per row of `worth`."""
  texts = []
  for entry in found:
    low, high = entry['range']

    def shown(number, low=low, high=high):
      sign = '<= ' if number <= low else '>= ' if number >= high else ''
      return f'{sign}{number:.0f}'

    seeds = f'{entry["n_seeds"]} seed{"s"[: entry["n_seeds"] > 1]}'
    ends = '' if None in entry['ci95'] else f' [{", ".join(map(shown, entry["ci95"]))}]'
    texts.append(
      f'- `{entry["name"]}`, with {entry["patients"]} patients, is as good as the reference with '
      f'{shown(entry["equals"])}{ends} ({seeds}).'
    )
  if not texts:
    return []
  note = 'Worth in labels (95 % interval, t over seeds, of references and of paired differences):'
  return ['\n'.join([note, '', *texts])]


def plot(summary: Mapping, paths: Sequence[pathlib.Path]) -> None:
  """Draws Dice over labeled patients, a line for each curve, into files."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(6.4, 4.2), layout='constrained')
  axis = figure.subplots()
  rows = [row for row in summary['rows'] if row['curve'] and row['labeled_patients']]
  names = list(dict.fromkeys(row['curve'] for row in rows))
  for k, name in enumerate(names):
    own = sorted((r for r in rows if r['curve'] == name), key=lambda r: r['labeled_patients'])
    x = np.array([row['labeled_patients'] for row in own]) * 1.07 ** (k - (len(names) - 1) / 2)
    color = f'C{k}'
    patients = np.array([row['dice']['patients_ci95'] for row in own], float) * 100
    axis.fill_between(x, *patients.T, color=color, alpha=0.12, lw=0)
    axis.plot(x, [100 * row['dice']['mean'] for row in own], '-', color=color, lw=1.5, label=name)
    for place, row in zip(x, own):
      values = 100 * np.array(row['dice']['values'])
      axis.plot([place] * len(values), values, 'o', ms=3.5, mfc='white', color=color)
      interval = np.array(row['dice']['t_ci95'], float) * 100
      axis.plot([place] * 2, interval, '-', color=color, lw=1)
  ticks = sorted({row['labeled_patients'] for row in rows})
  axis.set_xscale('log')
  axis.set_xticks(ticks, map(str, ticks))
  axis.minorticks_off()
  seen = [100 * v for row in rows for v in row['dice']['values']]
  margin = 0.25 * (max(seen) - min(seen)) + 0.5
  axis.set_ylim(min(seen) - margin, min(100, max(seen) + margin))
  axis.set_xlabel('patients with labels')
  axis.set_ylabel('Dice (%)')
  axis.grid(color='0.92')
  axis.spines[['top', 'right']].set_visible(False)
  axis.legend(frameon=False, loc='lower right')
  axis.set_title(
    f'{summary["title"]}\nseeds (circles), mean with its 95 % t interval over seeds; band: 95 % '
    f'interval over {summary["n_patients"]} patients',
    fontsize=8,
  )
  for path in paths:
    figure.savefig(path, dpi=150)
