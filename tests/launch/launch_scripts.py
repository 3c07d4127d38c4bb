"""Calls the launch scripts as a user does, without any cloud."""

import os
from pathlib import Path
import shutil
import subprocess
import sys

LAUNCH = Path(__file__).parents[2] / 'launch'
SETTINGS = (
  'PROJECT',
  'ZONE',
  'NAME',
  'DATA',
  'DATA_DIR',
  'SPOT',
  'IMAGE',
  'HOSTS',
  'CLUSTER',
  'CREATE_FLAGS',
  'ACCELERATOR',
  'IMAGE_SIZE',
)
CLOUD = {'PROJECT': 'my-project', 'ZONE': 'us-west4-a', 'DATA': 'gs://bucket/data'}


def environment(**settings):
  """The environment, without what a user may have set for the scripts."""
  kept = {
    name: value
    for name, value in os.environ.items()
    if name not in SETTINGS and not name.startswith('SLURM_')
  }
  return kept | settings


def call(script, *arguments, cwd=None, **settings):
  """Runs a script of launch/; returns its CompletedProcess."""
  program = sys.executable if script.endswith('.py') else shutil.which('bash')
  return subprocess.run(
    [program, str(LAUNCH / script), *arguments],
    cwd=cwd,
    env=environment(**settings),
    capture_output=True,
    text=True,
    timeout=60,
  )


def dry_run(script, *arguments, **settings):
  """The commands of a dry run, without remarks."""
  done = call(script, '--dry_run', *arguments, **settings)
  assert done.returncode == 0, done.stderr
  return [line for line in done.stdout.splitlines() if not line.startswith('#')]


def fake_package(folder, main):
  """Writes an echoforge_jax whose __main__ is `main`; python -m finds it."""
  package = folder / 'echoforge_jax'
  package.mkdir(parents=True)
  (package / '__init__.py').write_text('')
  (package / '__main__.py').write_text(main)
