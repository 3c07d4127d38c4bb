"""Kills a training at random moments; every resumed run must end the same.

  python benchmarks/crash.py --out=benchmarks/results/crash.jsonl

Trains a small config once without interruption. Then, for every trial, trains
it anew, sends `kill -9` (every second time while a checkpoint is being written,
otherwise at any moment, start and compilation included), starts the same
command again until it is done, and compares SHA-256 digests over every array of
the last checkpoint (both networks, optimizer, step, root key) and the position
in the data. One JSON line a trial; exit status 1 where one differs.
"""

import argparse
import json
from pathlib import Path
import random
import subprocess
import sys
import tempfile
import time

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS, EVERY = 60, 4


def echoforge(*flags: str) -> list[str]:
  """The command line of a verb."""
  return [sys.executable, '-m', 'echoforge_jax', *flags]


def make_data(folder: Path) -> Path:
  """Phantom patients, prepared at 32 pixels."""
  subprocess.run(
    echoforge(
      'phantom', '--layout=camus', f'--out={folder / "raw"}', '--patients=8', '--test=2', '--seed=0'
    ),
    check=True,
    stdout=subprocess.DEVNULL,
  )
  subprocess.run(
    echoforge(
      'prepare',
      '--dataset=camus',
      f'--raw={folder / "raw"}',
      f'--data_dir={folder / "data"}',
      '--image_size=32',
    ),
    check=True,
    stdout=subprocess.DEVNULL,
  )
  return folder / 'data'


class Run:
  """A training in a workdir, as a process."""

  def __init__(self, workdir: Path, data_dir: Path, cache: Path):
    self.workdir = workdir
    self._log = workdir.with_suffix('.log').open('ab')
    self.start = time.monotonic()
    self._process = subprocess.Popen(
      [
        'env',
        f'JAX_COMPILATION_CACHE_DIR={cache}',
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0',
        *echoforge(
          'train',
          f'--config={REPOSITORY / "configs" / "tiny.py"}',
          f'--workdir={workdir}',
          f'--config.data.data_dir={data_dir}',
          f'--config.num_steps={STEPS}',
          '--config.log_every=1',
          '--config.eval.every=20',
          f'--config.checkpoint_every={EVERY}',
        ),
      ],
      stdout=self._log,
      stderr=self._log,
    )

  @property
  def seconds(self) -> float:
    """Since the start."""
    return time.monotonic() - self.start

  def running(self) -> bool:
    """Whether it has not ended."""
    return self._process.poll() is None

  def is_writing(self) -> bool:
    """Whether a checkpoint is half written right now."""
    folder = self.workdir / 'checkpoints'
    return folder.is_dir() and any('tmp' in path.name for path in folder.iterdir())

  def kill(self) -> None:
    """kill -9."""
    self._process.kill()
    self._process.wait()
    self._log.close()

  def finish(self) -> None:
    """Waits for the end, which must be a good one."""
    code = self._process.wait()
    self._log.close()
    if code:
      text = self.workdir.with_suffix('.log').read_text()[-2000:]
      raise SystemExit(f'exit status {code}:\n{text}')

  def whole_checkpoints(self) -> list[int]:
    """Steps of the checkpoints that are there."""
    folder = self.workdir / 'checkpoints'
    return (
      sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
      if folder.is_dir()
      else []
    )


def interrupt(run: Run, rng: random.Random, whole_seconds: float, in_save: bool) -> bool:
  """Waits for the moment and kills; False where the run ended before."""
  if in_save:
    skip = rng.randrange(STEPS // EVERY - 2)  # Which save, about.
    while run.running() and not (
      run.is_writing()
      and len(run.whole_checkpoints()) >= min(skip, 2)
      and (run.whole_checkpoints() or [0])[-1] >= skip * EVERY
    ):
      time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.03))
  else:
    moment = rng.uniform(0, whole_seconds)
    while run.running() and run.seconds < moment:
      time.sleep(0.005)
  if not run.running():
    return False
  run.kill()
  return True


def main() -> int:
  """Runs the trials."""
  from echoforge_jax.training import checkpoint

  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--out', type=Path, required=True)
  parser.add_argument('--trials', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  flags = parser.parse_args()
  rng, failed = random.Random(flags.seed), 0
  flags.out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as name, flags.out.open('w') as out:
    folder = Path(name)
    data_dir, cache = make_data(folder), folder / 'cache'
    Run(folder / 'first', data_dir, cache).finish()  # Fills the cache.
    whole = Run(folder / 'whole', data_dir, cache)
    whole.finish()
    seconds = whole.seconds
    wanted = checkpoint.fingerprint(whole.workdir)
    print(f'uninterrupted: step {wanted[0]}, {wanted[1][:16]}, {seconds:.0f} s', flush=True)
    for trial in range(flags.trials):
      attempts = 0
      while True:  # A run that ends before its moment is not a trial.
        workdir = folder / f'trial{trial}_{attempts}'
        run = Run(workdir, data_dir, cache)
        if interrupt(run, rng, seconds, in_save=trial % 2 == 1):
          break
        attempts += 1
      line = {
        'trial': trial,
        'after_seconds': round(run.seconds, 2),
        'in_save': run.is_writing(),
        'checkpoints': run.whole_checkpoints(),
      }
      Run(workdir, data_dir, cache).finish()
      found = checkpoint.fingerprint(workdir)
      line |= {'step': found[0], 'sha256': found[1], 'identical': found == wanted}
      failed += not line['identical']
      out.write(json.dumps(line) + '\n')
      out.flush()
      print(line, flush=True)
  print(f'{flags.trials - failed} of {flags.trials} runs are bit-identical')
  return int(failed > 0)


if __name__ == '__main__':
  sys.exit(main())
