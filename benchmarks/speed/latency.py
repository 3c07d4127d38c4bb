"""How long a stream takes from a frame to its mask, and what it holds."""

import math
import os
import pathlib
import resource
import sys
import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from echoforge_jax import provenance
from echoforge_jax.inference.programs import _DISTINCT, frames_of
from echoforge_jax.inference.segmenter import Segmenter

# What a frame may take at 30 frames a second.
BUDGET_MS = 33.0
_COMPILED = '/jax/core/compile/backend_compile_duration'
_WARM_UP = 32


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


def resident_bytes() -> int:
  """Memory of this process: resident now, or its peak where only that is known.

  Returns:
    Bytes.
  """
  statm = pathlib.Path('/proc/self/statm')
  if statm.is_file():
    return int(statm.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else 1024 * peak


def untrained(config: ConfigDict) -> Segmenter:
  """A segmenter of a config, all parameters 0.01: as fast as a trained one.

  Args:
    config: a config of `configs/`.

  Returns:
    The segmenter.
  """
  from echoforge_jax.training import build

  model, side = build.make_model(config), config.data.image_size
  shapes = jax.eval_shape(
    lambda key, x: model.init(key, x, train=False),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 3, side, side, 1), jnp.float32),
  )
  variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.01, x.dtype), shapes)
  return Segmenter(
    model,
    variables,
    classes=tuple(config.data.classes),
    image_size=side,
    receipt={'name': config.model.name, 'which': 'untrained'},
  )


def measure_stream(
  segmenter: Segmenter,
  *,
  frames: int = 10_000,
  size: tuple[int, int] = (480, 640),
  fps: float = math.nan,
  lag: int = 0,
) -> dict:
  """Times `Stream.step`, from the native frame to the native mask.

  Frames are in memory: nothing is decoded. The first ones, which compile, are
  timed apart.

  Args:
    segmenter: the model.
    frames: timed, one after another.
    size: (H, W) of a native frame.
    fps: frames per second, for the pace of the memory; NaN where unknown.
    lag: of the stream.

  Returns:
    JSON-ready: `latency_ms` (p50, p95, p99, max, mean), the same of `cpu_ms`
    (processor time of all threads, which other programs' load hardly changes),
    `over_budget` (share of frames over 33 ms), `frames_per_second`,
    `first_frame_s`, `compile_s`, `compilations` (before and while timing),
    `memory_mb` (process, and device where it tells), `load_average`, and the
    receipt.
  """
  video = frames_of(size)
  stream = segmenter.stream(fps=fps, lag=lag)
  # Filled, so that their pages do not count as growth.
  seconds, busy = np.full(frames, np.nan), np.full(frames, np.nan)
  with Compilations() as first:
    start = time.perf_counter()
    stream.step(video[0])
    first_frame = time.perf_counter() - start
    for index in range(_WARM_UP + 2 * lag):
      stream.step(video[index % _DISTINCT])
  load, before = os.getloadavg(), _memory(segmenter)
  with Compilations() as timed:
    for index in range(frames):
      frame = video[index % _DISTINCT]
      begun, start = time.process_time(), time.perf_counter()
      stream.step(frame)
      seconds[index] = time.perf_counter() - start
      busy[index] = time.process_time() - begun
  after = _memory(segmenter)
  return {
    'frames': frames,
    'size': list(size),
    'image_size': segmenter.image_size,
    'lag': lag,
    'fps': fps if math.isfinite(fps) else None,
    'dtype': jnp.dtype(segmenter._model.dtype).name,
    'latency_ms': _latency(1000 * seconds),
    'cpu_ms': _latency(1000 * busy),
    'budget_ms': BUDGET_MS,
    'over_budget': float((1000 * seconds > BUDGET_MS).mean()),
    'frames_per_second': frames / float(seconds.sum()),
    'first_frame_s': first_frame,
    'compile_s': first.seconds,
    'compilations': {'before': first.count, 'timed': timed.count},
    'memory_mb': {
      place: {
        'before': before[place] / 1e6,
        'after': after[place] / 1e6,
        'growth': (after[place] - before[place]) / 1e6,
      }
      for place in before
    },
    'load_average': {'before': list(load), 'after': list(os.getloadavg())},
    'cpus': os.cpu_count(),
    'device': provenance.device_kind(),
    'model': {
      key: value
      for key, value in segmenter.receipt.items()
      if key not in ('git_revision', 'versions')
    },
    'git_revision': provenance.git_revision(),
    'versions': provenance.versions(),
  }


def _memory(segmenter: Segmenter) -> dict[str, int]:
  found = {'process': resident_bytes()}
  device = (segmenter._device.memory_stats() or {}).get('bytes_in_use')
  return found if device is None else found | {'device': device}


def _latency(milliseconds: np.ndarray) -> dict[str, float]:
  p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
  return {
    'p50': float(p50),
    'p95': float(p95),
    'p99': float(p99),
    'max': float(milliseconds.max()),
    'mean': float(milliseconds.mean()),
  }


def latency_text(name: str, found: dict) -> str:
  """A measurement in a few lines.

  Args:
    name: of the run or config.
    found: of `measure_stream`.

  Returns:
    Lines without a trailing newline.
  """
  ms, load = found['latency_ms'], found['load_average']
  busy = found['cpu_ms']
  rows, columns = found['size']
  memory = ', '.join(
    f'{place} {m["before"]:.0f} MB, {m["growth"]:+.1f} MB over the run'
    for place, m in found['memory_mb'].items()
  )
  return '\n'.join(
    [
      f'{name}: {found["frames"]} frames of {rows}x{columns} to masks, network '
      f'at {found["image_size"]}x{found["image_size"]} in {found["dtype"]}, '
      f'lag {found["lag"]}',
      f'  p50 {ms["p50"]:.1f}  p95 {ms["p95"]:.1f}  p99 {ms["p99"]:.1f}  '
      f'max {ms["max"]:.1f} ms a frame, {found["frames_per_second"]:.1f} '
      f'frames/s, {100 * found["over_budget"]:.2f} % over '
      f'{found["budget_ms"]:.0f} ms',
      f'  processor time of all threads: p50 {busy["p50"]:.1f}  p99 '
      f'{busy["p99"]:.1f} ms a frame',
      f'  first frame {found["first_frame_s"]:.1f} s, of which compiling '
      f'{found["compile_s"]:.1f} s ({found["compilations"]["before"]} '
      f'programs); compiled while timing: {found["compilations"]["timed"]}',
      f'  memory: {memory}',
      f'  on {found["device"]}, {found["cpus"]} cores, load '
      f'{load["before"][0]:.1f} before and {load["after"][0]:.1f} after, '
      f'revision {found["git_revision"]}',
    ]
  )
