"""Speckle: random scatterers on a beam grid, point spread, time.

Linear model of Hergum 2009 and Gao 2009: the received signal is the sum over scatterers of a
complex amplitude times a carrier phase times a separable point spread. The amplitudes live on the
beam grid of ED, one (complex Gaussian) per cell; each frame looks them up at the material point
that a cell shows now. Equivalent to splatting moved scatterers, and a gather is far cheaper than a
scatter.
"""

import math

import jax
import jax.numpy as jnp

# Standard normal numbers that all frames cut slices from.
POOL_SIZE = 1 << 22
_FWHM = 2.3548


def noise_pool(size=POOL_SIZE, seed=20090) -> jax.Array:
  """Returns float32 [size], standard normal, the same on every call."""
  return jax.random.normal(jax.random.key(seed), (size,))


def take_noise(key, pool, shapes) -> list[jax.Array]:
  """Returns slices of the pool at random places, float32 of the given shapes.

  Fresh normals would cost more than the rest of a frame; one draw of all places compiles faster.
  """
  bits = jax.random.bits(key, (len(shapes),))
  out = []
  for i, shape in enumerate(shapes):
    count = math.prod(shape)
    start = (bits[i] % (pool.shape[0] - count)).astype(jnp.int32)
    out.append(jax.lax.dynamic_slice(pool, (start,), (count,)).reshape(shape))
  return out


def smoother(count, fwhm, unit_energy) -> jax.Array:
  """Returns a Gaussian point spread as a banded matrix [count, count]: the fastest convolution.

  `fwhm`: full width at half maximum in samples (may be traced); `unit_energy`: True keeps the
  variance of white noise (point spread), False the mean (smoothing of an image).
  """
  sigma = jnp.maximum(fwhm / _FWHM, 1e-2)
  index = jnp.arange(count, dtype=jnp.float32)
  matrix = jnp.exp(-0.5 * ((index[:, None] - index[None]) / sigma) ** 2)
  if unit_energy:
    return matrix / jnp.sqrt((matrix**2).sum(1, keepdims=True))
  return matrix / matrix.sum(1, keepdims=True)


def slow_field(coarse, shape) -> jax.Array:
  """Returns a smooth Gaussian field of unit variance from normals [r, c]."""
  field = jax.image.resize(coarse, shape, 'cubic')
  return (field - field.mean()) / (field.std() + 1e-6)


def lookup(texture, row, column) -> jax.Array:
  """Looks up texture [R, C, K] bilinearly, clamped; returns [..., K]."""
  rows, columns, channels = texture.shape
  row = jnp.clip(row, 0.0, rows - 1.001)
  column = jnp.clip(column, 0.0, columns - 1.001)
  i, j = row.astype(jnp.int32), column.astype(jnp.int32)
  u, v = (row - i)[..., None], (column - j)[..., None]
  flat = texture.reshape(rows * columns, channels)
  at = lambda k: jnp.take(flat, k, axis=0, mode='clip')  # noqa: E731
  k = i * columns + j
  top = at(k) * (1.0 - v) + at(k + 1) * v
  bottom = at(k + columns) * (1.0 - v) + at(k + columns + 1) * v
  return top * (1.0 - u) + bottom * u


def age(texture, fresh, seconds, lifetime) -> jax.Array:
  """Ages by one AR(1) step, whose correlation is exp(-seconds / lifetime)."""
  rho = jnp.exp(-seconds / lifetime)
  return rho * texture + jnp.sqrt(1.0 - rho * rho) * fresh
