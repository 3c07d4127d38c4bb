"""Weights from files: where they go, and files that do not fit."""

import json
import pathlib
import types

from flax.traverse_util import flatten_dict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.models import build_model, network_file, weights
from echoforge_jax.training import warm_start
from echoforge_jax.training.state import TrainState
from tests.golden.make_golden import make_weights

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def state_of(model, frames):
  """A state of zeros: nothing is compiled."""
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, frames, 64, 64, 1), np.float32)
  )

  def zeros(name):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(shapes).get(name, {}))

  fields = {name: None for name in TrainState.__dataclass_fields__}
  return TrainState(
    **fields
    | {
      'params': zeros('params'),
      'teacher_params': zeros('params'),
      'batch_stats': zeros('batch_stats'),
      'teacher_batch_stats': zeros('batch_stats'),
    }
  )


@pytest.fixture(scope='module')
def load():
  return types.SimpleNamespace(
    path=lambda model, path, frames=3: warm_start.from_path(
      state_of(model, frames), path, model=model
    )[0]
  )


@pytest.fixture(scope='module')
def resnet18(tmp_path_factory):
  with np.load(GOLDEN / 'resnet18.npz') as arrays:
    state = make_weights(json.loads(arrays['shapes'].item()))
  path = tmp_path_factory.mktemp('weights') / 'resnet18.npz'
  np.savez(path, **state)
  return path, weights.from_torch('resnet18', state)


def small_sscf(path, width=8):
  state = {
    weights.torch_name('sscf', key[1:]): np.full(weights._torch_shape(key, shape), 0.5, np.float32)
    for key, shape in weights._wanted('sscf', width, 1).items()
  }
  np.savez(path, **state)
  return path


def equal(left, right):
  jax.tree.map(np.testing.assert_array_equal, dict(left), dict(right))


@pytest.mark.slow
@pytest.mark.parametrize('norm', ['batch', 'frozen'])
def test_a_residual_network_becomes_the_backbone(load, resnet18, norm):
  path, variables = resnet18
  model = build_model('echoforge', backbone='resnet18', dim=32, norm=norm)
  state = load.path(model, path)
  for prefix in ('', 'teacher_'):
    for part in ('params', 'batch_stats'):
      equal(getattr(state, prefix + part)['backbone'], variables[part])
  assert not any(leaf.any() for leaf in jax.tree.leaves(state.params['neck']))
  mine, other = (
    tree['backbone']['conv1']['kernel'] for tree in (state.params, state.teacher_params)
  )
  assert mine.unsafe_buffer_pointer() != other.unsafe_buffer_pointer()


@pytest.mark.slow
def test_a_resnet18_becomes_all_encoders_of_an_sscf(load, resnet18):
  path, variables = resnet18
  state = load.path(build_model('sscf'), path)
  pointers = set()
  for role in ('previous', 'target', 'next'):
    equal(state.params[f'encoder_{role}'], variables['params'])
    equal(state.batch_stats[f'encoder_{role}'], variables['batch_stats'])
    for tree in (state.params, state.teacher_params):
      pointers.add(tree[f'encoder_{role}']['conv1']['kernel'].unsafe_buffer_pointer())
  assert len(pointers) == 6  # Donated buffers may not be shared.
  assert not any(leaf.any() for leaf in jax.tree.leaves(state.params['fusion1']))


@pytest.mark.slow
def test_a_whole_sscf(load, tmp_path):
  state = load.path(build_model('sscf', width=8), small_sscf(tmp_path / 'sscf.npz'))
  assert {float(x.min()) for x in jax.tree.leaves((state.params, state.teacher_batch_stats))} == {
    0.5
  }


@pytest.mark.slow
def test_files_that_do_not_fit(load, resnet18, tmp_path):
  path, _ = resnet18
  whole = small_sscf(tmp_path / 'sscf.npz')
  for model, file, message in (
    (
      build_model('echoforge', backbone='resnet34'),
      path,
      r'resnet18.npz: these are not the weights of resnet34.*layer1\.2',
    ),
    (build_model('echoforge', backbone='lite'), path, r'the model is EchoForge \(lite\)'),
    (
      build_model('echoforge', backbone='resnet18'),
      whole,
      r'holds a whole SSCF and the model is EchoForge \(resnet18\)',
    ),
    (
      build_model('sscf', width=16),
      whole,
      'does not fit config.model: .*/decoder1/.*width and classes',
    ),
    (
      build_model('echoforge', backbone='resnet18', norm='group'),
      path,
      "batch_stats/backbone/.*norm 'batch' or 'frozen'",
    ),
    (build_model('sscf'), tmp_path / 'none.npz', 'no such file'),
    (build_model('sscf'), tmp_path / 'run', 'wanted the workdir'),
  ):
    with pytest.raises(InputError, match=f'(?s){message}'):
      load.path(model, file)


