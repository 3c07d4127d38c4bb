"""Compile options of CPU programs.

XLA's CPU compiler hands operations to the library YNNPACK. Some of them XLA
does faster by itself, others only in some programs; docs/performance.md has
what was measured. In the library of JAX 0.10.2 some reductions of odd shapes go
wrong (jax-ml/jax#39103, #39257, #40412); training has them with the option as
without it, inference has not.
"""

from collections.abc import Mapping
import functools
import os

import jax
import jax.numpy as jnp

OPTION = 'xla_cpu_experimental_ynn_fusion_type'
# What the library is given: of models that run forward nothing, of training
# steps on one device reductions. On several devices that gains nothing.
INFERENCE = {OPTION: ''}
TRAINING = {OPTION: 'LIBRARY_FUSION_TYPE_REDUCE'}


def known(options: Mapping[str, str], platform: str) -> dict[str, str] | None:
  """The options, where they can be given to `jax.jit`.

  Args:
    options: `INFERENCE` or `TRAINING`.
    platform: that is compiled for, such as 'cpu'.

  Returns:
    None for all but the CPU that JAX runs on, where XLA_FLAGS already has the
    option, and where this JAX does not know it.
  """
  if (
    platform != 'cpu'
    or jax.default_backend() != 'cpu'
    or OPTION in os.environ.get('XLA_FLAGS', '')
  ):
    return None
  return dict(options) if _compiles(tuple(options.items())) else None


@functools.cache
def _compiles(options: tuple[tuple[str, str], ...]) -> bool:
  try:
    jax.jit(
      lambda: jnp.int32(0), compiler_options=dict(options)
    ).lower().compile()
  except (jax.errors.JaxRuntimeError, RuntimeError, ValueError):
    return False
  return True
