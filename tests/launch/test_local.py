"""Several processes of one machine: commands, output, failures, signals."""

import os
from pathlib import Path
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.launch_scripts import LAUNCH, call, environment, fake_package

# Process i does what its file do_i says; by default it ends well.
FAKE = """
import os, pathlib, signal, subprocess, sys, time
me = [a.partition('=')[2] for a in sys.argv if a.startswith('--process_id=')]
me = me[0] if me else 'alone'
print('args', *sys.argv[1:], flush=True)
def say(name): pathlib.Path(name + '_' + me).write_text(str(os.getpid()))
def stop(number, _):
  say('stopped')
  sys.exit(128 + number)
plan = pathlib.Path('do_' + me)
plan = plan.read_text() if plan.exists() else 'end'
for number in (signal.SIGTERM, signal.SIGINT):
  signal.signal(number, signal.SIG_IGN if plan == 'ignore' else stop)
if plan == 'child':
  child = subprocess.Popen(['sleep', '60'])
  pathlib.Path('child_' + me).write_text(str(child.pid))
say('started')
if plan.startswith('exit'):
  print('last words', file=sys.stderr)
  sys.exit(int(plan[4:]))
if plan != 'end':
  time.sleep(60)
"""


@pytest.fixture
def workplace(tmp_path):
  fake_package(tmp_path, FAKE)
  return tmp_path


def plan(folder, **plans):
  for process, text in plans.items():
    (folder / f'do_{process.removeprefix("p")}').write_text(text)


def wait_for(*paths):
  end = time.monotonic() + 20
  while not all(path.exists() and path.read_text() for path in paths):
    assert time.monotonic() < end, f'none of {paths}'
    time.sleep(0.02)


def is_running(pid):
  try:
    state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
  except FileNotFoundError:
    return False
  return state != 'Z'


def has_ended(pid):
  end = time.monotonic() + 10
  while is_running(pid):
    if time.monotonic() > end:
      return False
    time.sleep(0.02)
  return True


def start(folder, *flags):
  return subprocess.Popen(
    [sys.executable, str(LAUNCH / 'local.py'), *flags, '--', 'train'],
    cwd=folder,
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_dry_run_prints_a_command_a_process():
  done = call(
    'local.py',
    '--processes=2',
    '--devices=3',
    '--port=4242',
    '--dry_run',
    '--',
    'train',
    '--workdir=a b',
  )
  assert done.returncode == 0
  for process, line in enumerate(done.stdout.splitlines()):
    assert shlex.split(line) == [
      sys.executable,
      '-m',
      'echoforge_jax',
      'train',
      '--multihost',
      '--coordinator_address=127.0.0.1:4242',
      '--num_processes=2',
      f'--process_id={process}',
      '--workdir=a b',
      '--config.cpu_devices=3',
    ]
  assert process == 1


def test_a_free_port_is_the_same_for_all():
  done = call('local.py', '--dry_run', '--processes=3', '--', 'train')
  ports = {
    flag for line in done.stdout.splitlines() for flag in line.split() if 'coordinator' in flag
  }
  (port,) = ports
  assert 1023 < int(port.rpartition(':')[2]) < 65536


def test_one_process_is_alone(workplace):
  done = call('local.py', '--processes=1', '--', 'train', cwd=workplace)
  assert done.returncode == 0
  assert done.stdout == 'args train --config.cpu_devices=1\n'


@pytest.mark.parametrize(
  'arguments, words',
  [
    (('train',), 'no verb after --'),
    (('--',), 'no verb after --'),
    (('--', '--workdir=x'), 'no verb after --'),
    (('--processes=0', '--', 'train'), '--processes is 0'),
    (('--devices=-1', '--', 'train'), '--devices is -1'),
    (('--port=70000', '--', 'train'), '--port is 70000'),
    (('--grace=-1', '--', 'train'), '--grace is -1'),
    (('--', 'train', '--multihost'), '--multihost is set by this launcher'),
    (('--', 'train', '--config.cpu_devices=2'), 'is set by this launcher'),
  ],
)
def test_misuse_is_told(arguments, words):
  done = call('local.py', *arguments)
  assert done.returncode == 2 and words in done.stderr


def test_lines_carry_the_number_of_their_process(workplace):
  done = call('local.py', '--processes=2', '--', 'train', cwd=workplace)
  assert done.returncode == 0
  first = {line.partition(' ')[0] for line in done.stdout.splitlines()}
  assert first == {'[0]', '[1]'}


def test_the_real_package_answers():
  done = call('local.py', '--processes=2', '--', 'train', '--help')
  assert done.returncode == 0
  assert '[0] usage: echoforge train' in done.stdout
  assert '[1] usage: echoforge train' in done.stdout


def test_a_failure_ends_the_others(workplace):
  plan(workplace, p0='wait', p1='exit3')
  done = call('local.py', '--processes=2', '--grace=0.2', '--', 'train', cwd=workplace)
  assert done.returncode == 3
  assert 'process 1 ended with status 3' in done.stderr
  assert '[1] last words' in done.stdout
  wait_for(workplace / 'started_0')
  assert has_ended(int((workplace / 'started_0').read_text()))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_all(workplace, number):
  plan(workplace, p0='wait', p1='child')
  launcher = start(workplace, '--processes=2')
  wait_for(workplace / 'started_0', workplace / 'started_1')
  launcher.send_signal(number)
  launcher.communicate(timeout=30)
  assert launcher.returncode == 128 + signal.SIGTERM
  assert (workplace / 'stopped_0').exists()
  assert (workplace / 'stopped_1').exists()
  # What a process had started itself is gone too.
  assert has_ended(int((workplace / 'child_1').read_text()))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_single_process_gets_the_signal_itself(workplace, number):
  plan(workplace, palone='wait')
  launcher = start(workplace, '--processes=1')
  wait_for(workplace / 'started_alone')
  launcher.send_signal(number)
  launcher.communicate(timeout=30)
  assert launcher.returncode == 128 + number


def test_a_second_signal_kills(workplace):
  plan(workplace, p0='ignore', p1='ignore')
  launcher = start(workplace, '--processes=2')
  wait_for(workplace / 'started_0', workplace / 'started_1')
  launcher.send_signal(signal.SIGTERM)
  time.sleep(0.5)
  assert launcher.poll() is None
  launcher.send_signal(signal.SIGTERM)
  launcher.communicate(timeout=30)
  assert launcher.returncode == 128 + signal.SIGKILL
  for process in range(2):
    assert has_ended(int((workplace / f'started_{process}').read_text()))


@pytest.mark.skipif(sys.platform != 'linux', reason='needs PDEATHSIG')
def test_a_killed_launcher_leaves_nobody(workplace):
  plan(workplace, p0='ignore', p1='ignore')
  launcher = start(workplace, '--processes=2')
  wait_for(workplace / 'started_0', workplace / 'started_1')
  os.kill(launcher.pid, signal.SIGKILL)
  launcher.communicate(timeout=30)
  for process in range(2):
    assert has_ended(int((workplace / f'started_{process}').read_text()))
