"""`train` from prepared records to a checkpoint, and every misuse."""

import json
from pathlib import Path
import sys

import jax
import numpy as np
import pytest

from echoforge_jax.__main__ import main
from echoforge_jax.training import build, checkpoint
from tests.configs import load_config

CONFIGS = Path(__file__).parents[2] / 'configs'
SIZE = 32


@pytest.fixture(scope='module')
def train(disc_data_dir):
  def train(workdir, *flags, config='tiny.py'):
    return main(
      [
        'train',
        f'--config={CONFIGS / config}',
        f'--workdir={workdir}',
        f'--config.data.data_dir={disc_data_dir}',
        *flags,
      ]
    )

  return train


@pytest.mark.slow
def test_trains_validates_resumes_and_restores(train, tmp_path, capsys):
  flags = (
    '--config.num_steps=4',
    '--config.optimizer.learning_rate=3e-3',
    '--config.semi.flame_rise.start=0.0',
    '--config.eval.every=4',
  )
  assert train(tmp_path, *flags) == 0
  printed = capsys.readouterr().out
  assert 'compiled in' in printed and 'step 4/4 (100%)' in printed
  assert 'dice_teacher' in printed and 'clips/s' in printed
  written = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [line['kind'] for line in written] == ['train', 'train', 'eval']
  assert all(
    np.isfinite(value) for line in written for value in line.values() if not isinstance(value, str)
  )

  assert train(tmp_path, *flags) == 0
  assert 'resumed at step 4' in capsys.readouterr().out
  assert train(tmp_path, '--config.num_steps=5') == 2
  error = capsys.readouterr().err
  assert 'num_steps is 4 there and 5 now' in error and len(error) < 500

  config, variables, step = checkpoint.restore_for_inference(tmp_path)
  assert step == 4 and config.optimizer.learning_rate == 3e-3
  model = build.make_model(config)
  video = np.zeros((1, 4, SIZE, SIZE, 1), np.float32)
  shapes = jax.eval_shape(model.apply, variables, video)
  assert shapes['logits'].shape == (1, 4, SIZE, SIZE, 1)


@pytest.mark.parametrize(
  'flags, words',
  [
    (('--config.batchsize=8',), ('batchsize',)),
    (('--config.batch_size=many',), ('batch_size', 'many')),
    (('--learning_rate=1',), ('unknown flag --learning_rate', '--config.FIE')),
    (('extra',), ("unexpected argument 'extra'",)),
    (
      ('--config.batch_size=3', '--config.num_devices=2'),
      ('3 clips', '2 devices', 'num_devices to 1'),
    ),
    (('--config.num_steps=-1',), ('config.num_steps is -1',)),
    (('--config.num_steps=0', '--config.num_epochs=0'), ('config.num_epochs is 0',)),
    (('--config.dtype=float16',), ("'float16'", 'float32, bfloat16')),
    (('--config.model.name=unet',), ('unet', 'echoforge')),
    (('--config.model.backbone=vgg',), ('vgg', 'resnet50')),
    (('--config.optimizer.name=sgd',), ("'sgd'", 'adamw')),
    (('--config.optimizer.warmup_steps=12',), ('optimizer.warmup_steps is 12', 'num_steps is 12')),
    (('--config.optimizer.clip_norm=-1.0',), ('clip_norm is -1.0',)),
    (('--config.model.dropout=1.0',), ('model.dropout is 1.0', '[0, 1)')),
    (('--config.model.memory_frames=-1',), ('memory_frames is -1',)),
    (('--config.eval.batch_size=0',), ('eval.batch_size is 0', 'least 1')),
    (('--config.eval.best_metric=dice',), ("'dice'", 'dice_teacher')),
    (('--config.batch_size=99', '--config.eval.every=0'), ('8 labeled clips', 'at least 99')),
    (('--config.model.use_cpr=false',), ('use_cpr', 'to none and to 0')),
    (('--config.data.labeled_patients=2',), ('labeled_patients is 2', 'unlabeled_batch_size to 4')),
    (('--config.data.label_fraction=0.5',), ("'echoforge'", 'FILE:tsf_arc')),
    (
      ('--config.data.labeled_patients=2', '--config.data.label_fraction=0.5'),
      ('labeled_patients 2 and label_fraction 0.5', 'leave'),
    ),
    (
      ('--config.data.labeled_patients=9', '--config.unlabeled_batch_size=2'),
      ('labels of 4 patients, labeled_patients is 9',),
    ),
    (('--config.semi.flame_rise.end=2',), ('semi.flame_rise', '<= 1')),
    (('--config.data.data_dir=/nowhere',), ('/nowhere', 'prepare')),
    (('--config.data.image_size=64',), ('64', 'prepare')),
    (('--config.data.classes=("lv","aorta")',), ('aorta',)),
    (('--config.data.augmentation.scale=7',), ('augmentation.scale', '7')),
  ],
)
def test_misuse_is_one_clear_line(train, tmp_path, capsys, flags, words):
  assert train(tmp_path / 'run', *flags) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1
  for word in words:
    assert word in error
  assert not (tmp_path / 'run').exists()


