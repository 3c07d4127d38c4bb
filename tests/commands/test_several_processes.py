"""Two processes train as one: same numbers, one writer, one step to stop at."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from echoforge_jax.training import checkpoint

REPOSITORY = Path(__file__).parents[2]
# A mean teacher of the plain encoder-decoder, which compiles quickly.
CONFIG = f'--config={REPOSITORY / "configs" / "tiny.py"}:mean_teacher'
STEPS = 16
# Views without the changes that take longest to compile.
PLAIN = ('blur', 'speckle', 'attenuation', 'haze', 'shadow', 'dropout')


@pytest.fixture(scope='module')
def start(disc_data_dir):
  """Starts a training in other processes."""

  def start(workdir, *flags, processes=1, devices=1):
    command = (
      ['launch/local.py', f'--processes={processes}', f'--devices={devices}', '--']
      if processes > 1
      else ['-m', 'echoforge_jax']
    )
    own = [f'--config.cpu_devices={devices}'] if processes == 1 else []
    kept = [flag for flag in os.environ['XLA_FLAGS'].split() if 'device_count' not in flag]
    return subprocess.Popen(
      [
        sys.executable,
        *command,
        'train',
        CONFIG,
        f'--workdir={workdir}',
        f'--config.data.data_dir={disc_data_dir}',
        '--config.batch_size=4',
        f'--config.num_steps={STEPS}',
        '--config.num_devices=0',
        '--config.log_every=1',
        f'--config.checkpoint_every={STEPS}',
        '--config.optimizer.learning_rate=1e-4',
        f'--config.eval.every={STEPS}',
        *(f'--config.data.augmentation.{name}=0' for name in PLAIN),
        *own,
        *flags,
      ],
      cwd=REPOSITORY,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env=os.environ | {'XLA_FLAGS': ' '.join(kept)},
    )

  return start


def end(process, code=0):
  output, _ = process.communicate(timeout=400)
  assert process.returncode == code, output
  return output


def lines(workdir):
  path = Path(workdir) / 'metrics.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()]


def distance(one, two):
  """Of all parameters of two networks, relative to their size."""
  import jax

  one, two = (
    np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (one, two)
  )
  return np.linalg.norm(one - two) / np.linalg.norm(two)


@pytest.fixture(scope='module')
def whole(start, tmp_path_factory):
  """A run of one process with four devices."""
  workdir = tmp_path_factory.mktemp('whole')
  end(start(workdir, devices=4))
  return workdir


@pytest.mark.slow
def test_two_processes_equal_one(start, whole, tmp_path):
  """Interrupted in the middle, and ended with half as many devices."""
  process = start(tmp_path, '--config.fsdp=2', processes=2, devices=2)
  deadline = time.monotonic() + 300
  while not (tmp_path / 'metrics.jsonl').exists() or len(lines(tmp_path)) < 3:
    assert process.poll() is None, process.communicate()[0]
    assert time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  output = end(process, code=128 + signal.SIGTERM)
  assert output.count('stopped at step') == 1  # One process speaks.
  _, _, stopped = checkpoint.restore_for_inference(tmp_path)
  assert 3 <= stopped < STEPS and f'stopped at step {stopped}' in output

  output = end(start(tmp_path, devices=2))
  assert f'resumed at step {stopped}' in output
  ours, theirs = lines(tmp_path), lines(whole)
  assert [(line['step'], line['kind']) for line in ours] == [
    (line['step'], line['kind']) for line in theirs
  ]
  for one, other in zip(ours, theirs):
    # Sums in another order differ in the last bits, and Adam makes more of it.
    tolerance = 1e-5 if one['step'] <= 10 else 1e-3
    for name in one.keys() - {'kind'}:
      np.testing.assert_allclose(
        one[name], other[name], rtol=tolerance, atol=1e-6, err_msg=f'{name} of step {one["step"]}'
      )
  for which in ('student', 'teacher'):
    networks = [
      checkpoint.restore_for_inference(workdir, which)[1] for workdir in (tmp_path, whole)
    ]
    apart = distance(*networks)
    print(f'{which}: {apart:.1e} apart, stopped at step {stopped}')
    assert apart < 1e-3


@pytest.mark.parametrize(
  'flags, words',
  [
    (('--num_processes=2',), '--multihost; add it'),
    (('--multihost', '--num_processes=2'), 'wanted all three'),
    (
      ('--multihost', '--num_processes=2', '--process_id=2', '--coordinator_address=localhost:1'),
      'wanted 0 to 1',
    ),
    (
      ('--multihost', '--num_processes=2', '--process_id=0', '--coordinator_address=localhost'),
      'HOST:PORT',
    ),
    (('--multihost',), 'no cluster was found'),
  ],
)
def test_misuse_is_one_clear_line(tmp_path, capsys, flags, words):
  from echoforge_jax.__main__ import main

  assert main(['train', CONFIG, f'--workdir={tmp_path}', *flags]) == 2
  error = capsys.readouterr().err
  assert words in error and len(error.splitlines()) == 1
