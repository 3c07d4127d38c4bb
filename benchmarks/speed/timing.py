"""Times repeated calls after warm-up, and counts what is compiled."""

from collections.abc import Callable, Mapping
import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np

from echoforge_jax.experiments.cost import count_flops
from echoforge_jax.planning import compiled

# Calls before the first that counts.
WARM_UP = 2
# A repeat is of as many calls as take this long, at most so many.
MIN_SECONDS, MAX_CALLS = 0.05, 100
# Units where less is better; of all others more is.
DURATIONS = ('s', 'ms')
_COMPILED = '/jax/core/compile/backend_compile_duration'


class NotMeasuredError(Exception):
  """Something that cannot be measured here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Series:
  """Repeated measurements of one quantity."""

  unit: str  # Of the values, such as 'frames/s'.
  values: tuple[float, ...]  # One per repeat.
  compile_s: float = 0.0  # Seconds of tracing and compiling, which the values leave out.
  calls: int = 1  # In one repeat.

  @property
  def median(self) -> float:
    """Median of the repeats."""
    return float(np.median(self.values))

  def summary(self) -> dict[str, Any]:
    """Returns unit, compile_s, repeats, calls, median, range and quartiles."""
    low, p25, median, p75, high = np.percentile(self.values, [0, 25, 50, 75, 100]).tolist()
    return {
      'unit': self.unit,
      'compile_s': self.compile_s,
      'repeats': len(self.values),
      'calls_per_repeat': self.calls,
      'median': median,
      'min': low,
      'max': high,
      'p25': p25,
      'p75': p75,
    }


@dataclasses.dataclass(frozen=True)
class Found:
  """Measurements of one part of the benchmark."""

  main: Series
  others: Mapping[str, Series] = dataclasses.field(default_factory=dict)
  # Numbers that have no spread, such as ratios and sizes.
  values: Mapping[str, float | str | None] = dataclasses.field(default_factory=dict)
  seconds: float = math.nan  # Median of one call, for ratios between parts; NaN: no such call.


class Compilations:
  """Counts the programs that XLA compiles while it is entered, and their seconds."""

  def __init__(self):
    self.count, self.seconds = 0, 0.0

  def _listen(self, event: str, duration: float, **_) -> None:
    if event == _COMPILED:
      self.count += 1
      self.seconds += duration

  def __enter__(self) -> 'Compilations':
    # A bound method is another object each time; removal wants the same.
    self._listener = self._listen
    jax.monitoring.register_event_duration_secs_listener(self._listener)
    return self

  def __exit__(self, *_) -> None:
    jax.monitoring.unregister_event_duration_listener(self._listener)


def time_calls(call: Callable[[], Any], repeats: int) -> tuple[np.ndarray, int]:
  """Returns float64 [repeats] seconds per call, after warm-up, and the calls per repeat.

  `call` returns what is to be waited for: on a CPU after every call, since it may run several
  at a time; on an accelerator, which keeps the order, after the last one, as in training.
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
  """Returns the calls of one repeat, given the seconds of one call."""
  return min(max(math.ceil(MIN_SECONDS / max(seconds, 1e-9)), 1), MAX_CALLS)


def rate(
  call: Callable[[], Any], repeats: int, amount: float, unit: str, compile_s: float = 0.0
) -> tuple[Series, float]:
  """Times `amount` units of work per call as a rate; returns it and the median seconds per call."""
  seconds, calls = time_calls(call, repeats)
  values = tuple((amount / seconds).tolist())
  return Series(unit, values, compile_s, calls), float(np.median(seconds))


@dataclasses.dataclass(frozen=True)
class Executable:
  """A compiled program."""

  run: Callable[..., Any]
  compile_s: float  # Of tracing and compiling.
  gflop: float  # 1e9 operations, as `experiments.cost.count_flops` counts them.
  memory_mb: float  # On one device: arguments, results, temporaries and code.


def compile_ahead(jitted: Any, *arguments: Any) -> Executable:
  """Traces and compiles a jitted function for arrays or shapes."""
  start = time.perf_counter()
  lowered = jitted.lower(*arguments)
  done = lowered.compile()
  seconds = time.perf_counter() - start
  memory = compiled.memory_of(done)
  return Executable(
    done, seconds, count_flops(lowered) / 1e9, memory.total / 1e6 if memory else math.nan
  )
