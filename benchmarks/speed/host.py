"""The parts around the programs: phantoms, scores, checkpoints."""

import functools
import math
import pathlib
import tempfile
import time

import jax
import numpy as np

from benchmarks.speed import timing
from benchmarks.speed.parts import Bench
from benchmarks.speed.timing import Found, Series
from benchmarks.speed.training import make_state
from echoforge_jax.clip import LABELS
from echoforge_jax.data import phantom_stream
from echoforge_jax.metrics import overlap, surface
from echoforge_jax.phantom import patient, stream
from echoforge_jax.phantom.config import PhantomConfig
from echoforge_jax.training import build, checkpoint

# Frames of a synthetic clip, about as many as CAMUS has from ED to ES.
CLIP_FRAMES = 20


def ellipses(side: int, count: int, shift: float = 0.0) -> np.ndarray:
  """Draws a heart that contracts in `count` frames: uint8 [T, S, S], values of `clip.LABELS`.

  `shift` moves the outline by a share of the side, further in later frames.
  """
  y, x = np.mgrid[:side, :side] / side
  masks = np.zeros((count, side, side), np.uint8)
  for t, mask in enumerate(masks):
    size = 1 - 0.3 * t / count
    across = (x - 0.5 - shift * (1 + t / count)) / (0.16 * size)
    # Waves, so that an outline is no smoother than a network's.
    along = (y - 0.42) / (0.28 * size) + 0.04 * np.sin(60 * x + t)
    radius = np.hypot(across, along)
    mask[(y > 0.72) & (np.abs(x - 0.5) < 0.15) & (y < 0.92)] = LABELS['la']
    mask[radius < 1.35] = LABELS['myo']
    mask[radius < 1] = LABELS['lv']
  return masks


def phantom(bench: Bench) -> Found:
  """Phantom clips as training draws them, and a patient as files hold them."""
  style = PhantomConfig.named(
    bench.config.data.get('stream', {}).get('style') or phantom_stream.StreamConfig().style
  )
  clips = phantom_stream.GROUP
  draw = stream.jitted(clips, bench.frames, bench.image_size, style)
  program = timing.compile_ahead(draw, jax.random.key(0))
  series, seconds = timing.rate(
    functools.partial(program.run, jax.random.key(1)),
    bench.repeats,
    clips * bench.frames,
    'frames/s',
    program.compile_s,
  )
  frames = 0

  def draw_patient():
    nonlocal frames
    drawn = patient.generate_patient(0, 1).clips
    frames = sum(len(clip.frames) for clip in drawn.values())

  with timing.Compilations() as compilations:
    elapsed, calls = timing.time_calls(draw_patient, bench.repeats)
  rates = tuple((frames / elapsed).tolist())
  return Found(
    main=series,
    others={'patient': Series('frames/s', rates, compilations.seconds, calls)},
    seconds=seconds,
    values={'clips_a_call': clips, 'memory_mb': program.memory_mb},
  )


def metrics(bench: Bench) -> Found:
  """Scores of a frame on the host, as evaluation computes them."""
  truth, other = (
    ellipses(bench.image_size, CLIP_FRAMES, shift) == LABELS['lv'] for shift in (0.0, 0.02)
  )

  def dice():
    return list(map(overlap.dice, truth, other))

  def distances():
    return [surface.surface_distances(*pair, (0.5, 0.5)).hd95 for pair in zip(truth, other)]

  def timed(call):
    return timing.rate(call, bench.repeats, CLIP_FRAMES, 'frames/s')

  both, seconds = timed(lambda: (dice(), distances()))
  return Found(
    main=both,
    seconds=seconds,
    others={'dice': timed(dice)[0], 'hd, hd95 and asd': timed(distances)[0]},
  )


class _Position:
  """Stands for a data iterator in a checkpoint."""

  def get_state(self) -> dict[str, int]:
    return {'batches': 0}

  def set_state(self, state) -> None:
    del state


def checkpoints(bench: Bench) -> Found:
  """A training state to a temporary folder and back; the file cache is warm."""
  parts = build.make_parts(bench.config, bench.model, bench.mesh)
  state, sharding = make_state(bench.config, parts, bench.mesh)
  abstract = jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, sharding
  )
  saved, held, restored = [], [], []
  with tempfile.TemporaryDirectory() as folder:
    checkpointer = checkpoint.Checkpointer(folder, keep=1)
    try:
      for step in range(1 + bench.repeats):
        start = time.perf_counter()
        checkpointer.save(step, state, _Position())
        held.append(time.perf_counter() - start)
        checkpointer.wait()
        saved.append(time.perf_counter() - start)
        start = time.perf_counter()
        jax.block_until_ready(checkpointer.restore(step, abstract, _Position()))
        restored.append(time.perf_counter() - start)
    finally:
      checkpointer.close()
    files = pathlib.Path(folder).rglob('*')
    size = sum(f.stat().st_size for f in files if f.is_file())

  def series(seconds):
    return Series('s', tuple(seconds[1:]))  # The first one warms up.

  state_size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(abstract))
  return Found(
    main=series(saved),
    seconds=float(np.median(saved[1:])),
    others={'restore': series(restored), 'until the step may go on': series(held)},
    values={'quantity': 'save', 'state_mb': state_size / 1e6, 'files_mb': size / 1e6},
  )
