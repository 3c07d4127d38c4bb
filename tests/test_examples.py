"""Runs the documented commands with the dataset, objective and backbone of examples/."""

import json

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.__main__ import main
from echoforge_jax.config import parse_config
from echoforge_jax.data.prepared import load_split
from echoforge_jax.errors import InputError
from echoforge_jax.models import build_model
from echoforge_jax.training import build, objectives
from tests.phantom import ellipses

DATASET, OBJECTIVE, BACKBONE = (
  f'examples.own_{name}' for name in ('dataset:Reader', 'objective:smooth', 'backbone:Plain')
)
SPLITS = {'a': 'train', 'b': 'train', 'c': 'validation', 'd': 'test'}


class NoModule:
  """Is no module of Flax."""


class NoStrides(nn.Module):
  """Gives four maps of the same size."""

  def __call__(self, x, train):
    """Returns the frames themselves."""
    return (x,) * 4


def no_objective(*, weight):
  """Returns its argument."""
  return weight


@pytest.fixture
def raw(tmp_path):
  """The layout that examples/own_dataset.py reads."""
  (tmp_path / 'raw').mkdir()
  rows = [f'{patient},{split}\n' for patient, split in SPLITS.items()]
  (tmp_path / 'raw/splits.csv').write_text('patient,split\n' + ''.join(rows))
  for number, patient in enumerate(SPLITS):
    clip = ellipses.generate(0, number).clips['4CH']
    arrays = {name: getattr(clip, name) for name in ('frames', 'masks', 'spacing_mm')}
    np.savez(tmp_path / f'raw/{patient}.npz', **arrays)
  return tmp_path / 'raw'


def prepare(raw):
  flags = [f'--dataset={DATASET}', f'--raw={raw}']
  data = raw.parent / 'data'
  assert main(['verify', *flags]) == 0
  assert main(['prepare', *flags, f'--data_dir={data}', '--image_size=32']) == 0
  return data


def test_dataset(raw, capsys):
  data = prepare(raw)
  assert '4 patients verified: 0 errors, 0 warnings' in capsys.readouterr().out
  source = load_split(data, DATASET, 'train')
  assert [clip['patient'] for clip in source.clips] == ['a', 'b']
  assert source[0]['labeled'].all() and source[0]['masks'].max() == 3
  (raw / 'b.npz').unlink()
  assert main(['verify', f'--dataset={DATASET}', f'--raw={raw}']) == 1
  out = capsys.readouterr().out
  assert 'clip-unreadable (1)' in out and f'{raw / "b.npz"}: no such file' in out


def config_of(*flags):
  return parse_config(['--config=tiny', *(f'--config.{flag}' for flag in flags)])


def test_objective_takes_its_settings_from_flags_config_and_defaults():
  flags = (f'objective.name={OBJECTIVE}', 'objective.bend_weight=2')
  config = config_of(*flags)
  assert config.is_locked and config.objective.to_dict() == {
    'name': OBJECTIVE,
    'supervised_weight': 1.0,
    'bend_weight': 2.0,
  }
  config = config_of(flags[0], 'objective.supervised_weight=0.5')
  assert config.objective.supervised_weight == 0.5 and config.objective.bend_weight == 1.0
  assert isinstance(build.make_objective(config), objectives.Objective)


@pytest.mark.parametrize(
  'flags, words',
  [
    ((f'name={OBJECTIVE}', 'bent=1'), 'bent is no setting of .*supervised_weight, bend_weight'),
    ((f'name={OBJECTIVE}', 'bend_weight=much'), 'bend_weight=much: wanted a value of type float'),
    (('name=examples.own_objective:rough',), "has no 'rough'; it has bend, smooth"),
    (('name=examples.none:smooth',), "no module 'examples.none'"),
    ((f'name={__name__}:no_objective',), 'weight is missing'),
    ((f'name={__name__}:no_objective', 'weight=1'), 'returns a int, wanted an Objective'),
    ((f'name={__name__}:SPLITS',), 'is of type dict, wanted a class or a function'),
  ],
)
def test_objective_faults_are_one_line(flags, words):
  with pytest.raises(InputError, match=words) as caught:
    build.make_objective(config_of(*(f'objective.{flag}' for flag in flags)))
  assert '\n' not in str(caught.value)


def test_backbone():
  config = config_of(f'model.backbone={BACKBONE}', 'dtype=bfloat16')
  model = build.make_model(config)
  video = jax.ShapeDtypeStruct((1, 2, 32, 64, 1), jnp.float32)
  outputs, variables = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, False), video
  )
  assert outputs['logits'].shape == (1, 2, 32, 64, 1)
  assert outputs['features'].dtype == jnp.bfloat16
  assert 'conv4' in variables['params']['backbone']


@pytest.mark.parametrize(
  'name, words',
  [
    (f'{__name__}:NoModule', 'is no class of flax.linen.Module'),
    ('flax.linen:GroupNorm', r'cannot be called as \(frames, train\): too many'),
    (f'{__name__}:NoStrides', r'gives maps of .*wanted \[N, H, W\] of \[\(1, 8, 8\)'),
    ('examples.own_backbone:Plane', "has no 'Plane'; it has Plain"),
  ],
)
def test_backbone_faults_are_one_line(name, words):
  video = jax.ShapeDtypeStruct((1, 1, 32, 32, 1), jnp.float32)
  with pytest.raises(InputError, match=words) as caught:
    model = build_model('echoforge', backbone=name, dim=16)
    jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, False), video)
  assert '\n' not in str(caught.value)


@pytest.mark.slow
def test_training_takes_all_three(raw, tmp_path):
  data = prepare(raw)
  flags = {
    'data.dataset': DATASET,
    'data.data_dir': data,
    'objective.name': OBJECTIVE,
    'model.backbone': BACKBONE,
    'num_steps': 3,
    'batch_size': 1,
    'log_every': 1,
    'eval.every': 0,
  }
  fields = [f'--config.{name}={value}' for name, value in flags.items()]
  assert main(['train', '--config=tiny:baseline', f'--workdir={tmp_path / "run"}', *fields]) == 0
  lines = (tmp_path / 'run/metrics.jsonl').read_text().splitlines()
  assert any('bend' in json.dumps(json.loads(line)) for line in lines)
