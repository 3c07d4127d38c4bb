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

--print=local|slurm|gcloud|gke prints the commands and starts nothing; the same
command without it then skips what the cluster has finished and shows the table.

exit status: 0 all runs are done, 1 some failed, 2 misuse, 130 and 143 stopped
by a signal (runs under way were told to save).
"""

import argparse
from collections.abc import Mapping, Sequence
import csv
import io
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

import children  # noqa: E402
from combinations import (  # noqa: E402
  TARGETS,
  Run,
  cluster_commands,
  make_runs,
  parse_axis,
)
from etils import epath  # noqa: E402

from echoforge_jax.errors import InputError  # noqa: E402

POLL = 0.1


def is_finished(run: Run) -> bool:
  """Whether a workdir holds the last checkpoint of this very config.

  Args:
    run: the run.

  Returns:
    True or False; a run that was begun is for `train` to check.

  Raises:
    InputError: where it was finished with another config, naming the fields.
  """
  workdir = epath.Path(run.workdir)
  try:
    found = _flat(json.loads((workdir / 'config.json').read_text()))
  except (OSError, ValueError):
    return False  # `train` says what is wrong with it.
  last = workdir / 'checkpoints' / str(found.get('num_steps'))
  if not (last / '_CHECKPOINT_METADATA').is_file():
    return False
  # Imports jax, so only where a run is finished.
  from echoforge_jax.config import RUNTIME_FIELDS

  wanted = _flat(json.loads(json.dumps(run.config.to_dict())))
  if not wanted['num_steps'] and wanted['num_epochs'] == found['num_epochs']:
    wanted['num_steps'] = found['num_steps']
  differing = [
    f'{name} is {found.get(name)!r} there and {wanted.get(name)!r} now'
    for name in sorted(found.keys() | wanted.keys())
    if found.get(name) != wanted.get(name)
    and name.split('.')[0] not in RUNTIME_FIELDS
  ]
  if differing:
    raise InputError(
      f'{run.workdir} was made with another config: '
      f'{"; ".join(differing[:4])}; give another --workdir'
    )
  return True


def _flat(value: Any, prefix: str = '') -> dict[str, Any]:
  if isinstance(value, Mapping):
    return {
      key: item
      for name, child in value.items()
      for key, item in _flat(child, f'{prefix}{name}.').items()
    }
  return {prefix[:-1]: value}


class Sweep:
  """Runs at most `jobs` trainings at a time, in processes of their own."""

  def __init__(
    self, runs: Sequence[Run], *, jobs: int, gpus_each: int, logs: Path | None
  ):
    """Starts nothing yet.

    Args:
      runs: all runs.
      jobs: at a time.
      gpus_each: GPUs a run sees; 0 leaves them all visible.
      logs: folder of the runs' output; None: `train.log` in their workdirs.
    """
    self._runs = runs
    self._jobs = jobs
    self._gpus_each = gpus_each
    self._logs = logs
    self._slots = list(range(jobs))
    self._running: dict[str, tuple[Run, subprocess.Popen, int, float]] = {}
    self.states = {run.name: 'not started' for run in runs}

  def run(self) -> int:
    """Runs what is not finished; returns the exit status."""
    waiting = []
    for run in self._runs:
      if is_finished(run):
        self.states[run.name] = 'done'
      else:
        waiting.append(run)
    print(
      f'{len(self._runs)} runs, {len(self._runs) - len(waiting)} finished '
      'before',
      flush=True,
    )
    with children.StopSignals() as signals:
      try:
        self._loop(waiting, signals)
      finally:
        for _, child, _, _ in self._running.values():
          children.kill(child)
    if signals.received:
      return 128 + signals.received[0]
    return int(any(state != 'done' for state in self.states.values()))

  def _loop(self, waiting: list[Run], signals: children.StopSignals) -> None:
    handled = 0
    while self._running or (waiting and not signals.received):
      while waiting and self._slots and not signals.received:
        self._start(waiting.pop(0))
      for number in signals.received[handled:]:
        handled += 1
        print(
          f'stopped by {signal.Signals(number).name}; waiting for the runs '
          'under way to save'
          if handled == 1
          else 'killed',
          flush=True,
        )
        for _, child, _, _ in self._running.values():
          if handled == 1:
            child.send_signal(signal.SIGTERM)
          else:
            children.kill(child)
      for name, (run, child, slot, start) in list(self._running.items()):
        if (status := children.status(child)) is not None:
          del self._running[name]
          self._slots.append(slot)
          self._finish(run, status, time.monotonic() - start)
      time.sleep(POLL)

  def _log(self, run: Run) -> Path:
    return (
      self._logs / f'{run.name}.log'
      if self._logs
      else Path(run.workdir) / 'train.log'
    )

  def _start(self, run: Run) -> None:
    env = dict(os.environ, PYTHONUNBUFFERED='1')
    env['PYTHONPATH'] = os.pathsep.join(
      [str(ROOT), *filter(None, [env.get('PYTHONPATH')])]
    )
    slot = self._slots.pop(0)
    if self._gpus_each:
      count = self._gpus_each
      all_gpus = env.get('CUDA_VISIBLE_DEVICES') or ','.join(
        map(str, range(count * self._jobs))
      )
      env['CUDA_VISIBLE_DEVICES'] = ','.join(
        all_gpus.split(',')[slot * count : (slot + 1) * count]
      )
    log = self._log(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
      sys.executable,
      '-m',
      'echoforge_jax',
      'train',
      *run.flags,
      f'--workdir={run.workdir}',
    ]
    with log.open('ab') as file:  # A resumed run keeps its earlier output.
      child = children.spawn(
        command, env=env, stdout=file, stderr=subprocess.STDOUT
      )
    self._running[run.name] = run, child, slot, time.monotonic()
    self.states[run.name] = 'running'
    print(f'  started {run.name}', flush=True)

  def _finish(self, run: Run, status: int, seconds: float) -> None:
    words = {0: 'done', 130: 'stopped', 143: 'stopped'}
    state = words.get(status, f'failed ({status})')
    self.states[run.name] = state
    text = f'  {run.name}: {state} after {seconds:.0f} s'
    if state not in words.values():
      log = self._log(run)
      lines = log.read_text(errors='replace').strip().splitlines()
      text += f'; {log}: {lines[-1] if lines else "no output"}'
    print(text, flush=True)


def read_scores(workdir: str) -> dict[str, float]:
  """The last validation in a workdir's metrics.jsonl; {} without one."""
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


