#!/usr/bin/env python3
"""Trains one config with every combination of some fields' values.

  python launch/sweep.py --config=configs/phantom_lite.py --workdir=runs/lr \\
      --set optimizer.learning_rate=1e-3,3e-3 --set seed=0,1,2 \\
      --config.data.data_dir=DATA

Each combination is a run with a workdir of its own under --workdir, named after
its values. `--set :all,:baseline` goes through arguments of the config. Every
combination is checked against the config before the first one starts. The same
command again skips runs that are finished and resumes the others. A run that
fails is reported and does not stop the rest. At the end comes a table of the
last validation scores, also as summary.csv.

--print=local|slurm|gcloud prints the commands and starts nothing; the same
command without it then skips what the cluster has finished and shows the table.

exit status: 0 all runs are done, 1 some failed, 2 misuse, 130 and 143 stopped
by a signal (runs under way were told to save).
"""

import argparse
from collections.abc import Mapping, Sequence
import csv
import io
import json
from pathlib import Path
import re
import sys

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from combinations import TARGETS, Run, cluster_commands, make_runs, parse_axis  # noqa: E402
from etils import epath  # noqa: E402

from echoforge_jax import textio  # noqa: E402
from echoforge_jax.errors import InputError  # noqa: E402
from echoforge_jax.experiments.jobs import Job, run_jobs  # noqa: E402


def is_finished(run: Run) -> bool:
  """Tells whether a workdir holds the last checkpoint of this config; raises on another's.

  A run that was only begun is for `train` to check.
  """
  # The imports bring jax, so only where a run was begun.
  if not (epath.Path(run.workdir) / 'config.json').is_file():
    return False
  from echoforge_jax.training.workdir import check_same_config, is_complete, read_config

  try:
    found = read_config(run.workdir)
  except InputError:
    return False  # `train` says what is wrong with it.
  last = epath.Path(run.workdir) / 'checkpoints' / str(found.get('num_steps'))
  if not is_complete(last, items=()):
    return False
  wanted = run.config.copy_and_resolve_references()
  if not wanted.num_steps and wanted.num_epochs == found.get('num_epochs'):
    with wanted.unlocked():
      wanted.num_steps = found.num_steps
  check_same_config(run.workdir, wanted)
  return True


def run_sweep(
  runs: Sequence[Run], *, jobs: int, gpus_each: int, logs: Path | None
) -> tuple[dict[str, str], int]:
  """Runs what is not finished; returns the state of each run by name, and the exit status.

  `jobs` and `gpus_each` are those of `run_jobs`. `logs` is the folder of the runs' output; None:
  `train.log` in their workdirs.
  """
  waiting = [run for run in runs if not is_finished(run)]
  print(f'{len(runs)} runs, {len(runs) - len(waiting)} finished before', flush=True)

  def job(run: Run) -> Job:
    log = logs / f'{run.name}.log' if logs else Path(run.workdir) / 'train.log'
    command = ('train', *run.flags, f'--workdir={run.workdir}')
    return Job(run.name, ((command, log),))

  states, status = run_jobs([job(run) for run in waiting], at_once=jobs, gpus_each=gpus_each)
  return {run.name: states.get(run.name, 'done') for run in runs}, status


def read_scores(workdir: str) -> dict[str, float]:
  """Reads the last validation of a workdir's metrics.jsonl; {} without one."""
  path = epath.Path(workdir) / 'metrics.jsonl'
  if not path.is_file():
    return {}
  scores = {}
  for line in path.read_text().splitlines():
    try:
      entry = json.loads(line)
      if entry['kind'] == 'eval':
        scores = {'step': entry['step']} | {
          name: value
          for name, value in entry.items()
          if name not in ('step', 'kind') and isinstance(value, (int, float))
        }
    except (ValueError, KeyError, TypeError):
      continue  # Torn by an interruption.
  return scores


def summarize(runs: Sequence[Run], states: Mapping[str, str], root: str) -> list[list[str]]:
  """Returns rows of states and scores, and writes them to ROOT/summary.csv."""
  scores = [read_scores(run.workdir) for run in runs]
  columns = list(dict.fromkeys(name for entry in scores for name in entry))
  rows = [['run', 'state', *columns]]
  for run, entry in zip(runs, scores):
    cells = (
      ('' if name not in entry else str(entry[name]) if name == 'step' else f'{entry[name]:.4f}')
      for name in columns
    )
    rows.append([run.name, states[run.name].partition(';')[0], *cells])
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(rows)
  path = epath.Path(root) / 'summary.csv'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text.getvalue())
  return rows


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = argparse.ArgumentParser(
    prog='launch/sweep.py',
    allow_abbrev=False,
    usage='python launch/sweep.py --config=FILE[:ARG] --workdir=DIR --set '
    'FIELD=VALUE,... [--set :ARG,:ARG] [--config.FIELD=VALUE ...]',
    description='Trains one config with every combination of values.',
  )
  parser.add_argument('--config', required=True, metavar='FILE[:ARG]')
  parser.add_argument(
    '--workdir', required=True, metavar='DIR', help='gets a workdir a run; may be gs://...'
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    dest='axes',
    metavar='FIELD=VALUE,VALUE',
    help='repeat for more',
  )
  parser.add_argument('--jobs', type=int, default=1, metavar='N', help='runs at a time')
  parser.add_argument(
    '--gpus_each', type=int, default=0, metavar='N', help='GPUs a run sees; 0: all'
  )
  parser.add_argument(
    '--logs',
    metavar='DIR',
    help='folder of the output; default: train.log in a local workdir, else sweep_logs/',
  )
  parser.add_argument(
    '--print', choices=TARGETS, dest='target', help='print the commands and start nothing'
  )
  args, rest = parser.parse_known_args(argv)
  for flag in rest:
    if not re.match(r'--config\.[\w.]+=', flag):
      parser.error(f'unexpected {flag!r}; wanted --config.FIELD=VALUE')
  if not args.axes:
    parser.error('no --set, such as --set seed=0,1,2')
  if args.jobs < 1 or args.gpus_each < 0:
    parser.error('--jobs must be at least 1 and --gpus_each at least 0')
  return args, rest


def main(argv: Sequence[str] | None = None) -> int:
  """Runs or prints a sweep; returns the exit status."""
  args, fixed = _parse(sys.argv[1:] if argv is None else argv)
  try:
    runs = make_runs(args.config, args.workdir, [parse_axis(text) for text in args.axes], fixed)
    if args.target:
      print('\n'.join(cluster_commands(runs, args.target, args.workdir)))
      return 0
    logs = args.logs or ('sweep_logs' if '://' in args.workdir else None)
    states, status = run_sweep(
      runs, jobs=args.jobs, gpus_each=args.gpus_each, logs=Path(logs) if logs else None
    )
    print()
    rows = summarize(runs, states, args.workdir)
    print('\n'.join(textio.columns(rows)))
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return status


if __name__ == '__main__':
  sys.exit(main())
