"""evaluate: score trained models; metrics, tables, report, comparison."""

import argparse
import pathlib
import sys

from echoforge_jax.commands import STEP_HELP, new_parser
from echoforge_jax.evaluation.protocols import PROTOCOLS, get_protocol

_TEXT = """\
Scores a trained model on a prepared split: from the known ED to the known ES,
as the papers do, and on whole clips, where ED and ES must be found.

  evaluate --workdir=RUN --protocol=camus_full --out=DIR
  ... --compare=OTHER          Wilcoxon against another run or evaluation
  evaluate --workdir RUN1 RUN2 RUN3 ...    the same config, several seeds
"""


def _parser() -> argparse.ArgumentParser:
  parser = new_parser('evaluate', _TEXT)
  add = parser.add_argument
  text = 'training runs: config.json and checkpoints/; several are aggregated as seeds of one '
  add('--workdir', required=True, nargs='+', metavar='RUN', help=text + 'experiment')
  add('--split', default='test', help='train, validation or test (default: test)')
  text = f'one of: {", ".join(PROTOCOLS)}; or a .json file with the fields of one'
  add('--protocol', required=True, help=text)
  add('--out', required=True, help='folder for metrics.json, per_case.csv, report/')
  text = "another run's workdir, or the folder of its evaluation under the same protocol"
  add('--compare', metavar='OTHER', help=text)
  add('--data_dir', help='prepared data (default: the one trained on)')
  add('--which', default='teacher', choices=('teacher', 'student'))
  add('--step', default='latest', metavar='STEP', help=STEP_HELP)
  text = 'do not score whole clips with ED and ES unknown'
  add('--skip_whole_clip', action='store_true', help=text)
  add('--seed', type=int, default=0, help='of the bootstrap over patients (default: 0)')
  return parser


def main(argv: list[str]) -> int:
  """Evaluates runs on a prepared split and prints a summary; returns 0."""
  parser = _parser()
  flags = parser.parse_args(argv)
  if flags.seed < 0:
    parser.error(f'--seed={flags.seed}: wanted zero or more')
  if len(flags.workdir) > 1 and flags.compare:
    parser.error(
      f'--compare: wanted a single --workdir, found {len(flags.workdir)}; compare one run at a time'
    )
  # Matplotlib, JAX and orbax are slow to import; --help needs none of them.
  from echoforge_jax.evaluation import evaluate
  from echoforge_jax.evaluation.comparison import seeds, two_runs
  from echoforge_jax.evaluation.comparison.document import write_comparison
  from echoforge_jax.evaluation.report import summary

  network = {'which': flags.which, 'step': flags.step}

  def run(workdir, out):
    done = evaluate.evaluate(
      workdir,
      flags.split,
      flags.protocol,
      out,
      data_dir=flags.data_dir,
      **network,
      seed=flags.seed,
      whole_clip=not flags.skip_whole_clip,
      progress=sys.stderr.isatty(),
    )
    print(summary.summary_text(done.result) + '\n')
    return done.paths

  def receipt(workdir):
    return evaluate.predict_split(
      workdir, flags.split, get_protocol(flags.protocol), data_dir=flags.data_dir, **network
    ).receipt

  out = pathlib.Path(flags.out)
  if len(flags.workdir) > 1:
    folders = evaluate.folders_of_runs(flags.workdir, out)
    # The second run's fault is known before the first has been evaluated.
    seeds.check_receipts({workdir: receipt(workdir) for workdir in folders})
    for workdir, folder in folders.items():
      print(f'== {workdir} ==')
      run(workdir, folder)
    found = seeds.aggregate_runs(list(folders.values()), seed=flags.seed)
    print(seeds.seeds_table(found) + '\n')
    paths = write_comparison(found, out, 'seeds')
  else:
    other = flags.compare and pathlib.Path(flags.compare)
    if other and not (other / 'metrics.json').exists():
      receipt(flags.workdir[0])
      print(f'== {other} ==')
      run(other, out / 'compared')
      other = out / 'compared'
      print(f'== {flags.workdir[0]} ==')
    paths = run(flags.workdir[0], out)
    if other:
      found = two_runs.compare_runs(out, other, seed=flags.seed)
      print(two_runs.comparison_table(found) + '\n')
      paths |= write_comparison(found, out, 'comparison')
  for name, path in paths.items():
    print(f'{name:<10}  {path}')
  return 0
