"""The part `starvation` of `bench speed`: does training wait for its data?"""

import contextlib
import time

import jax

from benchmarks.speed import input as speed_input
from benchmarks.speed.parts import Bench, make_state
from benchmarks.speed.timing import WARM_UP, Found, Series
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import build, steps
from echoforge_jax.training.loop import MAX_IN_FLIGHT
from echoforge_jax.training.waiting import InputWait

# Seconds and steps of a repeat, at least.
_SECONDS, _STEPS = 2.0, 4


def starvation(bench: Bench) -> Found:
  """Training with its input, against training on one batch that stays.

  Both run as the training loop does, some steps ahead of the device. Where
  input and step share cores, the step slows down instead of waiting: hence two
  figures, the share of the time that the device stood idle for want of a batch
  (`InputWait`'s bound), and how much longer a step takes than on a batch that
  is there already.
  """
  with contextlib.ExitStack() as stack:
    config = speed_input.with_data(bench, stack)
    parts = build.make_parts(config, bench.model, bench.mesh)
    state, sharding = make_state(config, parts, bench.mesh)
    split = mesh_lib.batch_sharding(bench.mesh)
    iterator = build.make_iterator(config, process_index=0, process_count=1)
    stack.callback(iterator.close)
    load = build.make_loader(config, parts.batch_keys, split)
    start = time.perf_counter()
    batch = load(next(iterator))
    program = (
      steps.jit_train_step(parts.train_step, sharding, split)
      .lower(state, batch)
      .compile()
    )
    compile_s = time.perf_counter() - start

    def run(count, get):
      """Runs steps; returns seconds per step and the share of idle time."""
      nonlocal state
      waiting, under_way, metrics = InputWait(), [], None
      jax.block_until_ready(state)
      start = time.perf_counter()
      for _ in range(count):
        state, metrics = program(state, waiting.get(get, metrics))
        under_way.append(metrics)
        if len(under_way) > MAX_IN_FLIGHT:
          jax.block_until_ready(under_way.pop(0))
      jax.block_until_ready(state)
      elapsed = time.perf_counter() - start
      return elapsed / count, waiting.idle / elapsed

    def fresh():
      return load(next(iterator))

    def kept():
      return batch

    for _ in range(WARM_UP):
      once, _ = run(1, fresh)
    count = max(_STEPS, round(_SECONDS / once))
    fed, resident, idle = [], [], []
    for _ in range(bench.repeats):  # In turn: the machine may change its pace.
      seconds, share = run(count, fresh)
      fed.append(seconds)
      idle.append(share)
      resident.append(run(count, kept)[0])

  def rates(seconds):
    return Series(
      'clips/s', tuple(bench.clips / one for one in seconds), compile_s, count
    )

  with_input, without = rates(fed), rates(resident)
  return Found(
    main=with_input,
    others={'one batch': without},
    values={
      'idle_share': sorted(idle)[len(idle) // 2],
      'slowdown': without.median / with_input.median - 1,
    },
  )
