"""The part `latency`: from a native frame to its mask, one after another."""

import os
import pathlib
import resource
import sys
import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from benchmarks.speed.parts import STEPS_A_REPEAT, Bench
from benchmarks.speed.timing import Compilations, Found, Series
from echoforge_jax.inference.programs import frames_of
from echoforge_jax.inference.segmenter import Segmenter
from echoforge_jax.training import build

SIZE = 480, 640  # Of a native frame.
# What a frame may take at 30 frames a second.
BUDGET_MS = 33.0
_WARM_UP = 32


def resident_mb() -> float:
  """Returns this process's resident memory; its peak where Linux is not."""
  statm = pathlib.Path('/proc/self/statm')
  if statm.is_file():
    pages = int(statm.read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / (1e6 if sys.platform == 'darwin' else 1e3)


def untrained(config: ConfigDict) -> Segmenter:
  """Makes a segmenter with all parameters 0.01, as fast as a trained one."""
  model, side = build.make_model(config), config.data.image_size
  shapes = jax.eval_shape(
    lambda key, x: model.init(key, x, train=False),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 3, side, side, 1), jnp.float32),
  )
  return Segmenter(
    model,
    jax.tree.map(lambda x: jnp.full(x.shape, 0.01, x.dtype), shapes),
    classes=tuple(config.data.classes),
    image_size=side,
  )


def latency(bench: Bench) -> Found:
  """A live stream from the native frame to the native mask.

  Frames are in memory: nothing is decoded. The first ones, which compile, are
  timed apart. Processor time of all threads hardly depends on the load by other
  programs.
  """
  video, frames = frames_of(SIZE), STEPS_A_REPEAT * bench.repeats
  stream = untrained(bench.config).stream()
  # Filled, so that their pages do not count as growth.
  seconds, busy = np.full(frames, np.nan), np.full(frames, np.nan)
  with Compilations() as first:
    start = time.perf_counter()
    stream.step(video[0])
    first_frame_s = time.perf_counter() - start
    for index in range(_WARM_UP):
      stream.step(video[index % len(video)])
  before = resident_mb()
  with Compilations() as timed:
    for index in range(frames):
      begun, start = time.process_time(), time.perf_counter()
      stream.step(video[index % len(video)])
      seconds[index] = time.perf_counter() - start
      busy[index] = time.process_time() - begun
  memory = resident_mb()
  percentiles = 1000 * np.percentile([seconds, busy], [50, 95, 99, 100], axis=1)
  names = ('p50', 'p95', 'p99', 'max')
  return Found(
    main=Series('ms', tuple((1000 * seconds).tolist()), first.seconds),
    seconds=float(np.median(seconds)),
    values={
      'native_size': f'{SIZE[0]}x{SIZE[1]}',
      **dict(zip(names, percentiles[:, 0].tolist())),
      **{f'cpu_{n}': x for n, x in zip(names, percentiles[:, 1].tolist())},
      'share_over_33_ms': float((1000 * seconds > BUDGET_MS).mean()),
      'frames_per_s': frames / float(seconds.sum()),
      'first_frame_s': first_frame_s,
      'compiled_while_timing': timed.count,
      'process_mb': memory,
      'growth_mb': memory - before,
    },
  )
