"""Time and memory of scoring alone, by the number of patients.

  python benchmarks/evaluation_speed.py [--patients 25 100 400]

Each size runs in a process of its own: one clip a patient, 10 frames of 256 x
256 with a probability map, streamed. Making the clips counts as well. CPU
seconds, imports included, are what other programs on the machine disturb least.
Lines go to benchmarks/results/evaluation_speed.jsonl.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

RESULTS = pathlib.Path(__file__).parent / 'results' / 'evaluation_speed.jsonl'


def cases(count: int):
  """Ventricles that contract; the prediction is blurred at its outline."""
  import numpy as np

  from echoforge_jax.evaluation.scoring import Case

  rng = np.random.default_rng(0)
  rows, columns = np.mgrid[:256, :256].astype(np.float32)
  for k in range(count):
    size = rng.uniform(0.8, 1.2)
    distance = []
    for t in range(10):
      a, b = size * (78 - 2 * t), size * (42 - 2 * t)
      distance.append(
        np.where(rows < 130 + 0.6 * a, 1 - np.hypot((rows - 130) / a, (columns - 128) / b), -1)
      )
    distance = np.stack(distance)
    truth = (distance > 0).astype(np.uint8)
    noisy = distance + rng.normal(0, 0.02, (10, 1, 1))
    yield Case(
      f'patient{k:04d}',
      '4CH',
      truth,
      (noisy > 0).astype(np.uint8),
      np.array([0.55, 0.6]),
      labeled=np.ones(10, bool),
      fps=50.0,
      native_size=(460, 500),
      ef_percent=50.0,
      probability=(1 / (1 + np.exp(-20 * noisy))).astype(np.float16),
    )


def measure(count: int) -> dict:
  """Scores `count` patients in this process."""
  from echoforge_jax.evaluation.aggregate import score_predictions
  from echoforge_jax.evaluation.protocols import get_protocol
  from echoforge_jax.provenance import git_revision, versions

  start = time.perf_counter()
  result = score_predictions(cases(count), get_protocol('camus_full'))
  return {
    'patients': count,
    'clips': count,
    'frames': 10 * count,
    'seconds': round(time.perf_counter() - start, 2),
    'cpu_seconds': round(time.process_time(), 2),
    'load_average': round(os.getloadavg()[0], 1),
    'peak_rss_mb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    'dice': result.metrics['classes']['lv']['dice']['mean'],
    'git_revision': git_revision(),
    'versions': versions(),
  }


def main() -> None:
  """Measures every size in a fresh process and keeps the lines."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--patients', type=int, nargs='+', default=[25, 100, 400])
  parser.add_argument('--one', type=int, help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.one:
    print(json.dumps(measure(flags.one)))
    return
  RESULTS.parent.mkdir(exist_ok=True)
  for count in flags.patients:
    done = subprocess.run(
      [sys.executable, __file__, f'--one={count}'], check=True, capture_output=True, text=True
    )
    line = json.loads(done.stdout.splitlines()[-1])
    print(f'{count} patients: {line["seconds"]} s, {line["peak_rss_mb"]} MB')
    with RESULTS.open('a') as file:
      file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
  main()
