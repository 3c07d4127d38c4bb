"""Variables of the models, without compiling `init`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def _leaf(rng, path, shape):
  name = path[-1].key
  noise = rng.standard_normal(shape)
  if name in ('scale', 'var', 'gain'):
    return 1.0 + 0.1 * np.abs(noise)
  if name in ('bias', 'mean', 'background'):
    return 0.1 * noise
  if name == 'log_temperature':
    return np.full(shape, np.log(0.1))
  return noise / np.sqrt(max(1, int(np.prod(shape[:-1]))))


def _fill(module, *args, seed=0, **kwargs):
  shapes = jax.eval_shape(lambda *a: module.init(jax.random.key(0), *a, **kwargs), *args)
  rng = np.random.default_rng(seed)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.asarray(_leaf(rng, path, x.shape), x.dtype), shapes
  )


@pytest.fixture(scope='session')
def fill():
  """fill(module, *args): random variables without compiling `init`."""
  return _fill
