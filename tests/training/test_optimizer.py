"""The optimizer against numpy by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from echoforge_jax.errors import InputError
from echoforge_jax.training import optimizer

PARAMS = {
  'conv': {'kernel': jnp.full((2, 2), 2.0), 'bias': jnp.ones((2,))},
  'norm': {'scale': jnp.ones((2,))},
}


def update(grads, **options):
  tx, _ = optimizer.make_optimizer(learning_rate=0.1, num_steps=10, **options)
  return tx.update(grads, tx.init(PARAMS), PARAMS)[0]


@pytest.mark.slow
def test_weight_decay_spares_vectors():
  assert optimizer.decay_mask(PARAMS) == {
    'conv': {'kernel': True, 'bias': False},
    'norm': {'scale': False},
  }
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  updates = update(zeros, name='adamw', weight_decay=0.5)
  np.testing.assert_allclose(updates['conv']['kernel'], -0.1 * 0.5 * 2.0, rtol=1e-6)
  assert not updates['conv']['bias'].any()
  assert not updates['norm']['scale'].any()


def test_first_adam_update_is_the_learning_rate():
  grads = jax.tree.map(lambda x: 3.0 * jnp.ones_like(x), PARAMS)
  for leaf in jax.tree.leaves(update(grads, name='adam')):
    np.testing.assert_allclose(leaf, -0.1, rtol=1e-5)


def test_clipping_limits_the_global_norm():
  tx, _ = optimizer.make_optimizer(name='adam', learning_rate=0.1, num_steps=10, clip_norm=1.0)
  grads = jax.tree.map(lambda x: 100.0 * jnp.ones_like(x), PARAMS)
  _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
  moments = optax.tree_utils.tree_get(state, 'mu')
  np.testing.assert_allclose(optax.global_norm(moments), 0.1, rtol=1e-5)


@pytest.mark.parametrize(
  'options, text',
  [
    ({'name': 'sgd'}, "'sgd'; choose one of adam, adamw"),
    ({'name': 'adam', 'weight_decay': 0.1}, 'adam has none'),
  ],
)
def test_refuses(options, text):
  with pytest.raises(InputError, match=text):
    optimizer.make_optimizer(learning_rate=0.1, num_steps=10, **options)
