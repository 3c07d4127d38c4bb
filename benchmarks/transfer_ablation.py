"""Measures what helps a network go from phantoms to patients, in trainings that lack one part each.

python -m benchmarks.transfer_ablation --data_dir=DATA --work=DIR [--steps=1000] [--seeds=3]
    [--rows NAME ...] [--out=benchmarks/results/transfer_ablation]

Each row trains `configs/default_model.py` for --steps updates without one part of the phantom, the
classes beside the ventricle, or the strong augmentation, and is scored on the prepared stills DATA
(`prepare --image_size=128`) of --split, each frame alone. Every finished run is a line of OUT.jsonl
and is not run again; OUT.md compares the rows with the first by paired differences over seeds.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys

import numpy as np

from benchmarks import stills
from echoforge_jax import inference
from echoforge_jax.data import prepared
from echoforge_jax.metrics import statistics

ROWS = {
  'all of it': [],
  'no transition': ['data.stream.without=transition'],
  'thin walls': ['data.stream.without=thickness'],
  'no haze': ['data.stream.without=haze'],
  'no distractors': ['data.stream.without=distractors'],
  'no dark walls': ['data.stream.without=dark_walls'],
  'left ventricle alone': ["data.classes=('lv',)"],
  'weak augmentation': ['data.augmentation.strong=False'],
  'wide ranges alone': ['data.stream.style=transfer'],
  'calibrated ranges alone': ['data.stream.style=camus'],
}


def run(name: str, seed: int, args) -> dict:
  """Trains a row with a seed and scores it; returns its line."""
  workdir = args.work / f'{name.replace(" ", "_")}_{seed}'
  fields = [f'num_steps={args.steps}', f'eval.every={args.steps}', f'seed={seed}', *ROWS[name]]
  command = [sys.executable, '-m', 'echoforge_jax', 'train', '--config=default_model']
  command += [f'--workdir={workdir}', *(f'--config.{field}' for field in fields)]
  subprocess.run(command, check=True)
  segmenter = inference.load(workdir)
  where = args.data_dir, args.dataset, args.split, segmenter.image_size
  rows = stills.score(segmenter, prepared.load_split(*where))
  patients = collections.defaultdict(list)
  for row in rows:
    patients[row['patient']].append(100 * float(row['lv']))
  line = {'row': name, 'seed': seed, 'steps': args.steps, 'split': args.split}
  line['area_bias'] = 100 * float(np.mean([row['area'] for row in rows]))
  return line | {'dice': {patient: float(np.mean(v)) for patient, v in sorted(patients.items())}}


def table(lines: list[dict]) -> str:
  """Returns Markdown: LV Dice of every row, and its paired difference from the first."""
  found = collections.defaultdict(dict)
  for line in lines:
    found[line['row']][line['seed']] = line
  first = found[next(iter(ROWS))]
  text = ['| | seeds | LV Dice (%) | area bias (%) | difference, t interval | patients |']
  text += ['|---|---:|---:|---:|---|---|']
  for name in (name for name in ROWS if name in found):
    seeds = sorted(found[name].keys() & first.keys())
    tables = [
      np.array([list(rows[s]['dice'].values()) for s in seeds]) for rows in (first, found[name])
    ]
    bias = np.mean([found[name][s]['area_bias'] for s in seeds])
    cells = [name, str(len(seeds)), f'{tables[1].mean():.1f}', f'{bias:+.0f}', '', '']
    if found[name] is not first and len(seeds) > 1:
      apart = statistics.paired_seeds(tables[1], tables[0])
      low, high = apart['t_ci95']
      cells[4] = f'{apart["difference"]:+.1f} [{low:.1f}, {high:.1f}]'
      cells[5] = '[{:.1f}, {:.1f}]'.format(*apart['patients_ci95'])
    text.append(f'| {" | ".join(cells)} |')
  return '\n'.join(text) + '\n'


def main() -> None:
  """Runs what is missing; writes lines and table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data_dir', required=True)
  parser.add_argument('--work', type=pathlib.Path, required=True)
  parser.add_argument('--dataset', default='camus')
  parser.add_argument('--split', default='validation')
  parser.add_argument('--steps', type=int, default=1000)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS))
  default = pathlib.Path('benchmarks/results/transfer_ablation')
  parser.add_argument('--out', type=pathlib.Path, default=default)
  args = parser.parse_args()
  path = args.out.with_suffix('.jsonl')
  lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
  same = {'steps': args.steps, 'split': args.split}
  lines = [line for line in lines if same.items() <= line.items()]
  done = {(line['row'], line['seed']) for line in lines}
  for seed in range(args.seeds):
    for name in args.rows:
      if (name, seed) not in done:
        lines.append(run(name, seed, args))
        with path.open('a') as file:
          file.write(json.dumps(lines[-1]) + '\n')
  text = table(lines)
  args.out.with_suffix('.md').write_text(text)
  print(text)


if __name__ == '__main__':
  main()
