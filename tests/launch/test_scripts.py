"""Every script parses, passes shellcheck, and plans the right commands."""

from pathlib import Path
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.launch.launch_scripts import CLOUD, LAUNCH, call, dry_run

SCRIPTS = sorted([*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch')])
FLAGS = ('--config=configs/camus_echoforge.py', '--workdir=gs://bucket/run')


def test_there_are_scripts():
  assert {path.name for path in SCRIPTS} == {
    'common.sh',
    'one_host.sh',
    'slurm.sbatch',
    'tpu_pod.sh',
  }


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_parses_and_passes_shellcheck(path):
  subprocess.run(['bash', '-n', path], check=True)
  shellcheck = shutil.which('shellcheck', path=str(Path(sys.executable).parent)) or shutil.which(
    'shellcheck'
  )
  done = subprocess.run(
    [shellcheck, '--external-sources', '--shell=bash', path], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
  'arguments, settings, words',
  [
    ((), CLOUD, 'usage: '),
    (('restart',), CLOUD, 'unknown command restart; choose create'),
    (('create',), {'ZONE': 'z-1-a'}, 'PROJECT is not set'),
    (('create',), {'PROJECT': 'p'}, 'ZONE is not set'),
    (('delete', 'all'), CLOUD, 'delete takes no flags, found all'),
    (('run', '--workdir=gs://b/x'), CLOUD, 'no --config'),
    (('run', '--config=c', '--workdir=runs/x'), CLOUD, 'must be a bucket'),
    (('run', *FLAGS, '--multihost'), CLOUD, 'leave it out'),
  ],
)
def test_misuse_starts_nothing(arguments, settings, words):
  done = call('tpu_pod.sh', '--dry_run', *arguments, **settings)
  assert done.returncode == 2 and words in done.stderr and not done.stdout


def test_help_lists_every_command():
  done = call('tpu_pod.sh', '--help')
  assert done.returncode == 0 and 'set -euo' not in done.stdout
  for command in ('create', 'install', 'run', 'watch', 'resume', 'delete'):
    assert re.search(rf'^  {command} ', done.stdout, re.MULTILINE)


def parts(line):
  """'gcloud compute tpus ...' -> words without flags, flags."""
  words = shlex.split(line)
  return (
    [word for word in words if not word.startswith('--')],
    dict(word.partition('=')[::2] for word in words if word.startswith('--')),
  )


def test_tpu_pod_from_create_to_delete():
  """The numbered steps of the README, in their order."""
  lines = []
  for command in ('create', 'install', 'run', 'watch', 'delete'):
    flags = FLAGS if command == 'run' else ()
    lines += dry_run('tpu_pod.sh', command, *flags, **CLOUD, NAME='exp')
  words, flags = zip(*map(parts, lines))
  assert [' '.join(w[2:5] if w[0] == 'gcloud' else w[:2]) for w in words] == [
    'tpus queued-resources create',
    'tpus queued-resources describe',
    'git archive',
    'tpus tpu-vm scp',
    'tpus tpu-vm ssh',
    'tpus tpu-vm ssh',
    'tpus tpu-vm ssh',
    'tpus queued-resources describe',
    'tpus tpu-vm ssh',
    'tpus queued-resources delete',
    'tpus queued-resources list',
  ]
  for word, flag in zip(words, flags):
    if word[0] == 'gcloud':
      assert flag['--project'] == 'my-project'
      assert flag['--zone'] == 'us-west4-a'
  create = flags[0]
  assert create['--node-id'] == 'exp' and '--spot' in create
  assert create['--accelerator-type'] == 'v5litepod-16'
  assert '--force' in flags[-2] and '--quiet' in flags[-2]
  install = flags[4]
  assert install['--worker'] == 'all'
  assert "'jax[tpu]' 'etils[epath-gcs]'" in install['--command']
  assert 'rsync --recursive gs://bucket/data data' in install['--command']
  for flag in (install, flags[5], flags[6], flags[8]):
    subprocess.run(['bash', '-n', '-c', flag['--command']], check=True)


def test_tpu_pod_options():
  line, _ = dry_run(
    'tpu_pod.sh', 'create', **CLOUD, SPOT='0', CREATE_FLAGS='--network=net --reserved'
  )
  assert '--spot' not in line and '--network=net --reserved' in line


def test_tpu_pod_runs_train_on_every_machine(tmp_path):
  """The remote command does what it says, with tmux replaced by a shell."""
  (line,) = dry_run('tpu_pod.sh', 'run', *FLAGS, "--config.x=a b'c", **CLOUD)
  _, flags = parts(line)
  assert flags['--worker'] == 'all'
  python = tmp_path / 'echoforge' / '.venv' / 'bin' / 'python'
  python.parent.mkdir(parents=True)
  python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 143\n')
  python.chmod(0o755)
  tmux = tmp_path / 'bin' / 'tmux'
  tmux.parent.mkdir()
  tmux.write_text('#!/bin/sh\n[ "$1" = has-session ] && exit 1\nshift 4\nexec sh -c "$1"\n')
  tmux.chmod(0o755)
  subprocess.run(
    ['bash', '-c', flags['--command']],
    cwd=tmp_path,
    check=True,
    env={'PATH': f'{tmux.parent}:/usr/bin:/bin'},
  )
  assert (tmp_path / 'echoforge' / 'train.log').read_text().splitlines() == [
    '-m',
    'echoforge_jax',
    'train',
    '--multihost',
    *FLAGS,
    "--config.x=a b'c",
    'train ended with status 143',
  ]


def test_tpu_pod_resumes_on_new_machines():
  lines = dry_run('tpu_pod.sh', 'resume', *FLAGS, **CLOUD)
  words = [' '.join(parts(line)[0][3:5]) for line in lines if line.startswith('gcloud')]
  assert words[:3] == [
    'queued-resources delete',
    'queued-resources create',
    'queued-resources describe',
  ]
  assert 'tmux new-session' in lines[-1] and lines[-1].count('train') > 1


def fake_gcloud(folder, state):
  folder.mkdir()
  program = folder / 'gcloud'
  program.write_text(
    '#!/bin/sh\necho "$@" >> "$(dirname "$0")/calls"\n'
    f'case "$*" in *state.state*) echo {state};; esac\n'
  )
  program.chmod(0o755)
  return {'PATH': f'{folder}:/usr/bin:/bin'}


def test_tpu_pod_resumes_in_place_where_the_machines_are_there(tmp_path):
  path = fake_gcloud(tmp_path / 'bin', 'ACTIVE')
  done = call('tpu_pod.sh', 'resume', *FLAGS, **CLOUD, **path)
  assert done.returncode == 0, done.stderr
  calls = (tmp_path / 'bin' / 'calls').read_text().splitlines()
  assert len(calls) == 2 and 'queued-resources list' in calls[0]
  assert 'tpu-vm ssh echoforge --worker=all' in calls[1]


def test_tpu_pod_tells_a_request_that_failed(tmp_path):
  path = fake_gcloud(tmp_path / 'bin', 'FAILED')
  done = call('tpu_pod.sh', 'create', **CLOUD, **path)
  assert done.returncode == 2 and 'echoforge is FAILED' in done.stderr


def test_one_host_prints_its_steps():
  done = call(
    'one_host.sh',
    '--dry_run',
    '/raw',
    'runs/x',
    'configs/tiny.py',
    '--config.batch_size=8',
    ACCELERATOR='cpu',
  )
  steps = done.stderr.splitlines()
  assert done.returncode == 0 and not done.stdout
  verbs = [line.partition('echoforge_jax ')[2].partition(' ')[0] for line in steps]
  assert verbs == ['', 'verify', 'prepare', 'train', 'evaluate', 'evaluate']
  assert steps[3].endswith(
    'train --config=configs/tiny.py --workdir=runs/x '
    '--config.data.data_dir=runs/x/data '
    '--config.batch_size=8'
  )
  assert call('one_host.sh').returncode == 2


def test_one_host_keeps_data_here_where_the_workdir_is_a_bucket():
  done = call('one_host.sh', '--dry_run', '/raw', 'gs://bucket/run')
  assert 'install --quiet --upgrade -r requirements.txt jax[cuda13]' in (done.stderr)
  assert 'etils[epath-gcs]' in done.stderr
  assert '--workdir=gs://bucket/run --config.data.data_dir=data' in done.stderr
  assert '--out=reports/run/camus_full' in done.stderr
