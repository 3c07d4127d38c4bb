"""Compiles a step, and bounds its time by what the compiler says of it."""

from collections.abc import Sequence
import dataclasses
import time
from typing import Any

import jax

from echoforge_jax.planning import chips, collectives, topology, traffic


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one chip."""

  arguments: int  # State and batch, or weights and frame.
  outputs: int  # Those in an argument's place are counted there.
  temporaries: int  # Activations, gradients and all else that is dropped.
  code: int

  @property
  def total(self) -> int:
    """Sum of all parts."""
    return self.arguments + self.outputs + self.temporaries + self.code


def memory_of(done: jax.stages.Compiled) -> Memory | None:
  """Returns what a compiled program needs; None where JAX does not say."""
  stats = done.memory_analysis()
  return stats and Memory(
    arguments=stats.argument_size_in_bytes,
    outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
    temporaries=stats.temp_size_in_bytes,
    code=stats.generated_code_size_in_bytes,
  )


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """A compiled step; all figures are of one chip."""

  fits: bool  # A TPU's compiler refuses what is too large.
  seconds: float  # Of tracing, lowering and compiling.
  needed: int  # Bytes; of a step that does not fit, what the compiler's message says.
  message: str = ''  # The compiler's first line where it does not fit.
  memory: Memory | None = None  # None where it does not fit; what follows is then empty.
  flops: float = 0.0  # XLA's count; a multiply-add is two.
  # To and from HBM on a TPU (`traffic.hbm_bytes`), elsewhere XLA's count of all instructions.
  num_bytes: float = 0.0
  cycles: int = 0  # The compiler's estimate on a TPU.
  exchanges: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

  @property
  def exchanged(self) -> int:
    """Bytes of all collectives."""
    return sum(size for _, size in self.exchanges.values())


def compile_step(jitted: Any, *arguments: Any, platform: str) -> CompiledStep:
  """Compiles a jitted function for shapes; what does not fit is an answer, not an error."""
  start = time.perf_counter()
  try:
    done = jitted.lower(*arguments).compile()
  except jax.errors.JaxRuntimeError as error:
    text = str(error)
    if 'RESOURCE_EXHAUSTED' not in text:
      raise
    seconds = time.perf_counter() - start
    return CompiledStep(False, seconds, topology.needed(text), text.splitlines()[0])
  seconds = time.perf_counter() - start
  memory = memory_of(done)
  costs, text = done.cost_analysis(), done.as_text()
  tpu = platform == 'tpu'
  moved = traffic.hbm_bytes(text) if tpu else costs.get('bytes accessed', 0.0)
  return CompiledStep(
    fits=True,
    seconds=seconds,
    needed=memory.total,
    memory=memory,
    flops=float(costs.get('flops', 0.0)),
    num_bytes=float(moved),
    cycles=traffic.cycles(text) if tpu else 0,
    exchanges=collectives.find_exchanges(text),
  )


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds that a step takes at documented peaks; not a measurement."""

  compute: float
  memory: float
  exchange: float

  @property
  def alone(self) -> float:
    """Seconds of a chip that need not wait for others."""
    return max(self.compute, self.memory)

  @property
  def total(self) -> float:
    """Seconds with collectives, which nothing is assumed to hide."""
    return self.alone + self.exchange


def estimate(step: CompiledStep, chip: chips.Chip, shape: Sequence[int]) -> Estimate:
  """Estimates the time of a step that fits by a roofline.

  t = max(operations / peak, bytes / bandwidth) + sum_c k_c bytes_c / links, where k is 2 for an
  all-reduce (a reduce-scatter and an all-gather), else 1, as on a ring of many chips.
  """
  links = chips.exchange_bandwidth(chip, shape)
  sent = sum(
    (2 if kind == 'all-reduce' else 1) * size for kind, (_, size) in step.exchanges.items()
  )
  return Estimate(
    compute=step.flops / chip.bf16_flops,
    memory=step.num_bytes / chip.hbm_bandwidth,
    exchange=sent / links if links else 0.0,
  )
