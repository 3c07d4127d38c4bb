"""Parity with PyTorch by stored outputs, see tests/golden/make_golden.py."""

import json
import pathlib

import jax
import numpy as np
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.models import backbone, build_model, weights
from tests.golden.make_golden import make_weights

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def golden(name):
  with np.load(GOLDEN / f'{name}.npz') as arrays:
    arrays = dict(arrays)
  return json.loads(arrays.pop('shapes').item()), arrays


def state_of(name):
  return make_weights(golden(name)[0])


@pytest.fixture(scope='module')
def resnet18():
  return state_of('resnet18')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['resnet18', 'resnet34', 'resnet50'])
def test_residual_networks_equal_torchs(name):
  shapes, arrays = golden(name)
  state = make_weights(shapes)
  # What torchvision's files hold besides.
  state |= {
    'fc.weight': np.ones((1000, 8)),
    'fc.bias': np.ones(1000),
    'bn1.num_batches_tracked': np.array(3),
  }
  variables = weights.from_torch(name, state)
  assert set(variables) == {'params', 'batch_stats'}
  maps = jax.jit(backbone.ResNet(name).apply, static_argnums=2)(
    variables, arrays['x'].transpose(0, 2, 3, 1), False
  )
  for i, found in enumerate(maps):
    wanted = arrays[f'y{i}'].transpose(0, 2, 3, 1)
    assert wanted.std() > 0.2
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_sscf_equals_the_published_modules_output():
  """Its own width; sides whose maps divide by none of the pools."""
  shapes, arrays = golden('sscf')
  variables = weights.from_torch('sscf', make_weights(shapes))
  video = arrays['x'].transpose(0, 2, 3, 4, 1)
  run = jax.jit(build_model('sscf').apply)
  logits = np.asarray(run(variables, video)['logits'])
  wanted = arrays['y0'].transpose(0, 2, 3, 1)
  assert wanted.std() > 0.3
  np.testing.assert_allclose(logits, wanted, atol=1e-4, rtol=0)
  swapped = run(variables, video[:, ::-1])['logits']
  assert np.abs(swapped - wanted).max() > 1e-2
  assert sum(x.size for x in jax.tree.leaves(variables['params'])) == 53_700_417


def test_data_parallel_prefix(resnet18):
  plain = weights.from_torch('resnet18', resnet18)
  wrapped = weights.from_torch('resnet18', {f'module.{k}': v for k, v in resnet18.items()})
  jax.tree.map(np.testing.assert_array_equal, plain, wrapped)


def test_gray_stems_pass_as_they_are(resnet18):
  summed = resnet18['conv1.weight'].sum(1, keepdims=True)
  gray = weights.from_torch('resnet18', resnet18 | {'conv1.weight': summed})
  np.testing.assert_array_equal(
    gray['params']['conv1']['kernel'],
    weights.from_torch('resnet18', resnet18)['params']['conv1']['kernel'],
  )


@pytest.mark.slow
def test_sscf_takes_width_and_classes_from_the_arrays():
  wanted = weights._wanted('sscf', 8, 3)
  state = {
    weights.torch_name('sscf', path[1:]): np.ones(weights._torch_shape(path, shape), np.float64)
    for path, shape in wanted.items()
  }
  assert state['STFT.stages.1.backward_calibration.condition'].shape == (16, 16, 3, 3)
  assert state['decoder4.deconv2.weight'].shape == (16, 16, 3, 3)
  variables = weights.from_torch('sscf', state)
  leaves = jax.tree.leaves(variables)
  assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
  shapes = jax.eval_shape(
    build_model('sscf', width=8, num_classes=3).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 3, 64, 64, 1), np.float32),
  )
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)


def test_every_mismatch_is_listed(resnet18):
  state = dict(resnet18)
  del state['bn1.running_var']
  state['layer1.0.conv1.weight'] = np.zeros((64, 32, 3, 3))
  state['layer2.0.downsample.0.weight'] = np.zeros(5)
  state['layer9.extra'] = np.zeros((2, 3))
  with pytest.raises(InputError) as error:
    weights.from_torch('resnet18', state)
  text = str(error.value)
  assert 'not the weights of resnet18; 4 of' in text
  for line in (
    'bn1.running_var: wanted (64,), found nothing',
    'layer1.0.conv1.weight: wanted (64, 64, 3, 3), found (64, 32, 3, 3)',
    'layer2.0.downsample.0.weight: wanted (128, 64, 1, 1), found (5,)',
    'layer9.extra: wanted nothing, found (2, 3)',
  ):
    assert line in text
  assert text.count('\n') == 4


@pytest.mark.slow
def test_another_network_or_name(resnet18):
  with pytest.raises(InputError, match=r'layer1.2.conv1.weight: wanted'):
    weights.from_torch('resnet34', resnet18)
  with pytest.raises(InputError, match='not the weights of sscf'):
    weights.from_torch('sscf', {})
  with pytest.raises(InputError, match="'vgg', wanted one of resnet18.*sscf"):
    weights.from_torch('vgg', resnet18)
