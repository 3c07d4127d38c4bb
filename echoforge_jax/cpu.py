"""Compile options of CPU programs, one set for inference, one for training.

XLA's CPU compiler hands operations to the library YNNPACK. XLA computes some of them faster by
itself; docs/performance.md holds the measurements. In the library of JAX 0.10.2 some reductions of
odd shapes are wrong (jax-ml/jax#39103, #39257, #40412): inference hands it none.
"""

from collections.abc import Callable, Mapping
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp

OPTION = 'xla_cpu_experimental_ynn_fusion_type'
# What the library is given: of models that run forward nothing, of training steps on one device
# reductions. On several devices that gains nothing.
INFERENCE = {OPTION: ''}
TRAINING = {OPTION: 'LIBRARY_FUSION_TYPE_REDUCE'}


def known_options(options: Mapping[str, str], platform: str) -> dict[str, str] | None:
  """Returns compile options where `jax.jit` takes them, or else None.

  None for all but the CPU that JAX runs on, where XLA_FLAGS already sets the option, and where this
  JAX does not know it.
  """
  on_cpu = platform == 'cpu' == jax.default_backend()
  if not on_cpu or OPTION in os.environ.get('XLA_FLAGS', ''):
    return None
  return dict(options) if _compiles(tuple(options.items())) else None


@functools.cache
def _compiles(options: tuple[tuple[str, str], ...]) -> bool:
  try:
    jax.jit(lambda: jnp.int32(0), compiler_options=dict(options)).lower().compile()
  except (jax.errors.JaxRuntimeError, RuntimeError, ValueError):
    return False
  return True


def jit(function: Callable, **options: Any) -> Any:
  """Jits a function that applies a model and takes no gradient.

  Call it late: it asks JAX for its devices. On a CPU the result may not be called inside of another
  jitted function or a gradient, since JAX takes compile options only outermost.

  """
  compiler_options = known_options(INFERENCE, jax.default_backend())
  return jax.jit(function, compiler_options=compiler_options, **options)
