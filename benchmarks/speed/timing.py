"""Repeated runs of one thing, and what is said of them."""

from collections.abc import Callable, Mapping
import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np

from echoforge_jax.experiments.cost import count_flops

# Calls before the first that counts.
WARM_UP = 2
# A repeat is of as many calls as take this long, at most so many.
MIN_SECONDS, MAX_CALLS = 0.05, 100
# Units where less is better; of all others more is.
DURATIONS = ('s', 'ms')


class NotMeasuredError(Exception):
  """Something that cannot be measured here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Series:
  """Repeated measurements of one quantity.

  Attributes:
    unit: of the values, such as 'frames/s'.
    values: one a repeat.
    compile_s: seconds of tracing and compiling, which the values leave out.
    calls: that one repeat consists of.
  """

  unit: str
  values: tuple[float, ...]
  compile_s: float = 0.0
  calls: int = 1

  @property
  def median(self) -> float:
    """Of the repeats."""
    return float(np.median(self.values))

  def summary(self) -> dict[str, Any]:
    """JSON-ready: unit, compile_s, repeats, calls, median, range, quartiles."""
    p25, median, p75 = np.percentile(self.values, [25, 50, 75])
    return {
      'unit': self.unit,
      'compile_s': self.compile_s,
      'repeats': len(self.values),
      'calls_per_repeat': self.calls,
      'median': float(median),
      'min': float(min(self.values)),
      'max': float(max(self.values)),
      'p25': float(p25),
      'p75': float(p75),
    }


@dataclasses.dataclass(frozen=True)
class Found:
  """What one part of the benchmark found.

  Attributes:
    main: what the part is about.
    others: further quantities, by name.
    values: numbers that have no spread, such as ratios and sizes, by name.
    seconds: median of one call, for ratios between parts; NaN where there is
      no such call.
  """

  main: Series
  others: Mapping[str, Series] = dataclasses.field(default_factory=dict)
  values: Mapping[str, float | str | None] = dataclasses.field(
    default_factory=dict
  )
  seconds: float = math.nan


def time_calls(call: Callable[[], Any], repeats: int) -> tuple[np.ndarray, int]:
  """Times something after warm-up.

  A CPU is waited for after every call, since it may run several at a time; of
  an accelerator, which keeps the order, only the last call is waited for, as
  in training.

  Args:
    call: does it once and returns what is to be waited for.
    repeats: measurements, at least 1.

  Returns:
    float64 [repeats] seconds of one call, and the calls a repeat is made of.
  """
  for _ in range(WARM_UP):
    start = time.perf_counter()
    jax.block_until_ready(call())
    once = time.perf_counter() - start
  calls = calls_of(once)
  wait = jax.default_backend() == 'cpu'
  seconds = np.full(repeats, np.nan)
  for index in range(repeats):
    start = time.perf_counter()
    for _ in range(calls):
      result = call()
      if wait:
        jax.block_until_ready(result)
    jax.block_until_ready(result)
    seconds[index] = (time.perf_counter() - start) / calls
  return seconds, calls


def calls_of(seconds: float) -> int:
  """Calls of one repeat, given the seconds of one call."""
  return min(max(math.ceil(MIN_SECONDS / max(seconds, 1e-9)), 1), MAX_CALLS)


def rate(
  call: Callable[[], Any],
  repeats: int,
  amount: float,
  unit: str,
  compile_s: float = 0.0,
) -> tuple[Series, float]:
  """As `time_calls`, as a rate.

  Args:
    call: as in `time_calls`.
    repeats: as in `time_calls`.
    amount: what one call gets done, in units.
    unit: such as 'frames/s'.
    compile_s: as in `Series`.

  Returns:
    The series, and the median seconds of a call.
  """
  seconds, calls = time_calls(call, repeats)
  return Series(unit, tuple((amount / seconds).tolist()), compile_s, calls), (
    float(np.median(seconds))
  )


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program.

  Attributes:
    run: takes what it was compiled for.
    compile_s: seconds of tracing and compiling.
    gflop: 1e9 operations over all devices, a multiply-add being two, as
      counted before the compiler changes anything; the body of a loop counts
      once.
    memory_mb: on one device: arguments, results, temporaries and code.
  """

  run: Callable[..., Any]
  compile_s: float
  gflop: float
  memory_mb: float


def compile_program(jitted: Any, *arguments: Any) -> Program:
  """Traces and compiles, without running.

  Args:
    jitted: of `jax.jit`.
    *arguments: arrays or their shapes, and static arguments.

  Returns:
    The program.
  """
  start = time.perf_counter()
  lowered = jitted.lower(*arguments)
  done = lowered.compile()
  seconds = time.perf_counter() - start
  stats = done.memory_analysis()
  memory = (
    math.nan
    if stats is None
    else (
      stats.argument_size_in_bytes
      + stats.output_size_in_bytes
      - stats.alias_size_in_bytes
      + stats.temp_size_in_bytes
      + stats.generated_code_size_in_bytes
    )
    / 1e6
  )
  return Program(done, seconds, count_flops(lowered) / 1e9, memory)
