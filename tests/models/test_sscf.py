import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.models import build_model, sscf

B, T, SIZE = 2, 4, (64, 96)


def _model(**options):
  options = {'width': 8, 'num_classes': 2, 'backbone': 'resnet10'} | options
  return build_model('sscf', **options)


def _video(frames, seed=0):
  return np.random.default_rng(seed).uniform(size=(B, frames, *SIZE, 1)).astype(np.float32)


@pytest.fixture(scope='module')
def variables(fill):
  variables = fill(_model(), _video(3))
  # Away from the saturation of the attention, where errors would hide.
  return jax.tree_util.tree_map_with_path(
    lambda path, x: (
      np.asarray(x) * np.float32(0.3) if any(k.key.endswith(('query', 'key')) for k in path) else x
    ),
    variables,
  )


@pytest.fixture(scope='module')
def clip_logits(variables):
  return np.asarray(jax.jit(_model(clips=True).apply)(variables, _video(T))['logits'])


@pytest.mark.slow
def test_parameters_are_the_papers():
  model = build_model('sscf')
  video = jax.ShapeDtypeStruct((1, 3, 256, 256, 1), jnp.float32)
  outputs, variables = jax.eval_shape(
    functools.partial(model.init_with_output, jax.random.key(0)), video
  )
  assert sum(x.size for x in jax.tree.leaves(variables['params'])) == 53_700_417
  assert outputs['logits'].shape == (1, 256, 256, 1)
  condition = variables['params']['fusion4']['forward_condition']['kernel']
  assert condition.shape == (3, 3, 512, 512)


@pytest.mark.parametrize('h, w', [(62, 30), (14, 7), (5, 2), (1, 13)])
def test_pyramid_pool_by_hand(h, w):
  x = np.random.default_rng(0).normal(size=(2, h, w, 3)).astype(np.float32)
  wanted = []
  for size in sscf.POOLS:
    for i in range(size):
      for j in range(size):
        rows = slice(int(np.floor(i * h / size)), int(np.ceil((i + 1) * h / size)))
        columns = slice(int(np.floor(j * w / size)), int(np.ceil((j + 1) * w / size)))
        wanted.append(x[:, rows, columns].max((1, 2)))
  got = jax.jit(sscf.pyramid_pool)(x)
  assert got.shape == (2, 84, 3)
  np.testing.assert_array_equal(got, np.stack(wanted, 1))


def test_calibration_convolves_each_sample_with_its_own_kernel():
  rng = np.random.default_rng(1)
  n, c = 3, 5
  neighbour = rng.normal(size=(n, 9, 8, c)).astype(np.float32)
  condition = rng.normal(size=(3, 3, c, c)).astype(np.float32)  # [.., in, k]
  query, key = rng.normal(0, 0.4, (2, n, 84, c)).astype(np.float32)

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  got = sscf.calibrate(query, key, convolve(neighbour, condition))
  for i in range(n):
    attention = 1 / (1 + np.exp(-query[i].T @ key[i]))
    assert attention.std() > 0.1
    kernel = np.einsum('qk,yxik->yxiq', attention, condition)
    wanted = convolve(neighbour[i][None], kernel)[0]
    np.testing.assert_allclose(got[i], wanted, atol=3e-5)


@pytest.mark.slow
def test_a_clip_is_its_windows(variables, clip_logits):
  video = _video(T)
  order = np.clip(np.arange(T)[:, None] + np.arange(-1, 2), 0, T - 1)
  windows = video[:, order].reshape(B * T, 3, *SIZE, 1)
  logits = jax.jit(_model().apply)(variables, windows)['logits']
  assert logits.dtype == jnp.float32 and logits.shape == (B * T, *SIZE, 2)
  np.testing.assert_allclose(logits.reshape(clip_logits.shape), clip_logits, atol=1e-5)
  assert np.std(clip_logits, axis=1).max() > 1e-2


