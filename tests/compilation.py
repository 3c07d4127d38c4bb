"""Checks on how often JAX compiles."""

from collections.abc import Callable, Iterator
import contextlib
from typing import Any

from jax import monitoring

_COMPILED = '/jax/core/compile/backend_compile_duration'


@contextlib.contextmanager
def assert_compiles_nothing() -> Iterator[None]:
  """Fails if JAX makes a program in this block, be it from its disk cache."""
  programs = []

  def listen(event: str, seconds: float, **kwargs: Any) -> None:
    if event == _COMPILED:
      programs.append(kwargs)

  monitoring.register_event_duration_secs_listener(listen)
  try:
    yield
  finally:
    monitoring.unregister_event_duration_listener(listen)
  assert not programs, f'{len(programs)} programs were compiled: {programs}'


def assert_compiles_once(call: Callable[..., Any], *inputs: Any) -> list[Any]:
  """Calls a function with each input; only the first may be compiled for.

  Args:
    call: takes one input; what else it needs is bound.
    *inputs: two or more of them.

  Returns:
    The function's outputs.
  """
  first, *rest = inputs
  outputs = [call(first)]
  with assert_compiles_nothing():
    outputs += map(call, rest)
  return outputs