def summarize(
  runs: Sequence[Run], states: Mapping[str, str], root: str
) -> list[list[str]]:
  """A table of states and scores; also written to ROOT/summary.csv.

  Args:
    runs: all runs.
    states: by name.
    root: folder of the workdirs.

  Returns:
    Rows, the header first.
  """
  scores = [read_scores(run.workdir) for run in runs]
  columns = list(dict.fromkeys(name for entry in scores for name in entry))
  rows = [['run', 'state', *columns]]
  for run, entry in zip(runs, scores):
    cells = (
      (
        ''
        if name not in entry
        else str(entry[name])
        if name == 'step'
        else f'{entry[name]:.4f}'
      )
      for name in columns
    )
    rows.append([run.name, states[run.name], *cells])
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(rows)
  path = epath.Path(root) / 'summary.csv'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text.getvalue())
  return rows


def print_table(rows: Sequence[Sequence[str]]) -> None:
  """Prints rows in columns: names to the left, numbers to the right."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  for row in rows:
    print(
      '  '.join(
        cell.ljust(width) if index < 2 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths))
      ).rstrip()
    )


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
    '--workdir',
    required=True,
    metavar='DIR',
    help='gets a workdir a run; may be gs://...',
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    dest='axes',
    metavar='FIELD=VALUE,VALUE',
    help='repeat for more',
  )
  parser.add_argument(
    '--jobs', type=int, default=1, metavar='N', help='runs at a time'
  )
  parser.add_argument(
    '--gpus_each',
    type=int,
    default=0,
    metavar='N',
    help='GPUs a run sees; 0: all',
  )
  parser.add_argument(
    '--logs',
    metavar='DIR',
    help='folder of the output; '
    'default: train.log in a local workdir, else sweep_logs/',
  )
  parser.add_argument(
    '--print',
    choices=TARGETS,
    dest='target',
    help='print the commands and start nothing',
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
    runs = make_runs(
      args.config, args.workdir, [parse_axis(text) for text in args.axes], fixed
    )
    if args.target:
      print('\n'.join(cluster_commands(runs, args.target, args.workdir)))
      return 0
    logs = args.logs or ('sweep_logs' if '://' in args.workdir else None)
    sweep = Sweep(
      runs,
      jobs=args.jobs,
      gpus_each=args.gpus_each,
      logs=Path(logs) if logs else None,
    )
    status = sweep.run()
    print()
    print_table(summarize(runs, sweep.states, args.workdir))
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return status


if __name__ == '__main__':
  sys.exit(main())
