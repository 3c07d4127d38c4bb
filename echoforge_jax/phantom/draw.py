"""Random numbers for the pure functions that sample patients."""

import math

import jax
import jax.numpy as jnp


class Draw:
  """Random numbers, drawn all at once (compiles far faster) and then used up one by one."""

  def __init__(self, key, size=512):
    self._values = jax.random.uniform(key, (size,), minval=1e-6, maxval=1.0 - 1e-6)
    self._normals = jax.scipy.special.ndtri(self._values)
    self._used = 0

  def _take(self, values, shape):
    count = math.prod(shape)
    if self._used + count > len(values):
      raise ValueError(
        f'{self._used + count} numbers were asked for, {len(values)} drawn; give Draw a larger size'
      )
    out = values[self._used : self._used + count].reshape(shape)
    self._used += count
    return out

  def unit(self, shape=()):
    """Returns float32 `shape`, uniform in (0, 1)."""
    return self._take(self._values, shape)

  def uniform(self, bounds, shape=()):
    """Returns float32 `shape`, uniform in `bounds` (low, high)."""
    low, high = bounds
    return low + (high - low) * self.unit(shape)

  def ranges(self, config, *names):
    """Returns one `uniform` draw from each named range of `config`, in this order."""
    return {name: self.uniform(getattr(config, name)) for name in names}

  def normal(self, shape=()):
    """Returns float32 `shape`, standard normal."""
    return self._take(self._normals, shape)

  def chance(self, probability):
    """Returns float32 1. with `probability`, else 0."""
    return (self.unit() < probability).astype(jnp.float32)

  def index(self, count):
    """Returns int32, uniform in 0..count-1."""
    return (self.unit() * count).astype(jnp.int32)
