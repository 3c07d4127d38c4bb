"""Combinations, checked first; finished runs skipped, failures reported."""

import json
from pathlib import Path
import shlex
import signal
import subprocess
import sys
import time

import combinations
import pytest
import sweep

from echoforge_jax.config import parse_config
from echoforge_jax.errors import InputError
from tests.launch.launch_scripts import LAUNCH, environment, fake_package

CONFIG = str(LAUNCH.parent / 'configs' / 'tiny.py')
# Trains as far as the learning rate in its flags says: 'fail', 'wait' or well.
FAKE = """
import json, os, pathlib, signal, sys, time
flags = dict(a.partition('=')[::2] for a in sys.argv[2:])
root = pathlib.Path(flags['--workdir'])
root.mkdir(parents=True, exist_ok=True)
with (root / 'calls').open('a') as file:
  file.write(' '.join(sys.argv[1:]) + chr(10))
(root / 'gpus').write_text(os.environ.get('CUDA_VISIBLE_DEVICES', ''))
seed = int(flags['--config.seed'])
def stop(number, _): sys.exit(143)
signal.signal(signal.SIGTERM, stop)
if pathlib.Path(f'fail_{seed}').exists():
  sys.exit('error: no data here')
if pathlib.Path(f'wait_{seed}').exists():
  (root / 'started').write_text('x')
  time.sleep(60)
with (root / 'metrics.jsonl').open('w') as file:
  for step, dice in ((6, .5), (12, .9 - seed / 10)):
    file.write(json.dumps({'step': step, 'kind': 'train', 'loss': 1}) + chr(10))
    file.write(json.dumps({'step': step, 'kind': 'eval',
                           'dice_teacher': dice}) + chr(10))
last = root / 'checkpoints' / '12'
last.mkdir(parents=True)
(last / '_CHECKPOINT_METADATA').write_text('')
config = pathlib.Path('configs.json')
configs = json.loads(config.read_text())
(root / 'config.json').write_text(json.dumps(configs[root.name]))
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
  """A folder whose `python -m echoforge_jax` is the fake one."""
  fake_package(tmp_path, FAKE)
  monkeypatch.chdir(tmp_path)
  configs = {
    f'seed={seed}': parse_config([f'--config={CONFIG}', f'--config.seed={seed}']).to_dict()
    for seed in range(3)
  }
  (tmp_path / 'configs.json').write_text(json.dumps(configs))
  return tmp_path


def run(*flags, seeds='0,1,2'):
  return sweep.main([f'--config={CONFIG}', '--workdir=runs', '--set', f'seed={seeds}', *flags])


def test_axes():
  assert combinations.parse_axis('seed=0,1') == ('seed', ['0', '1'])
  assert combinations.parse_axis('data.classes=("lv",),("lv","myo")') == (
    'data.classes',
    ['("lv",)', '("lv","myo")'],
  )
  assert combinations.parse_axis(':all,:baseline') == ('', ['all', 'baseline'])


@pytest.mark.parametrize(
  'text', ['seed', 'seed=', 'seed=1,,2', 'seed=1,1', '=1', ':all,baseline', ':']
)
def test_wrong_axes(text):
  with pytest.raises(InputError, match='--set'):
    combinations.parse_axis(text)


def test_the_product_with_the_last_one_fastest():
  runs = combinations.make_runs(
    CONFIG,
    'runs/',
    [('', ['all', 'baseline']), ('optimizer.learning_rate', ['1e-3', '3e-3'])],
    ['--config.batch_size=4'],
  )
  assert [r.name for r in runs] == [
    'all,learning_rate=1e-3',
    'all,learning_rate=3e-3',
    'baseline,learning_rate=1e-3',
    'baseline,learning_rate=3e-3',
  ]
  assert runs[3].workdir == 'runs/baseline,learning_rate=3e-3'
  assert runs[3].flags == (
    f'--config={CONFIG}:baseline',
    '--config.batch_size=4',
    '--config.optimizer.learning_rate=3e-3',
  )
  assert runs[3].config.optimizer.learning_rate == 3e-3
  assert runs[3].config.batch_size == 4 and not runs[3].config.model.use_tsf


@pytest.mark.parametrize(
  'axes, fixed, words',
  [
    ([('optimizer.lr', ['1'])], [], 'run lr=1: no such field'),
    ([('seed', ['0', 'many'])], [], 'run seed=many: .*seed'),
    ([('', ['all', 'best'])], [], "run best: config argument 'best'"),
    ([('seed', ['0']), ('seed', ['1'])], [], "'seed' is set twice"),
    ([('seed', ['0'])], ['--config.seed=1'], "'seed' is set twice"),
    ([('data.classes', ["('lv',)", '("lv",)'])], [], 'two runs would be'),
  ],
)
def test_wrong_values_are_found_before_anything_starts(axes, fixed, words):
  with pytest.raises(InputError, match=words):
    combinations.make_runs(CONFIG, 'runs', axes, fixed)


def test_equal_last_names_are_told_apart():
  (only,) = combinations.make_runs(
    CONFIG, 'runs', [('optimizer.name', ['adam']), ('model.name', ['echoforge'])], []
  )
  assert only.name == 'optimizer.name=adam,model.name=echoforge'


def test_misuse_is_status_2_and_makes_no_folder(workplace, capsys):
  assert run('--set', 'sede=1') == 2
  assert 'no such field' in capsys.readouterr().err
  assert not (workplace / 'runs').exists()
  for flags in (('--epochs=3',), ('--jobs=0',)):
    with pytest.raises(SystemExit) as ended:
      run(*flags)
    assert ended.value.code == 2
  with pytest.raises(SystemExit) as ended:
    sweep.main([f'--config={CONFIG}', '--workdir=runs'])
  assert ended.value.code == 2


def test_trains_all_and_shows_the_last_scores(workplace, capsys):
  assert run('--jobs=2', '--config.batch_size=2') == 0
  table = capsys.readouterr().out.partition('\n\n')[2].splitlines()
  assert [line.split() for line in table] == [
    ['run', 'state', 'step', 'dice_teacher'],
    ['seed=0', 'done', '12', '0.9000'],
    ['seed=1', 'done', '12', '0.8000'],
    ['seed=2', 'done', '12', '0.7000'],
  ]
  assert (workplace / 'runs' / 'summary.csv').read_text().splitlines()[1] == (
    'seed=0,done,12,0.9000'
  )
  assert (workplace / 'runs' / 'seed=1' / 'calls').read_text() == (
    f'train --config={CONFIG} --config.batch_size=2 --config.seed=1 --workdir=runs/seed=1\n'
  )


def calls(folder, seed):
  path = folder / 'runs' / f'seed={seed}' / 'calls'
  return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_failure_stops_nothing_and_only_it_is_repeated(workplace, capsys):
  (workplace / 'fail_1').touch()
  assert run() == 1
  out = capsys.readouterr().out
  assert 'seed=1: failed (1)' in out and 'error: no data here' in out
  assert [calls(workplace, seed) for seed in range(3)] == [1, 1, 1]
  (workplace / 'fail_1').unlink()
  assert run() == 0
  assert '3 runs, 2 finished before' in capsys.readouterr().out
  assert [calls(workplace, seed) for seed in range(3)] == [1, 2, 1]


def test_a_finished_run_of_another_config_is_not_taken_for_this_one(workplace, capsys):
  assert run(seeds='0') == 0
  assert run('--config.optimizer.clip_norm=2.0', seeds='0') == 2
  assert 'clip_norm is 1.0 there and 2.0 now' in capsys.readouterr().err
  # What may change on resume may change here.
  assert run('--config.log_every=1', seeds='0') == 0
  assert calls(workplace, 0) == 1


@pytest.mark.slow
def test_a_signal_lets_the_runs_save_and_starts_no_other(workplace):
  (workplace / 'wait_0').touch()
  process = subprocess.Popen(
    [
      sys.executable,
      str(LAUNCH / 'sweep.py'),
      f'--config={CONFIG}',
      '--workdir=runs',
      '--set',
      'seed=0,1',
    ],
    cwd=workplace,
    env=environment(),
    stdout=subprocess.PIPE,
    text=True,
  )
  end = time.monotonic() + 20
  while not (workplace / 'runs' / 'seed=0' / 'started').exists():
    assert time.monotonic() < end
    time.sleep(0.05)
  process.send_signal(signal.SIGINT)
  out, _ = process.communicate(timeout=30)
  assert process.returncode == 128 + signal.SIGINT
  table = [line.split() for line in out.partition('\n\n')[2].splitlines()]
  assert table == [['run', 'state'], ['seed=0', 'stopped'], ['seed=1', 'not', 'started']]


def test_gpus_are_dealt_out(workplace, monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,5,6,7')
  assert run('--jobs=2', '--gpus_each=2', seeds='0,1') == 0
  seen = [(workplace / 'runs' / f'seed={seed}' / 'gpus').read_text() for seed in (0, 1)]
  assert sorted(seen) == ['4,5', '6,7']


@pytest.mark.parametrize(
  'target, starts',
  [
    ('local', ['python -m echoforge_jax train']),
    ('slurm', ['sbatch --job-name=lr-1 launch/slurm.sbatch']),
    (
      'gcloud',
      [
        'NAME=lr-1 launch/tpu_pod.sh create',
        'NAME=lr-1 launch/tpu_pod.sh install',
        'NAME=lr-1 launch/tpu_pod.sh run',
      ],
    ),
  ],
)
def test_prints_what_a_cluster_is_to_do(target, starts, workplace, capsys):
  flags = [
    f'--config={CONFIG}',
    '--workdir=gs://bucket/lr',
    '--set',
    'data.classes=("lv",),("lv","myo")',
    f'--print={target}',
  ]
  assert sweep.main(flags) == 0
  assert not (workplace / 'runs').exists()
  lines = capsys.readouterr().out.splitlines()
  found = [line for line in lines if not line.startswith('#')]
  # The lines of the second run.
  found = found[len(found) // 2 :]
  assert len(found) == len(starts)
  assert all(line.startswith(start) for line, start in zip(found, starts))
  assert shlex.split(found[-1])[-3:] == [
    f'--config={CONFIG}',
    '--config.data.classes=("lv","myo")',
    '--workdir=gs://bucket/lr/classes=-lv-myo',
  ]
  if target == 'gcloud':
    assert 'delete' in lines[-1]


def test_a_cloud_needs_a_bucket(capsys):
  assert run('--print=gcloud') == 2
  assert 'must be a bucket' in capsys.readouterr().err


def test_scores_of_a_torn_file(tmp_path):
  Path(tmp_path / 'metrics.jsonl').write_text(
    '{"step": 6, "kind": "eval", "dice_teacher": 0.5}\n'
    '{"step": 8, "kind": "train", "loss": 0.1}\n{"step": 12, "ki'
  )
  assert sweep.read_scores(str(tmp_path)) == {'step': 6, 'dice_teacher': 0.5}
  assert sweep.read_scores(str(tmp_path / 'none')) == {}
