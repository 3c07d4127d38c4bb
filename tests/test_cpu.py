"""Inference on CPUs gives what the plain program gives."""

from collections import Counter

from flax import errors
from flax import linen as nn
import jax
from jax.extend.core import jaxprs_in_params
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax import cpu as cpu_inference
from echoforge_jax import cpu_compiler
from echoforge_jax.evaluation import predict
from echoforge_jax.inference import segmenter
from echoforge_jax.models import build_model
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.planning import collectives
from echoforge_jax.training import steps, validation

pytestmark = pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='it is for CPUs'
)


def plain(x, kernel, padding):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    [(padding, padding)] * 2,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@pytest.mark.parametrize('padding', [0, 1])
@pytest.mark.parametrize('shape', [(2, 8, 12), (1, 3, 5), (3, 13, 7)])
def test_winograd_is_a_convolution(shape, padding):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((*shape, 5))
  kernel = rng.standard_normal((3, 3, 5, 6))
  with jax.enable_x64(True):
    wanted = np.asarray(plain(x, kernel, padding))
    np.testing.assert_allclose(
      cpu_inference.winograd(jnp.asarray(x), jnp.asarray(kernel), padding),
      wanted,
      atol=1e-12,
    )
  found = cpu_inference.winograd(
    jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), padding
  )
  assert found.dtype == jnp.float32 and found.shape == wanted.shape
  assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def heights(function, *arguments):
  """Of the kernels that a program convolves with, and how many."""
  found = []

  def visit(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name == 'conv_general_dilated':
        found.append(equation.invars[1].aval.shape[0])
      for inner in jaxprs_in_params(equation.params):
        visit(inner)

  visit(function.trace(*arguments).jaxpr.jaxpr)
  return Counter(found)


SIDE, CHANNELS = 32, 64


@pytest.mark.parametrize(
  'options, side, direct',
  [
    ({}, SIDE, False),
    ({'padding': 'VALID', 'use_bias': False}, SIDE + 2, False),
    ({'padding': 1}, SIDE, False),
    ({'padding': [(1, 1), (1, 1)]}, SIDE, False),
    ({'strides': 1}, SIDE, False),
    ({}, SIDE - 1, True),  # Too few pixels.
    ({'features': CHANNELS - 1}, SIDE, True),
    ({'strides': (2, 2)}, 2 * SIDE, True),
    ({'padding': 2}, SIDE, True),
    ({'padding': 'CIRCULAR'}, SIDE, True),
    ({'kernel_dilation': 2}, SIDE, True),
    ({'feature_group_count': 2}, SIDE, True),
    ({'kernel_size': (5, 5)}, SIDE, True),
    ({'dtype': jnp.bfloat16}, SIDE, True),
  ],
)
def test_only_what_gains_and_always_the_same(options, side, direct):
  conv = nn.Conv(**{'features': CHANNELS, 'kernel_size': (3, 3)} | options)
  x = np.random.default_rng(1).standard_normal(
    (1, side, side, CHANNELS), np.float32
  )
  variables = conv.init(jax.random.key(0), x)
  variables = jax.tree.map(lambda leaf: leaf + 0.01, variables)
  fast = cpu_inference.jit(conv.apply)
  assert heights(fast, variables, x) == (
    {conv.kernel_size[0]: 1} if direct else {1: 6}
  )
  wanted = conv.apply(variables, x)
  found = fast(variables, x)
  assert found.dtype == wanted.dtype
  np.testing.assert_allclose(
    np.float32(found),
    np.float32(wanted),
    atol=(1e-2 if conv.dtype == jnp.bfloat16 else 1e-5)
    * float(np.abs(wanted).max()),
  )


@pytest.mark.parametrize(
  'name, frames, options',
  [('sscf', 3, {'remat': True}), ('echoforge', 8, {'backbone': 'resnet18'})],
)
def test_models_give_the_same(name, frames, options):
  model = build_model(name, **options)
  video = np.random.default_rng(0).random((1, frames, 64, 64, 1), np.float32)
  rng = np.random.default_rng(1)
  variables = jax.tree.map(
    lambda x: (
      rng.standard_normal(x.shape, np.float32)
      / np.float32(np.sqrt(np.prod(x.shape[:-1])))
      if len(x.shape) > 1
      else np.ones(x.shape, x.dtype)
    ),
    jax.eval_shape(
      lambda key: model.init(key, video, train=False), jax.random.key(0)
    ),
  )

  def logits(variables, video):
    return model.apply(variables, video, train=False)['logits']

  fast = cpu_inference.jit(logits)
  plainly = jax.jit(logits)
  direct, found = (heights(one, variables, video) for one in (plainly, fast))
  assert 0 < found[3] < direct[3]
  assert found[1] - direct[1] == 6 * (direct[3] - found[3])
  wanted = plainly(variables, video)
  np.testing.assert_allclose(
    fast(variables, video), wanted, atol=2e-5 * float(np.abs(wanted).max())
  )
  # Outside, and afterwards, nothing is different.
  assert (
    heights(jax.jit(lambda *given: logits(*given)), variables, video) == direct
  )


@pytest.mark.parametrize(
  'name, shape',
  [
    ('kernel', (5, 3, CHANNELS, CHANNELS)),
    ('kernel', (1, 1, CHANNELS, 64)),
    ('kernel', (3, 3, CHANNELS, CHANNELS + 1)),
    ('bias', (1,)),
    ('bias', None),
  ],
)
def test_weights_of_another_model_are_flaxs_error(name, shape):
  conv = nn.Conv(CHANNELS, (3, 3))
  x = jnp.zeros((1, SIDE, SIDE, CHANNELS))
  params = dict(conv.init(jax.random.key(0), x)['params'])
  params[name] = None if shape is None else jnp.zeros(shape)
  if shape is None:
    del params[name]
  fast = cpu_inference.jit(
    lambda params, x: conv.apply({'params': params}, inputs=x)
  )
  with pytest.raises(errors.FlaxError):
    fast.eval_shape(params, x)


def test_a_batch_on_two_devices():
  mesh = mesh_lib.make_mesh(2)
  conv = nn.Conv(CHANNELS, (3, 3))
  x = np.random.default_rng(2).standard_normal(
    (2, SIDE, SIDE, CHANNELS), np.float32
  )
  variables = conv.init(jax.random.key(0), x)
  split = jax.device_put(x, mesh_lib.batch_sharding(mesh))
  fast = cpu_inference.jit(conv.apply)
  assert heights(fast, variables, split) == {1: 6}
  text = fast.lower(variables, split).compile().as_text()
  assert not collectives.find_collectives(text)
  found = fast(variables, split)
  assert found.sharding.is_equivalent_to(split.sharding, found.ndim)
  np.testing.assert_allclose(found, conv.apply(variables, x), atol=1e-5)


def test_inference_and_training_are_compiled_for_their_use(monkeypatch):
  used = []
  monkeypatch.setattr(
    cpu_compiler,
    'known',
    lambda options, platform: used.append((options, platform)),
  )
  model = nn.Conv(1, (3, 3))
  predict.make_predictor(model)
  predict.WholeClips(model, {}, [])
  mesh = mesh_lib.make_mesh(1)
  validation.Validator(lambda state, batch: {}, [], ('lv',), mesh)
  segmenter.jit_frame_step.__wrapped__()
  assert used == 4 * [(cpu_compiler.INFERENCE, 'cpu')]
  used.clear()
  for devices in (1, 2):
    steps.jit_train_step(
      lambda state, batch: state,
      None,
      mesh_lib.batch_sharding(mesh_lib.make_mesh(devices)),
    )
  assert used == [(cpu_compiler.TRAINING, 'cpu')]


def test_segmenters_convolve_so():
  model = build_model('echoforge', backbone='resnet18')
  memory = model.init_memory(1, (128, 128))
  variables = jax.eval_shape(
    lambda key: model.init(key, jnp.zeros((1, 1, 128, 128, 1)), train=False),
    jax.random.key(0),
  )
  frame = jax.ShapeDtypeStruct((128, 128), np.uint8)
  assert (
    heights(segmenter.jit_frame_step(), model, variables, frame, memory)[1] >= 6
  )


def test_accelerators_get_the_plain_program(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  conv = nn.Conv(CHANNELS, (3, 3))
  x = np.zeros((1, SIDE, SIDE, CHANNELS), np.float32)
  variables = conv.init(jax.random.key(0), x)
  assert heights(cpu_inference.jit(conv.apply), variables, x) == {3: 1}