def test_patients_who_are_not_used_are_said(disc_data_dir):
  def said(**fields):
    changed = load_config('tiny', 'tsf_arc').copy_and_resolve_references()
    with changed.unlocked():
      changed.data.data_dir = str(disc_data_dir)
      changed.unlabeled_batch_size = fields.pop('unlabeled', 0)
      changed.data.update(fields)
    build.check(changed)
    return build.describe_labels(changed)

  assert said() == said(num_frames=2) == ''
  text = said(labeled_patients=1)
  assert text.startswith('WARNING: labels of 1 patients (2 clips); the other 3 patients (6 clips)')
  assert 'NOT USED' in text and said(label_fraction=0.25) == text
  assert said(labeled_patients=1, unlabeled=2).endswith(
    '3 others are seen without labels (6 clips)'
  )


def test_repeated_frames_are_said(disc_data_dir):
  def said(num_frames):
    changed = load_config('tiny', 'tsf_arc').copy_and_resolve_references()
    with changed.unlocked():
      changed.data.update(data_dir=str(disc_data_dir), num_frames=num_frames)
    return build.describe_frames(changed)

  assert said(6) == ''
  assert said(7).endswith(
    'hold 6 frames at most, and config.data.num_frames=7 repeats them: set it to 6'
  )
  stills = load_config('tiny', 'fixmatch', data={'num_frames': 2})
  assert "'fixmatch' has no unlabeled one" in build.describe_labels(stills)


@pytest.mark.parametrize(
  'config, words',
  [
    ('absent.py', ('absent.py', 'no file')),
    ('../pyproject.toml', ('pyproject.toml', 'not a Python file')),
    ('tiny.py:most', ('error: config argument', "'most'", 'baseline, tsf, tsf_arc, all')),
  ],
)
def test_a_config_that_is_not_there(train, tmp_path, capsys, config, words):
  assert train(tmp_path, config=config) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  for word in words:
    assert word in error


def test_a_config_file_without_a_config(tmp_path, capsys, monkeypatch):
  # The flag's parser keeps the last config of a process under this name.
  monkeypatch.delitem(sys.modules, 'config_config', raising=False)
  (tmp_path / 'empty.py').write_text('x = 1\n')
  assert main(['train', f'--config={tmp_path / "empty.py"}', f'--workdir={tmp_path / "run"}']) == 2
  error = capsys.readouterr().err
  assert 'empty.py: no get_config()' in error and error.count('\n') == 1


def test_config_and_workdir_are_needed(capsys, tmp_path):
  assert main(['train', f'--workdir={tmp_path}']) == 2
  assert '--config=FILE is missing' in capsys.readouterr().err
  with pytest.raises(SystemExit) as stop:
    main(['train', f'--config={CONFIGS / "tiny.py"}'])
  assert stop.value.code == 2
  assert '--workdir' in capsys.readouterr().err


def test_a_workdir_that_cannot_be_written(train, tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  assert train(tmp_path / 'file' / 'run') == 2
  assert 'cannot be written' in capsys.readouterr().err


def test_help_says_how(capsys):
  with pytest.raises(SystemExit) as stop:
    main(['train', '--help'])
  assert stop.value.code == 0
  assert '--config.optimizer.learning_rate=3e-4' in capsys.readouterr().out
