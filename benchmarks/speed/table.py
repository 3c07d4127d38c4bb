"""Measures the speed of everything here, and sets it against the goals.

  make bench                          # or: python -m benchmarks.speed.table
  make bench BENCH=--machine=gpu      # flags go into BENCH
  python -m benchmarks.speed.table --only=sscf,lite      # keeps the others
  python -m benchmarks.speed.table --only=training --patients=100
      --config.num_steps=2000         # fields of the training's config

Each case is a process of its own, so that it may split the CPU as it likes and
run out of memory alone. A case that fails says so and does not stop the rest.
Lines go to benchmarks/results/speed_MACHINE.jsonl, goals (goals.py) to a table
beside it; what takes its quantities from a case that was not run says so.
"""

import argparse
from collections.abc import Iterator, Sequence
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.speed import goals
from benchmarks.speed.goals import BATCHES, MIDDLE

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAPER, LITE, SSCF = (
  f'configs/{name}.py' for name in ('camus_echoforge', 'phantom_lite', 'camus_sscf')
)
MODEL = 'forward,trunk,trunk_decoder'
# On CPUs, where inference is compiled otherwise than training is.
CPU_MODEL = f'forward_plain,{MODEL}'
# Sizes of --smoke, which proves that everything runs, not how fast.
TINY = 'configs/tiny.py'
TINY_SSCF = ('--config.model.width=4', '--config.data.image_size=64')
PATIENTS = 500
# Status of `train` after a SIGTERM, with a checkpoint.
STOPPED = 143


@dataclasses.dataclass(frozen=True)
class Case:
  """One process of `python -m benchmarks.speed`, stopped after its limit."""

  name: str  # In the lines and for --only.
  flags: tuple[str, ...]
  limit_s: float = 600


def _case(name: str, config: str, parts: str, repeats: int, *flags: str) -> Case:
  flags = (f'--parts={parts}', f'--repeats={repeats}', *flags)
  return Case(name, (f'--config={config}', *flags))


def cpu_cases() -> Iterator[Case]:
  """Yields cases of about ten minutes on two cores."""
  yield _case(
    'lite',
    LITE,
    f'ceiling,{CPU_MODEL},stream,latency,train,'
    'train_supervised,input,starvation,phantom,metrics,checkpoint',
    5,
  )
  yield _case(
    'paper',
    PAPER,
    f'ceiling,{CPU_MODEL},stream,train,train_supervised,trunk_train,torch_trunk,torch_trunk_train',
    3,
    '--batch=1',
  )
  yield from _sscf_cases('ceiling,forward,forward_plain,torch_sscf', (7, 3))
  yield from _input_cases()


def _sscf_cases(parts: str, repeats: Sequence[int]) -> Iterator[Case]:
  for frames, count in zip((1, 10), repeats):
    frames_flag = f'--config.data.num_frames={frames}'
    yield _case(f'sscf_{frames}', SSCF, parts, count, '--batch=1', frames_flag)


def _input_cases() -> Iterator[Case]:
  for side in (112, 256):
    size = f'--config.data.image_size={side}'
    yield _case(f'input_{side}', PAPER, 'input', 5, '--batch=8', size)


def gpu_cases() -> Iterator[Case]:
  """Yields model and training over batch sizes, streaming and input."""
  half = '--config.dtype=bfloat16'
  for batch in BATCHES:
    flags = f'--batch={batch}', half
    middle = batch == MIDDLE
    model = f'ceiling,{MODEL},torch_trunk' if middle else 'ceiling,forward'
    step = 'ceiling,forward,train,train_supervised' if middle else ('ceiling,train')
    yield _case(f'model_{batch}', PAPER, model, 10, *flags)
    yield _case(f'train_{batch}', PAPER, step, 5, *flags)
  yield _case(
    'trunk_train', PAPER, 'ceiling,trunk_train,torch_trunk_train', 5, f'--batch={MIDDLE}', half
  )
  yield _case('stream', PAPER, 'stream', 50, half)
  yield _case('frames', PAPER, 'latency', 150, half)
  yield _case('starvation', PAPER, 'input,starvation', 5, half)
  yield from _sscf_cases('ceiling,forward,torch_sscf', (10, 10))
  yield from _input_cases()


