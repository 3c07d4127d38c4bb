"""Measures how often two tests find a difference between methods that are equal.

  python benchmarks/seed_statistics.py [--lines=benchmarks/results/ablation_rows.jsonl]

The lines are those of a study with several seeds. From each row's Dice minus the reference's,
patient by patient and seed by seed, the script estimates how much the difference varies with the
seed, with the patient, and with both (analysis of variance). It then draws studies of that kind in
which the methods are equal on average, and counts p < .05. Half a minute on one core.
"""

import argparse
import json
import pathlib

import numpy as np
from scipy import stats

STUDIES, SEED, ALPHA = 4000, 0, 0.05
LINES = pathlib.Path(__file__).parent / 'results' / 'ablation_rows.jsonl'


def read_differences(path: pathlib.Path, reference: str) -> dict[str, np.ndarray]:
  """Returns row -> Dice minus the reference's, [S, N]."""
  values: dict[str, dict[int, dict[str, float]]] = {}
  for line in map(json.loads, path.read_text().splitlines()):
    dice = {patient: found['dice'] for patient, found in line['patients'].items()}
    values.setdefault(line['row'], {})[line['seed']] = dice

  def table(row):
    seeds = sorted(values[row])
    return np.array([[values[row][s][p] for p in sorted(values[row][s])] for s in seeds])

  return {row: table(row) - table(reference) for row in values if row != reference}


def components(table: np.ndarray) -> tuple[float, float, float]:
  """Returns the SD of seeds, of patients and of what is left, of a crossed table [S, N]."""
  s, n = table.shape
  by_seed, by_patient = table.mean(axis=1), table.mean(axis=0)
  rest = table - by_seed[:, None] - by_patient + table.mean()
  left = (rest**2).sum() / ((s - 1) * (n - 1))
  seeds = max(0.0, by_seed.var(ddof=1) - left / n)
  patients = max(0.0, by_patient.var(ddof=1) - left / s)
  return seeds**0.5, patients**0.5, left**0.5


def draw(rng, sds, seeds: int, patients: int) -> np.ndarray:
  """Draws the differences of studies in which nothing differs on average, [STUDIES, S, N]."""
  shapes = (STUDIES, seeds, 1), (STUDIES, 1, patients), (STUDIES, seeds, patients)
  return sum(sd * rng.normal(size=shape) for sd, shape in zip(sds, shapes))


def rates(sds, patients: int) -> dict[str, float]:
  """Returns how often each test says p < .05, in percent."""
  rng, found = np.random.default_rng(SEED), {}
  for seeds in (3, 8):
    drawn = draw(rng, sds, seeds, patients)
    over_patients = stats.wilcoxon(drawn.mean(axis=1), axis=1).pvalue
    over_seeds = stats.ttest_1samp(drawn.mean(axis=2), 0, axis=1).pvalue
    found[f'Wilcoxon, {seeds} seeds'] = 100 * np.mean(over_patients < ALPHA)
    found[f't, {seeds} seeds'] = 100 * np.mean(over_seeds < ALPHA)
  return found


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--lines', type=pathlib.Path, default=LINES)
  parser.add_argument('--reference', default='baseline')
  args = parser.parse_args()
  print(f'{args.lines}: {STUDIES} studies per row, seed {SEED}; SD in Dice points, rates in %')
  for k, (row, table) in enumerate(read_differences(args.lines, args.reference).items()):
    sds = components(table)
    found = rates(sds, table.shape[1])
    if not k:
      print('| row | SD of seeds | of patients | of both |', ' | '.join(found), '|')
      print('|---|' + '---:|' * (3 + len(found)))
    numbers = [f'{100 * sd:.2f}' for sd in sds] + [f'{rate:.1f}' for rate in found.values()]
    print(f'| `{row}` |', ' | '.join(numbers), '|')


if __name__ == '__main__':
  main()
