"""evaluate: score a trained model; metrics, tables, figures, report."""

import argparse

from echoforge_jax.evaluation.protocols import PROTOCOLS


def main(argv: list[str]) -> int:
  """Evaluates a run on a prepared split and prints a summary.

  Args:
    argv: flags after the verb.

  Returns:
    0; mistakes raise `InputError`.
  """
  parser = argparse.ArgumentParser(
      prog='echoforge evaluate', allow_abbrev=False,
      description='Scores a trained model on a prepared split.')
  parser.add_argument('--workdir', required=True,
                      help='a training run: config.json and checkpoints/')
  parser.add_argument('--split', default='test',
                      help='train, validation or test (default: test)')
  parser.add_argument('--protocol', required=True,
                      help='one of: ' + ', '.join(PROTOCOLS))
  parser.add_argument('--out', required=True,
                      help='folder for metrics.json, per_case.csv, report/')
  parser.add_argument('--data_dir', default=None,
                      help='prepared data (default: the one trained on)')
  parser.add_argument('--which', default='teacher',
                      choices=('teacher', 'student'))
  parser.add_argument('--seed', type=int, default=0,
                      help='of the bootstrap over patients (default: 0)')
  flags = parser.parse_args(argv)
  if flags.seed < 0:
    parser.error(f'--seed={flags.seed}: wanted zero or more')
  # Matplotlib, JAX and orbax are slow to import; --help needs none of them.
  from echoforge_jax.evaluation.evaluate import evaluate
  from echoforge_jax.evaluation.results import summary_table
  done = evaluate(flags.workdir, flags.split, flags.protocol, flags.out,
                  data_dir=flags.data_dir, which=flags.which, seed=flags.seed)
  print(summary_table(done.result))
  print()
  for name, path in done.paths.items():
    print(f'{name:<10}{path}')
  return 0