@pytest.mark.slow
def test_streams_lag_one_frame_behind_and_equal_the_clip(variables, clip_logits):
  model = _model()
  assert model.delay == 1 and build_model('echoforge').delay == 0
  track = np.concatenate([_video(T), _video(T)[:, -1:]], axis=1)
  memory = model.init_memory(B, SIZE)
  run = jax.jit(functools.partial(model.apply, method='resume'))
  step = jax.jit(functools.partial(model.apply, method='step'))
  parts = []
  for start, end in ((0, 2), (2, 3), (3, 5)):
    if end - start == 1:
      outputs, memory = step(variables, track[:, start], memory)
      parts.append(outputs['logits'][:, None])
    else:
      outputs, memory = run(variables, track[:, start:end], memory)
      parts.append(outputs['logits'])
  np.testing.assert_allclose(np.concatenate(parts, axis=1)[:, 1:], clip_logits, atol=1e-5)
  np.testing.assert_array_equal(memory.frames, track[:, -2:])


@pytest.mark.slow
def test_training_reaches_every_parameter_and_statistic(variables, monkeypatch):
  # Compiling the gradient of all windows takes most of a minute.
  few = functools.partial(sscf.pyramid_pool, sizes=(1, 2))
  monkeypatch.setattr(sscf, 'pyramid_pool', few)

  def loss(params):
    outputs, updates = _model(clips=True).apply(
      variables | {'params': params}, _video(2)[:1, :, :, :64], train=True, mutable=['batch_stats']
    )
    return (outputs['logits'] ** 2).mean(), updates['batch_stats']

  grads, stats = jax.jit(jax.grad(loss, has_aux=True))(variables['params'])
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    where = jax.tree_util.keystr(path)
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, where
  for old, new in zip(
    jax.tree.leaves(variables['batch_stats']), jax.tree.leaves(stats), strict=True
  ):
    assert (old != new).any()


@pytest.mark.slow
def test_remat_and_group_norm_by_shape(variables):
  def shapes(**options):
    return jax.eval_shape(_model(**options).init, jax.random.key(0), _video(3))

  wanted = jax.tree.map(jnp.shape, variables)
  assert jax.tree.map(jnp.shape, shapes(remat=True)) == wanted
  assert jax.tree.map(jnp.shape, shapes(norm='frozen')) == wanted
  group = jax.tree.map(jnp.shape, shapes(norm='group'))
  assert group == {'params': wanted['params']}


@pytest.mark.slow
def test_bfloat16_is_close(variables, clip_logits):
  rough = jax.jit(_model(clips=True, dtype='bfloat16').apply)(variables, _video(T))['logits']
  assert rough.dtype == jnp.float32 and np.isfinite(rough).all()
  assert np.corrcoef(clip_logits.ravel(), rough.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
  'shape, message',
  [
    ((1, 5, 64, 64, 1), '5 frames, wanted a window of three.*clips=True'),
    ((1, 3, 64, 80, 1), '64x80x1.*multiples of 32'),
    ((1, 3, 32, 32, 1), '32x32x1.*at least 64'),
    ((1, 3, 64, 64, 3), '64x64x3.*one channel'),
  ],
)
def test_videos_that_do_not_fit(shape, message):
  with pytest.raises(InputError, match=message):
    jax.eval_shape(_model().init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
  'options, message',
  [
    ({'anchors': 2}, 'sscf: unknown option anchors; choose.*width'),
    ({'backbone': 'resnet50'}, 'resnet50.*wanted one of resnet10, resnet18'),
    ({'norm': 'layer'}, "norm: found 'layer', wanted one of batch"),
    ({'width': 6}, 'width: found 6'),
    ({'num_classes': 0}, 'num_classes: found 0'),
    ({'dtype': 'half'}, "dtype: found 'half'"),
  ],
)
def test_options_are_checked(options, message):
  with pytest.raises(InputError, match=message):
    _model(**options)
