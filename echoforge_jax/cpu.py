"""Inference on CPUs: programs compiled for it, with Winograd's convolutions.

A model is written once, with `nn.Conv`. Where only its results are wanted, and
on a CPU, `jit` computes the 3x3 convolutions that suit it by Winograd's minimal
filtering (Winograd 1980; Lavin and Gray 2016) with half of the multiplications,
and compiles with the options that XLA's CPU programs are fastest with.
docs/performance.md has what both gain. Accelerators keep the plain
convolutions, and so does training, which gained nothing by others.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax import cpu_compiler

# F(4, 3): four results of a filter of three from six products. Rows of the
# transforms of inputs, of filters and of products.
_INPUTS = np.array(
  [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
  ]
)
_FILTERS = np.array(
  [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
  ]
)
_PRODUCTS = np.array(
  [
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
  ]
)
_TILE = len(_PRODUCTS)
# Fewer channels, or fewer pixels than make up for transforming the filters,
# gain nothing (docs/performance.md).
_MIN_CHANNELS, _MIN_PIXELS = 64, 1024


def _combine(rows: np.ndarray, arrays: list[jax.Array]) -> list[jax.Array]:
  """Each row's weighted sum of the arrays; zeros cost nothing."""
  return [
    functools.reduce(
      jnp.add,
      [
        array if weight == 1 else array * jnp.asarray(weight, array.dtype)
        for weight, array in zip(row, arrays, strict=True)
        if weight
      ],
    )
    for row in rows
  ]


def winograd(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
  """3x3 convolution of stride 1, Winograd's F(4, 3) over rows.

  One axis only: with both, a CPU spends on transforms what it saves. Rows, so
  that a transform adds whole rows and each product is a convolution of 1x3.

  Args:
    x: [N, h, w, C], floating.
    kernel: [3, 3, C, F], same dtype.
    padding: zeros on every side, 0 or 1.

  Returns:
    [N, h + 2 padding - 2, w + 2 padding - 2, F]; in float32 within about 3e-6
    of the largest value of the plain convolution's.
  """
  n, h, w, c = x.shape
  rows = h + 2 * padding - 2
  tiles = -(-rows // _TILE)
  x = jnp.pad(
    x, ((0, 0), (padding, _TILE * (tiles + 1) - h - padding), (0, 0), (0, 0))
  )
  x = x.reshape(n, tiles + 1, _TILE, w, c)
  inputs = _combine(
    _INPUTS,
    [*(x[:, :-1, row] for row in range(_TILE)), x[:, 1:, 0], x[:, 1:, 1]],
  )
  filters = _combine(_FILTERS, list(kernel))
  products = [
    jax.lax.conv_general_dilated(
      one,
      weights[None],
      (1, 1),
      [(0, 0), (padding, padding)],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    for one, weights in zip(inputs, filters)
  ]
  y = jnp.stack(_combine(_PRODUCTS, products), axis=2)
  return y.reshape(n, tiles * _TILE, *y.shape[3:])[:, :rows]


def _padding(conv: nn.Conv) -> int | None:
  """Zeros around the map, the same on all sides; None: otherwise."""
  padding = nn.linear.canonicalize_padding(conv.padding, 2)
  if isinstance(padding, str):
    return {'VALID': 0, 'SAME': 1}.get(padding)
  return next(
    (
      zeros
      for zeros in (0, 1)
      if list(map(tuple, padding)) == [(zeros, zeros)] * 2
    ),
    None,
  )


def _is_plain(value: Any) -> bool:
  """Whether a stride or a dilation is one on both axes."""
  return value in (None, 1) or tuple(np.atleast_1d(value)) == (1, 1)


def _suits(conv: nn.Conv, x: jax.Array) -> bool:
  """Whether a convolution of maps x gains by `winograd`."""
  return (
    tuple(np.atleast_1d(conv.kernel_size)) == (3, 3)
    and all(
      map(_is_plain, (conv.strides, conv.input_dilation, conv.kernel_dilation))
    )
    and conv.feature_group_count == 1
    and conv.mask is None
    and conv.conv_general_dilated is None
    and conv.conv_general_dilated_cls is None
    and _padding(conv) is not None
    and x.ndim == 4
    and (conv.dtype or jnp.result_type(x, conv.param_dtype)) == jnp.float32
    and min(x.shape[-1], conv.features) >= _MIN_CHANNELS
    and x.size // x.shape[-1] >= _MIN_PIXELS
  )


def _intercept(
  method: Callable,
  args: tuple,
  kwargs: dict,
  context: nn.module.InterceptorContext,
) -> Any:
  """Computes those convolutions of a model that `_suits` by `winograd`."""
  conv = context.module
  if type(conv) is not nn.Conv or context.method_name != '__call__':
    return method(*args, **kwargs)
  x = args[0] if args else kwargs['inputs']
  if not _suits(conv, x):
    return method(*args, **kwargs)
  # As `nn.Conv` does, with its errors where the weights are of another model.
  kernel = conv.param(
    'kernel',
    conv.kernel_init,
    (3, 3, x.shape[-1], conv.features),
    conv.param_dtype,
  )
  bias = (
    conv.param('bias', conv.bias_init, (conv.features,), conv.param_dtype)
    if conv.use_bias
    else None
  )
  x, kernel, bias = conv.promote_dtype(x, kernel, bias, dtype=conv.dtype)
  y = winograd(x, kernel, _padding(conv))
  return y if bias is None else y + bias[None, None, None]


def with_winograd(function: Callable) -> Callable:
  """A function that applies models, with `winograd` where it gains."""

  @functools.wraps(function)
  def wrapped(*args, **kwargs):
    with nn.intercept_methods(_intercept):
      return function(*args, **kwargs)

  return wrapped


def jit(function: Callable, **options: Any) -> Any:
  """`jax.jit` of a function that applies a model and takes no gradient.

  Ask for it late: it asks JAX for its devices. On a CPU call the result neither
  inside of another jitted function nor of a gradient, since JAX takes compile
  options only outermost.

  Args:
    function: as `jax.jit` takes it.
    **options: of `jax.jit`, but for `compiler_options`.

  Returns:
    What `jax.jit` returns; plain `jax.jit` on accelerators.
  """
  if jax.default_backend() != 'cpu':
    return jax.jit(function, **options)
  return jax.jit(
    with_winograd(function),
    compiler_options=cpu_compiler.known(cpu_compiler.INFERENCE, 'cpu'),
    **options,
  )
