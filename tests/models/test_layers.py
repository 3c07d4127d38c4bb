import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.models import attention, layers


@pytest.mark.slow
def test_group_norm_equals_the_textbook_form(fill):
  x = jax.random.normal(jax.random.key(0), (2, 4, 6, 32)) * 3.0 + 5.0
  module = layers.GroupNorm()
  variables = fill(module, x)
  reference = nn.GroupNorm(num_groups=None, group_size=16, epsilon=1e-5)
  np.testing.assert_allclose(module.apply(variables, x), reference.apply(variables, x), atol=2e-5)


@pytest.mark.slow
def test_group_norm_of_a_constant_map_is_finite(fill):
  x = jnp.zeros((1, 4, 4, 16))
  module = layers.GroupNorm()
  variables = fill(module, x)
  gradient = jax.grad(lambda x: module.apply(variables, x).sum())(x)
  assert np.isfinite(gradient).all()


def test_unknown_norm_lists_the_choices():
  with pytest.raises(InputError, match='layer.*batch, frozen, group'):
    layers.make_norm('layer', train=False, dtype=jnp.float32, name='n')


def test_batch_norm_updates_statistics_and_frozen_does_not():
  x = jax.random.normal(jax.random.key(0), (4, 2, 2, 8)) + 3.0

  def run(kind, train):
    module = layers.make_norm(kind, train=train, dtype=jnp.float32, name=None)
    variables = module.init(jax.random.key(1), x)
    _, changed = module.apply(variables, x, mutable=['batch_stats'])
    return np.abs(changed['batch_stats']['mean']).max()

  assert run('batch', True) > 0.1
  assert run('batch', False) == 0
  assert run('frozen', True) == 0


@pytest.mark.slow
@pytest.mark.parametrize('stride', (1, 2))
@pytest.mark.parametrize('use_bias', (False, True))
def test_pointwise_convolution_is_a_convolution(fill, stride, use_bias):
  x = jax.random.normal(jax.random.key(0), (2, 6, 4, 5))
  plain = nn.Conv(3, (1, 1), (stride, stride), use_bias=use_bias)
  module = layers.PointwiseConv(3, stride, use_bias=use_bias)
  variables = fill(plain, x)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
    jnp.shape, module.init(jax.random.key(1), x)
  )

  def run(module):
    def loss(variables, x):
      y = module.apply(variables, x)
      return (y**2).sum(), y

    (_, y), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables, x)
    return y, grads

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), run(module), run(plain))
  half = layers.PointwiseConv(3, stride, dtype=jnp.bfloat16)
  assert half.init_with_output(jax.random.key(0), x)[0].dtype == jnp.bfloat16


def test_no_product_of_a_strided_slice():
  # XLA's GPU compiler aborts on one (openxla/xla#47381).
  module = layers.PointwiseConv(3, 2)
  x = jnp.ones((1, 4, 4, 2))
  text = jax.jit(module.apply).lower(module.init(jax.random.key(0), x), x).as_text()
  strided = re.compile(r'stablehlo\.slice .*\d+:\d+:[2-9]')
  assert not strided.search(text)
  assert strided.search(jax.jit(lambda x: x[:, ::2]).lower(x).as_text())


@pytest.mark.slow
def test_max_pool_is_the_usual_one():
  x = jax.random.normal(jax.random.key(0), (2, 8, 6, 3))

  def run(pool):
    return jax.value_and_grad(lambda x: (pool(x) ** 2).sum())(x)

  def usual(x):
    return nn.max_pool(x, (3, 3), (2, 2), [(1, 1)] * 2)

  np.testing.assert_array_equal(layers.max_pool(x), usual(x))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), run(layers.max_pool), run(usual)
  )


@pytest.mark.slow
def test_upsampling_is_bilinear():
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
  np.testing.assert_allclose(
    layers.upsample2(x), jax.image.resize(x, (2, 6, 10, 4), 'linear'), atol=1e-6
  )
  np.testing.assert_allclose(
    layers.upsample_logits(x, 4), jax.image.resize(x, (2, 12, 20, 4), 'linear'), atol=1e-6
  )


def _plain_attention(params, queries, keys, bias):
  """Multi-head attention in its usual order, in float64."""
  wq, wk, wv, wo = (np.asarray(params[k], np.float64) for k in ('query', 'key', 'value', 'out'))
  out = 0.0
  for h in range(wq.shape[1]):
    logits = (queries @ wq[:, h]) @ np.swapaxes(keys @ wk[:, h], 1, 2)
    logits = logits / np.sqrt(wq.shape[2]) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = out + weights @ (keys @ wv[:, h]) @ wo[h]
  return out


@pytest.mark.parametrize('few', ['queries', 'keys'])
def test_reordered_attention_equals_plain_attention(fill, few):
  rng = np.random.default_rng(0)
  queries = rng.standard_normal((2, 5, 16))
  keys = rng.standard_normal((2, 7, 16))
  bias = np.where(rng.random((2, 1, 7)) < 0.3, attention.MASKED, 0.0)
  module = attention.CrossAttention(heads=4, few=few)
  arguments = [jnp.asarray(a, jnp.float32) for a in (queries, keys, bias)]
  variables = fill(module, *arguments)
  np.testing.assert_allclose(
    module.apply(variables, *arguments),
    _plain_attention(variables['params'], queries, keys, bias),
    atol=1e-5,
  )
