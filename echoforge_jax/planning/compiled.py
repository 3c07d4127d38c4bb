"""Compiles a step, and bounds its time by what the compiler says of it."""

from collections.abc import Sequence
import dataclasses
import time
from typing import Any

import jax

from echoforge_jax.planning import chips, collectives, topology, traffic


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one chip.

  Attributes:
    arguments: state and batch, or weights and frame.
    outputs: results; those in an argument's place are counted there.
    temporaries: activations, gradients and all else that is dropped.
    code: the program itself.
  """

  arguments: int
  outputs: int
  temporaries: int
  code: int

  @property
  def total(self) -> int:
    """All of it."""
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
  """A compiled step; all figures are of one chip.

  Attributes:
    fits: it compiled. A TPU's compiler refuses what is too large.
    seconds: spent on tracing, lowering and compiling.
    needed: bytes, as far as known; of a step that does not fit, what the
      compiler's message says.
    message: the compiler's first line where it does not fit.
    memory: None where it does not fit, as all that follow.
    flops: operations, a multiply-add being two, as XLA counts them.
    num_bytes: read from and written to memory. On a TPU between the chip and
      HBM (`traffic.hbm_bytes`), elsewhere by all instructions (XLA's count).
    cycles: the compiler's estimate on a TPU (`traffic.cycles`), else 0.
    exchanges: of `collectives.find_exchanges`.
  """

  fits: bool
  seconds: float
  needed: int
  message: str = ''
  memory: Memory | None = None
  flops: float = 0.0
  num_bytes: float = 0.0
  cycles: int = 0
  exchanges: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

  @property
  def exchanged(self) -> int:
    """Bytes of all collectives."""
    return sum(size for _, size in self.exchanges.values())


def compile_step(jitted: Any, *arguments: Any, platform: str) -> CompiledStep:
  """Traces and compiles; what does not fit is an answer, not an error.

  Args:
    jitted: of `jax.jit`.
    *arguments: trees of ShapeDtypeStruct, and static arguments.
    platform: of the devices, such as 'tpu'.
  """
  start = time.perf_counter()
  try:
    done = jitted.lower(*arguments).compile()
  except jax.errors.JaxRuntimeError as error:
    text = str(error)
    if 'RESOURCE_EXHAUSTED' not in text:
      raise
    return CompiledStep(
      fits=False,
      seconds=time.perf_counter() - start,
      needed=topology.needed(text),
      message=text.splitlines()[0],
    )
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
  """Seconds a step takes at documented peaks; not a measurement.

  Attributes:
    compute: operations at the peak rate.
    memory: bytes at the memory's full bandwidth.
    exchange: collectives at the links' full bandwidth.
  """

  compute: float
  memory: float
  exchange: float

  @property
  def alone(self) -> float:
    """Of a chip that need not wait for others."""
    return max(self.compute, self.memory)

  @property
  def total(self) -> float:
    """Collectives are added: nothing is assumed to hide them."""
    return self.alone + self.exchange


def estimate(step: CompiledStep, chip: chips.Chip, shape: Sequence[int]) -> Estimate:
  """Estimates the time of a step that fits by a roofline.

    t = max(operations / peak, bytes / bandwidth) + sum_c k_c bytes_c / links

  where k is 2 for an all-reduce (a reduce-scatter and an all-gather) and 1 for
  the others, as on a ring of many chips.
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
