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
  """Repeated measurements of one quantity.

  Attributes:
    unit: of the values, such as 'frames/s'.
    values: one per repeat.
    compile_s: seconds of tracing and compiling, which the values leave out.
    calls: that one repeat consists of.
  """

  unit: str
  values: tuple[float, ...]
  compile_s: float = 0.0
  calls: int = 1

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
  values: Mapping[str, float | str | None] = dataclasses.field(default_factory=dict)
  seconds: float = math.nan


class Compilations:
  """Counts what XLA compiles while it is entered.

  Attributes:
    count: programs.
    seconds: spent on them.
  """

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
  """Times something after warm-up.

  A CPU is waited for after every call, since it may run several at a time; of
  an accelerator, which keeps the order, only the last call is waited for, as
  in training.

  Args:
    call: does it once and returns what is to be waited for.
    repeats: measurements, at least 1.

  Returns:
    float64 [repeats] seconds of one call, and the calls per repeat.
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
  """Times something as a rate.

  Args:
    call: as in `time_calls`, as `repeats`.
    repeats: measurements.
    amount: what one call gets done, in units.
    unit: such as 'frames/s'.
    compile_s: as in `Series`.

  Returns:
    The series, and the median seconds of a call.
  """
  seconds, calls = time_calls(call, repeats)
  values = tuple((amount / seconds).tolist())
  return Series(unit, values, compile_s, calls), float(np.median(seconds))


@dataclasses.dataclass(frozen=True)
class Executable:
  """A compiled program.

  Attributes:
    run: takes what it was compiled for.
    compile_s: seconds of tracing and compiling.
    gflop: 1e9 operations, as `experiments.cost.count_flops` counts them.
    memory_mb: on one device: arguments, results, temporaries and code.
  """

  run: Callable[..., Any]
  compile_s: float
  gflop: float
  memory_mb: float


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
