"""The batch script, with srun, squeue and scontrol replaced."""

import re
import shutil
import subprocess

import pytest

from tests.launch.launch_scripts import LAUNCH, call, environment

FLAGS = ('--config=configs/tiny.py', '--workdir=runs/x')


def test_its_settings():
  text = (LAUNCH / 'slurm.sbatch').read_text()
  settings = dict(re.findall(r'^#SBATCH --([\w-]+)=?(.*)$', text, re.MULTILINE))
  assert settings['signal'] == 'TERM@120' and 'requeue' in settings
  assert settings['open-mode'] == 'append'
  assert settings['ntasks-per-node'] == '1'
  # Slurm reads them only above the first command.
  assert text.rindex('\n#SBATCH') < text.index('\nset -')


@pytest.mark.parametrize(
  'gpus, tasks, devices',
  [
    ('8', '1', '0,1,2,3,4,5,6,7'),
    ('8', '8', None),  # JAX gives one to each process.
    ('1', '1', None),
    ('0', '1', None),  # TPU.
  ],
)
def test_every_gpu_has_a_process(gpus, tasks, devices):
  done = call(
    'slurm.sbatch', '--dry_run', *FLAGS, SLURM_GPUS_ON_NODE=gpus, SLURM_NTASKS_PER_NODE=tasks
  )
  assert done.returncode == 0, done.stderr
  *exports, command, _ = done.stdout.splitlines()
  assert exports == ([f'export JAX_LOCAL_DEVICE_IDS={devices}'] if devices else [])
  assert command.split() == [
    'srun',
    '--kill-on-bad-exit=0',
    '--wait=180',
    '.venv/bin/python',
    '-m',
    'echoforge_jax',
    'train',
    '--multihost',
    *FLAGS,
  ]


def test_misuse():
  done = call(
    'slurm.sbatch', '--dry_run', *FLAGS, SLURM_GPUS_ON_NODE='8', SLURM_NTASKS_PER_NODE='2'
  )
  assert done.returncode == 2 and '2 processes for 8 GPUs' in done.stderr
  assert call('slurm.sbatch').returncode == 2


def test_must_be_submitted_in_the_repository(tmp_path):
  done = call('slurm.sbatch', *FLAGS, SLURM_SUBMIT_DIR=str(tmp_path))
  assert done.returncode == 2 and 'call sbatch in the repository' in done.stderr


@pytest.mark.parametrize(
  'status, state, requeued',
  [
    (143, 'RUNNING', True),  # The time limit is near.
    (143, 'CANCELLED', False),
    (143, 'PREEMPTED', False),  # Slurm does it itself.
    (0, 'RUNNING', False),
    (1, 'RUNNING', False),
    (130, 'RUNNING', False),
  ],
)
def test_queues_again_only_after_a_stop(tmp_path, status, state, requeued):
  for name, body in {
    'srun': f'exit {status}',
    'squeue': f'echo {state}',
    'scontrol': 'echo "scontrol $*"',
  }.items():
    (tmp_path / name).write_text(f'#!/bin/sh\n{body}\n')
    (tmp_path / name).chmod(0o755)
  # Slurm runs a copy of the script from elsewhere.
  copy = shutil.copy(LAUNCH / 'slurm.sbatch', tmp_path / 'slurm_script')
  done = subprocess.run(
    ['bash', copy, *FLAGS],
    capture_output=True,
    text=True,
    env=environment(
      PATH=f'{tmp_path}:/usr/bin:/bin', SLURM_JOB_ID='17', SLURM_SUBMIT_DIR=str(LAUNCH.parent)
    ),
  )
  assert done.returncode == status
  assert ('scontrol requeue 17' in done.stdout) == requeued