@pytest.mark.slow
def test_a_network_in_one_file_may_lack_what_only_training_needs(load, tmp_path):
  small = {'backbone': 'lite', 'dim': 16, 'decoder_dim': 8}
  source = state_of(build_model('echoforge', use_cpr=False, **small), 3)
  ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), {'params': source.params})
  config = {'model': {'name': 'echoforge'}, 'data': {'classes': ['lv']}}
  network_file.write(tmp_path / 'a.safetensors', config, ones, 5, 'teacher')
  state = load.path(build_model('echoforge', **small), tmp_path / 'a.safetensors')
  for params in (state.params, state.teacher_params):
    assert not any(leaf.any() for leaf in jax.tree.leaves(params['cpr']))
    rest = {name: tree for name, tree in params.items() if name != 'cpr'}
    equal(rest, ones['params'])
  with pytest.raises(InputError, match='a.safetensors.* does not fit config.model'):
    load.path(build_model('echoforge', **small | {'dim': 32}), tmp_path / 'a.safetensors')
  # Nor is a part that the model is without.
  bare = build_model('echoforge', use_cpr=False, use_arc=False, use_tsf=False, **small)
  state, text = warm_start.from_path(state_of(bare, 2), tmp_path / 'a.safetensors', model=bare)
  assert text.endswith('not taken, since this model is without: arc, tsf')
  kept = {name: ones['params'][name] for name in state.params}
  equal(state.params, kept)


@pytest.mark.slow
@pytest.mark.parametrize('parts', [{}, {'use_arc': False, 'use_tsf': False}])
def test_other_classes_leave_what_depends_on_them_new(tmp_path, parts):
  small = {'backbone': 'lite', 'dim': 16, 'decoder_dim': 8, 'num_queries': 8, 'use_cpr': False}
  one, three = (build_model('echoforge', num_classes=n, **small | parts) for n in (1, 3))
  source = state_of(one, 2)
  ones = jax.tree.map(
    lambda x: np.ones(x.shape, np.float32),
    {'params': source.params, 'batch_stats': source.batch_stats},
  )
  config = {'model': {'name': 'echoforge'}, 'data': {'classes': ['lv']}}
  path = tmp_path / 'a.safetensors'
  network_file.write(path, config, ones, 5, 'teacher')
  classes = ('lv', 'myo', 'la')
  state, text = warm_start.from_path(state_of(three, 2), path, model=three, classes=classes)
  fresh = {'decoder/logits/bias', 'decoder/logits/kernel', 'decoder/fine/kernel'}
  found = {'/'.join(path): float(leaf.mean()) for path, leaf in flatten_dict(state.params).items()}
  new = {path for path, mean in found.items() if mean == 0}
  assert fresh <= new and set(found.values()) == {0.0, 1.0}
  equal(state.params, state.teacher_params)
  assert all(leaf.min() == 1 for leaf in jax.tree.leaves(state.batch_stats))
  # The line names exactly what stayed new.
  assert set(text.rpartition('are ')[2].split(', ')) == new and 'lv, wanted lv, myo, la' in text
  # Classes are compared by name, not by number; equal names are taken as a whole.
  for names in (('myo',), ('lv',)):
    state, text = warm_start.from_path(state_of(one, 2), path, model=one, classes=names)
    stayed = {p for p, leaf in flatten_dict(state.params).items() if not leaf.any()}
    assert {'/'.join(p) for p in stayed} == (new if names == ('myo',) else set())
    assert ('not taken' in text) == bool(stayed)
  # Without the names a difference is an error, as is any other difference.
  with pytest.raises(InputError, match='does not fit config.model: .*decoder/fine'):
    warm_start.from_path(state_of(three, 2), path, model=three)
  wide = build_model('echoforge', num_classes=3, **small | parts | {'dim': 32})
  with pytest.raises(InputError, match='does not fit config.model: .*shape'):
    warm_start.from_path(state_of(wide, 2), path, model=wide, classes=classes)