def smaller(case: Case) -> Case:
  """Returns the same case with sizes that take seconds."""
  flags = [
    f.replace(PAPER, TINY).replace(LITE, TINY)
    for f in case.flags
    if not f.startswith(('--repeats', '--config.data'))
  ]
  # Phantoms compile for long, whatever their size.
  flags = [f.replace(',phantom', '') for f in flags]
  sscf = any(SSCF in flag for flag in flags)
  return Case(case.name, (*flags, '--repeats=1', *(TINY_SSCF * sscf)), 400)


def environment(machine: str) -> dict[str, str]:
  """Returns a case's environment: this checkout, and torch where it was put."""
  paths = [str(ROOT), str(ROOT / '.venv' / 'torch')]
  paths.append(os.environ.get('PYTHONPATH', ''))
  return (
    os.environ
    | {'PYTHONPATH': os.pathsep.join(filter(None, paths)), 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
    | ({} if machine == 'gpu' else {'JAX_PLATFORMS': 'cpu'})
  )


def run(case: Case, machine: str) -> list[dict]:
  """Runs a case; returns its lines, and one that says what went wrong."""
  start, failed = time.perf_counter(), ''
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / 'lines.jsonl'
    command = [sys.executable, '-m', 'benchmarks.speed', *case.flags]
    try:
      done = subprocess.run(
        [*command, f'--json={out}'],
        cwd=ROOT,
        env=environment(machine),
        timeout=case.limit_s,
        capture_output=True,
        text=True,
      )
      if done.returncode:
        said = done.stderr.strip().splitlines()
        failed = said[-1] if said else f'status {done.returncode}'
    except subprocess.TimeoutExpired:
      failed = f'took more than {case.limit_s:.0f} s'
    rows = out.read_text().splitlines() if out.exists() else []
  lines = [{'case': case.name, **json.loads(row)} for row in rows]
  if failed:
    lines.append({'case': case.name, 'failed': failed})
  print(
    f'{case.name}: {time.perf_counter() - start:.0f} s' + (f', FAILED: {failed}' if failed else ''),
    flush=True,
  )
  return lines


def _verbs(flags: argparse.Namespace) -> dict[str, tuple[str, ...]]:
  """The commands of the whole training, by verb."""
  patients = 4 if flags.smoke else flags.patients
  raw, data, workdir, report = (str(flags.work / name) for name in ('raw', 'data', 'run', 'report'))
  # Patients are drawn by processes, which cannot share an accelerator.
  workers = min(max((os.cpu_count() or 1) - 2, 0), patients)
  return {
    'phantom': (
      '--layout=camus',
      f'--out={raw}',
      f'--patients={patients}',
      f'--test={max(patients // 5, 1)}',
      '--seed=0',
      f'--workers={workers}',
    ),
    'prepare': (
      '--dataset=camus',
      f'--raw={raw}',
      f'--data_dir={data}',
      f'--image_size={32 if flags.smoke else 256}',
    ),
    'train': (
      f'--config={TINY if flags.smoke else PAPER}',
      f'--workdir={workdir}',
      f'--config.data.data_dir={data}',
      '--config.dtype=bfloat16',
      *flags.overrides,
    ),
    'evaluate': (
      f'--workdir={workdir}',
      '--split=test',
      '--protocol=camus_full',
      f'--out={report}',
    ),
  }


def train_paper(machine: str, flags: argparse.Namespace) -> list[dict]:
  """Draws, prepares, trains and evaluates at the paper's size, from nothing.

  Training that takes longer than the limit stops with a checkpoint, and that is
  evaluated. All verbs continue or repeat what an interrupted run left.
  """
  lines = []
  for verb, arguments in _verbs(flags).items():
    start, status = time.perf_counter(), 0
    if verb != 'phantom' or not (flags.work / 'data').exists():
      on_cpu = verb in ('phantom', 'prepare')
      # The output stays visible: this takes long.
      process = subprocess.Popen(
        [sys.executable, '-m', 'echoforge_jax', verb, *arguments],
        cwd=ROOT,
        stdout=sys.stderr,
        env=environment('cpu' if on_cpu else machine),
      )
      try:
        status = process.wait(flags.limit_s if verb == 'train' else None)
      except subprocess.TimeoutExpired:
        process.terminate()
        status = process.wait()
    line = {
      'case': 'training',
      'verb': verb,
      'flags': [flag.replace(str(flags.work), 'WORK') for flag in arguments],
      'seconds': time.perf_counter() - start,
    }
    if verb == 'train' and status == STOPPED:
      line['stopped_after_s'], status = flags.limit_s, 0
    if status:
      line['failed'] = f'{verb} ended with status {status}'
    lines.append(line)
    print(
      f'training, {verb}: {line["seconds"]:.0f} s'
      + ', stopped before its end' * ('stopped_after_s' in line)
      + (f', FAILED with status {status}' if status else ''),
      flush=True,
    )
    if status:
      return lines
  metrics = json.loads((flags.work / 'report' / 'metrics.json').read_text())
  return [*lines, {'case': 'training', 'metrics': metrics}]


def default_machine() -> str:
  """Returns 'gpu' or 'cpu', asked for in a process that frees the device."""
  done = subprocess.run(
    [sys.executable, '-c', 'import jax; print(jax.default_backend())'],
    capture_output=True,
    text=True,
  )
  return 'gpu' if done.stdout.strip() in ('gpu', 'tpu') else 'cpu'


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  results = ROOT / 'benchmarks' / 'results'
  for name, options in {
    'machine': {
      'choices': ['cpu', 'gpu'],
      'help': 'default: what JAX finds; gpu is any accelerator',
    },
    'only': {
      'default': '',
      'metavar': 'A,B',
      'help': 'cases that begin with these; other lines stay',
    },
    'out': {'type': pathlib.Path, 'default': results},
    'work': {
      'type': pathlib.Path,
      'default': ROOT / 'runs' / 'speed_table',
      'help': 'of the whole training (gpu)',
    },
    'patients': {
      'type': int,
      'default': PATIENTS,
      'help': 'of the whole training, a fifth of them for the test (default: %(default)s)',
    },
    'limit_s': {
      'type': float,
      'metavar': 'S',
      'help': 'after which a case is stopped; what it measured until then '
      'stays, training is evaluated as it is',
    },
  }.items():
    parser.add_argument(f'--{name}', **options)
  parser.add_argument('--smoke', action='store_true', help='tiny sizes: does everything run?')
  flags, overrides = parser.parse_known_args()
  flags.overrides = overrides
  for one in overrides:
    if not one.startswith('--config.'):
      parser.error(f'unknown flag {one!r}')
  return flags


def main() -> int:
  """Runs the cases of a machine; returns 1 where any failed."""
  flags = _parse()
  machine = flags.machine or default_machine()
  cases = {c.name: c for c in (cpu_cases, gpu_cases)[machine == 'gpu']()}
  only = tuple(name for name in flags.only.split(',') if name)
  names = [*cases, *['training'] * (machine == 'gpu')]
  if unknown := [o for o in only if not any(n.startswith(o) for n in names)]:
    print(f'error: --only: found {unknown[0]!r}; choose from {", ".join(names)}', file=sys.stderr)
    return 2
  chosen = [name for name in names if not only or name.startswith(only)]
  flags.out.mkdir(parents=True, exist_ok=True)
  path = flags.out / f'speed_{machine}.jsonl'
  lines = []
  if only and path.exists():
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line for line in lines if line['case'] not in chosen]
  for name in chosen:
    if name == 'training':
      lines += train_paper(machine, flags)
    else:
      case = smaller(cases[name]) if flags.smoke else cases[name]
      limit = flags.limit_s or case.limit_s
      lines += run(dataclasses.replace(case, limit_s=limit), machine)
    # After every case: what is measured stays when the rest is interrupted.
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  text = 'SMOKE: tiny sizes, these are no measurements.\n\n' * flags.smoke + goals.table(
    goals.Lines(lines), machine
  )
  path.with_suffix('.md').write_text(text)
  print(text)
  return int(any(line.get('failed') for line in lines if line['case'] in chosen))


if __name__ == '__main__':
  sys.exit(main())
