"""Measures the speed of everything here, and sets it against the goals.

  make bench                          # or: python benchmarks/speed_table.py
  make bench BENCH=--machine=gpu      # flags go into BENCH
  python benchmarks/speed_table.py --only=sscf,profile   # keeps the others
  python benchmarks/speed_table.py --only=training --patients=100
      --config.num_steps=2000         # fields of the training's config

Each case is a process of its own, so that it may split the CPU as it likes and
run out of memory alone. A case that fails says so and does not stop the rest.
Lines go to benchmarks/results/speed_MACHINE.jsonl, goals (speed_goals.py) to a
table beside it; what takes its quantities from a case that was not run says so.
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

import speed_goals
from speed_goals import BATCHES, MIDDLE

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAPER, LITE, SSCF = (
  f'configs/{name}.py'
  for name in ('camus_echoforge', 'phantom_lite', 'camus_sscf')
)
MODEL = 'forward,trunk,trunk_decoder'
# Of CPUs, where inference is convolved otherwise than training is.
CPU_MODEL = f'forward_plain,{MODEL}'
# Sizes of --smoke, which proves that everything runs, not how fast.
TINY = 'configs/tiny.py'
TINY_SSCF = ('--config.model.width=4', '--config.data.image_size=64')
PATIENTS = 500
# Status of `train` after a SIGTERM, with a checkpoint.
STOPPED = 143


@dataclasses.dataclass(frozen=True)
class Case:
  """One process.

  Attributes:
    name: of the case, in the lines and for --only.
    flags: of `bench`.
    limit_s: after which it is stopped.
  """

  name: str
  flags: tuple[str, ...]
  limit_s: float = 600


def speed(
  name: str, config: str, parts: str, repeats: int, *flags: str
) -> Case:
  """A case of `bench speed`."""
  return Case(
    name,
    (
      'speed',
      f'--config={config}',
      f'--parts={parts}',
      f'--repeats={repeats}',
      *flags,
    ),
  )


def cpu_cases() -> Iterator[Case]:
  """About ten minutes on two cores."""
  yield speed(
    'lite',
    LITE,
    f'ceiling,{CPU_MODEL},stream,train,'
    'train_supervised,input,starvation,phantom,metrics,checkpoint',
    5,
  )
  yield speed(
    'paper',
    PAPER,
    f'ceiling,{CPU_MODEL},stream,train,'
    'train_supervised,trunk_train,torch_trunk,torch_trunk_train',
    3,
    '--batch=1',
  )
  for frames, repeats in ((1, 7), (10, 3)):
    yield speed(
      f'sscf_{frames}',
      SSCF,
      'ceiling,forward,forward_plain,torch_sscf',
      repeats,
      '--batch=1',
      f'--config.data.num_frames={frames}',
    )
  for side in (112, 256):
    yield speed(
      f'input_{side}',
      PAPER,
      'input',
      5,
      '--batch=8',
      f'--config.data.image_size={side}',
      '--config.data.num_workers=0',
    )
  yield Case('profile', ('profile', f'--config={LITE}'))


def gpu_cases() -> Iterator[Case]:
  """Model, training over batch sizes, and where the time goes."""
  half = '--config.dtype=bfloat16'
  for batch in BATCHES:
    middle = batch == MIDDLE
    of = f'--batch={batch}'
    yield speed(
      f'model_{batch}',
      PAPER,
      f'ceiling,{MODEL},torch_trunk' if middle else 'ceiling,forward',
      10,
      of,
      half,
    )
    yield speed(
      f'train_{batch}',
      PAPER,
      'ceiling,forward,train,train_supervised' if middle else 'ceiling,train',
      5,
      of,
      half,
    )
  yield speed(
    'trunk_train',
    PAPER,
    'ceiling,trunk_train,torch_trunk_train',
    5,
    f'--batch={MIDDLE}',
    half,
  )
  yield speed('stream', PAPER, 'stream', 50, half)
  yield Case('frames', ('stream', f'--config={PAPER}', half, '--frames=3000'))
  yield speed('starvation', PAPER, 'input,starvation', 5, half)
  for frames in (1, 10):
    yield speed(
      f'sscf_{frames}',
      SSCF,
      'ceiling,forward,torch_sscf',
      10,
      '--batch=1',
      f'--config.data.num_frames={frames}',
    )
  for side in (112, 256):
    yield speed(
      f'input_{side}',
      PAPER,
      'input',
      5,
      '--batch=8',
      f'--config.data.image_size={side}',
    )
  for target in ('train', 'forward', 'stream'):
    yield Case(
      f'profile_{target}',
      (
        'profile',
        f'--config={PAPER}',
        f'--target={target}',
        half,
        *((f'--batch={MIDDLE}',) * (target != 'stream')),
      ),
    )


def smaller(case: Case) -> Case:
  """The same with sizes of seconds."""
  flags = [
    f.replace(PAPER, TINY).replace(LITE, TINY)
    for f in case.flags
    if not f.startswith(('--repeats', '--config.data', '--frames'))
  ]
  # Phantoms compile for long, whatever their size.
  flags = [f.replace(',phantom', '') for f in flags]
  sscf = any(SSCF in flag for flag in flags)
  once = '--frames=20' if case.name == 'frames' else '--repeats=1'
  return Case(case.name, (*flags, once, *(TINY_SSCF * sscf)), 400)


def environment(machine: str) -> dict[str, str]:
  """Of a case: the package of this checkout, and torch where it was put."""
  paths = [
    str(ROOT),
    str(ROOT / '.venv' / 'torch'),
    os.environ.get('PYTHONPATH', ''),
  ]
  chosen = {} if machine == 'gpu' else {'JAX_PLATFORMS': 'cpu'}
  return (
    os.environ
    | {
      'PYTHONPATH': os.pathsep.join(filter(None, paths)),
      'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    }
    | chosen
  )


def run(case: Case, machine: str) -> list[dict]:
  """Runs a case and returns its lines, or one that says what went wrong."""
  start, command = (
    time.perf_counter(),
    [sys.executable, '-m', 'echoforge_jax', 'bench', *case.flags],
  )
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / 'lines.jsonl'
    try:
      done = subprocess.run(
        [*command, f'--json={out}'],
        cwd=ROOT,
        env=environment(machine),
        timeout=case.limit_s,
        capture_output=True,
        text=True,
      )
      failed = (
        done.returncode
        and (done.stderr.strip().splitlines() or [f'status {done.returncode}'])[
          -1
        ]
      )
    except subprocess.TimeoutExpired:
      failed = f'took more than {case.limit_s:.0f} s'
    text = out.read_text() if out.exists() else ''
  # Of a stream there is one object, on many lines.
  rows = [text] * bool(text) if case.flags[0] == 'stream' else text.splitlines()
  lines = [{'case': case.name, **json.loads(row)} for row in rows]
  if failed:
    lines.append({'case': case.name, 'failed': failed})
  print(
    f'{case.name}: {time.perf_counter() - start:.0f} s'
    + (f', FAILED: {failed}' if failed else ''),
    flush=True,
  )
  return lines


def train_paper(
  folder: pathlib.Path,
  machine: str,
  smoke: bool,
  patients: int,
  limit_s: float | None,
  overrides: Sequence[str],
) -> list[dict]:
  """Phantom, prepare, train and evaluate at the paper's size, from nothing.

  Training that takes longer than the limit stops with a checkpoint, and that is
  evaluated.
  """
  if smoke:
    patients = 4
  raw, data, workdir, report = (
    str(folder / name) for name in ('raw', 'data', 'run', 'report')
  )
  config = TINY if smoke else PAPER
  # Patients are drawn by processes, which cannot share an accelerator.
  processors = {'JAX_PLATFORMS': 'cpu'}
  workers = min(max((os.cpu_count() or 1) - 2, 0), patients)
  lines = []
  for name, flags in (
    (
      'phantom',
      (
        '--layout=camus',
        f'--out={raw}',
        f'--patients={patients}',
        f'--test={max(patients // 5, 1)}',
        '--seed=0',
        f'--workers={workers}',
      ),
    ),
    (
      'prepare',
      (
        '--dataset=camus',
        f'--raw={raw}',
        f'--data_dir={data}',
        f'--image_size={32 if smoke else 256}',
      ),
    ),
    (
      'train',
      (
        f'--config={config}',
        f'--workdir={workdir}',
        f'--config.data.data_dir={data}',
        '--config.dtype=bfloat16',
        *overrides,
      ),
    ),
    (
      'evaluate',
      (
        f'--workdir={workdir}',
        '--split=test',
        '--protocol=camus_full',
        f'--out={report}',
      ),
    ),
  ):
    start = time.perf_counter()
    # The output stays visible: this takes long. All four continue or repeat
    # what an interrupted run left.
    if name == 'phantom' and (folder / 'data').exists():
      status = 0
    else:
      process = subprocess.Popen(
        [sys.executable, '-m', 'echoforge_jax', name, *flags],
        cwd=ROOT,
        stdout=sys.stderr,
        env=environment(machine)
        | (processors if name in ('phantom', 'prepare') else {}),
      )
      try:
        status = process.wait(limit_s if name == 'train' else None)
      except subprocess.TimeoutExpired:
        process.terminate()
        status = process.wait()
    line = {
      'case': 'training',
      'verb': name,
      'flags': [flag.replace(str(folder), 'WORK') for flag in flags],
      'seconds': time.perf_counter() - start,
    }
    stopped = name == 'train' and status == STOPPED
    if stopped:
      line['stopped_after_s'], status = limit_s, 0
    lines.append(
      line
      | ({'failed': f'{name} ended with status {status}'} if status else {})
    )
    print(
      f'training, {name}: {line["seconds"]:.0f} s'
      + ', stopped before its end' * stopped
      + (f', FAILED with status {status}' if status else ''),
      flush=True,
    )
    if status:
      return lines
  metrics = json.loads((pathlib.Path(report) / 'metrics.json').read_text())
  return [*lines, {'case': 'training', 'metrics': metrics}]


def default_machine() -> str:
  """'gpu' or 'cpu', asked for in a process that lets go of the device."""
  done = subprocess.run(
    [sys.executable, '-c', 'import jax; print(jax.default_backend())'],
    capture_output=True,
    text=True,
  )
  return 'gpu' if done.stdout.strip() in ('gpu', 'tpu') else 'cpu'


def main() -> int:
  """Runs the cases of a machine; 1 where any failed."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    '--machine',
    choices=['cpu', 'gpu'],
    help='default: what JAX finds; gpu is any accelerator',
  )
  parser.add_argument(
    '--only',
    default='',
    metavar='A,B',
    help='cases that begin with these; other lines stay',
  )
  parser.add_argument(
    '--smoke',
    action='store_true',
    help='tiny sizes, to see that everything runs',
  )
  parser.add_argument(
    '--out', type=pathlib.Path, default=ROOT / 'benchmarks' / 'results'
  )
  parser.add_argument(
    '--work',
    type=pathlib.Path,
    default=ROOT / 'runs' / 'speed_table',
    help='of the whole training (gpu)',
  )
  parser.add_argument(
    '--patients',
    type=int,
    default=PATIENTS,
    help='of the whole training, a fifth of them for the '
    'test (default: %(default)s)',
  )
  parser.add_argument(
    '--limit_s',
    type=float,
    metavar='S',
    help='after which a case is stopped; what it measured '
    'until then stays, training is evaluated as it is',
  )
  flags, overrides = parser.parse_known_args()
  if unknown := [o for o in overrides if not o.startswith('--config.')]:
    parser.error(f'unknown flag {unknown[0]!r}')
  machine = flags.machine or default_machine()
  cases = list(cpu_cases() if machine == 'cpu' else gpu_cases())
  only = tuple(name for name in flags.only.split(',') if name)
  names = [case.name for case in cases] + ['training'] * (machine == 'gpu')
  if unknown := [o for o in only if not any(n.startswith(o) for n in names)]:
    print(
      f'error: --only: found {unknown[0]!r}; choose from {", ".join(names)}',
      file=sys.stderr,
    )
    return 2
  if flags.smoke:
    cases = [smaller(case) for case in cases]
  if flags.limit_s:
    cases = [dataclasses.replace(case, limit_s=flags.limit_s) for case in cases]
  chosen = [name for name in names if not only or name.startswith(only)]
  flags.out.mkdir(parents=True, exist_ok=True)
  path = flags.out / f'speed_{machine}.jsonl'
  lines = (
    [
      line
      for line in map(json.loads, path.read_text().splitlines())
      if line['case'] not in chosen
    ]
    if only and path.exists()
    else []
  )
  for name in chosen:
    case = next((case for case in cases if case.name == name), None)
    lines += (
      run(case, machine)
      if case
      else train_paper(
        flags.work,
        machine,
        flags.smoke,
        flags.patients,
        flags.limit_s,
        overrides,
      )
    )
    # After every case: what is measured stays when the rest is interrupted.
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  text = (
    'SMOKE: tiny sizes, these are no measurements.\n\n' * flags.smoke
    + speed_goals.table(speed_goals.Lines(lines), machine)
  )
  path.with_suffix('.md').write_text(text)
  print(text)
  return int(
    any(line.get('failed') for line in lines if line['case'] in chosen)
  )


if __name__ == '__main__':
  sys.exit(main())
