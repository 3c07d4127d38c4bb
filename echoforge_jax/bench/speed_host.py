"""The parts of `bench speed` around the programs: data, scores, checkpoints."""

import contextlib
import functools
import math
import pathlib
import tempfile
import time

import jax
from ml_collections import ConfigDict
import numpy as np

from echoforge_jax.bench import latency
from echoforge_jax.bench import speed_timing as timing
from echoforge_jax.bench.speed_parts import Bench, make_state
from echoforge_jax.bench.speed_timing import Found, Series
from echoforge_jax.data import builder, raw, streamed
from echoforge_jax.data.clip import LABELS, Clip
from echoforge_jax.evaluation import overlap, surface
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.phantom import patient, stream
from echoforge_jax.phantom.config import PhantomConfig
from echoforge_jax.training import build, checkpoint

# Frames of a synthetic clip, about as many as CAMUS has from ED to ES.
CLIP_FRAMES = 20
# Batches that the pipeline may have ready.
_READ_AHEAD = 4


def ellipses(side: int, count: int, shift: float = 0.0) -> np.ndarray:
  """Labels of a heart that contracts: cavity, wall around it, atrium below.

  Args:
    side: S in pixels.
    count: T, frames.
    shift: of the outline, as a share of the side; more of it in later frames.

  Returns:
    uint8 [T, S, S], values of `data.clip.LABELS`.
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


def _prepare(bench: Bench, folder: pathlib.Path) -> dict:
  """Prepares noise in a sector, and returns the config fields that read it."""
  side = bench.image_size
  # Half of the patients are labeled where some clips have no label.
  patients = max(4, bench.clips)
  video = latency.frames_of((side, side))[:CLIP_FRAMES]
  masks = ellipses(side, CLIP_FRAMES)

  def list_clips(raw_dir, split, scheme):
    names = {'train': range(patients), 'validation': [patients],
             'test': [patients + 1]}
    return [(f'patient{n:04d}', view) for n in names[split]
            for view in ('2CH', '4CH')]

  def read_clip(raw_dir, name, view):
    return Clip(patient=name, view=view, frames=video, masks=masks,
                labeled=np.ones(CLIP_FRAMES, bool), ed=0, es=CLIP_FRAMES - 1,
                spacing_mm=np.full(2, 0.5, np.float32), fps=50.0)

  (folder / 'raw').mkdir()
  builder.prepare('camus', folder / 'raw', folder / 'data', side,
                  reader=raw.RawReader(list_clips, read_clip,
                                       is_synthetic=lambda raw_dir: True))
  unlabeled = bench.config.unlabeled_batch_size
  return {'data_dir': str(folder / 'data'), 'dataset': 'camus',
          'split_scheme': 'official', 'label_seed': 0,
          'label_fraction': 0.5 if unlabeled else 1.0}


def data_input(bench: Bench) -> Found:
  """The training iterator alone, up to batches that are on the devices.

  Nothing else runs meanwhile: where the training step keeps the same cores
  busy, the device waits longer than `waiting_share` says.
  """
  config = bench.config.copy_and_resolve_references()
  keys = build.make_objective(config).batch_keys
  split = mesh_lib.batch_sharding(bench.mesh)
  # Batches for which one group of drawn clips lasts.
  period = 1
  with contextlib.ExitStack() as stack:
    if config.data.dataset == streamed.DATASET:
      period = _shrink_pool(config, bench.clips)
    else:
      folder = stack.enter_context(tempfile.TemporaryDirectory())
      with config.unlocked():
        config.data.update(_prepare(bench, pathlib.Path(folder)))
    compilations = stack.enter_context(latency.Compilations())
    start = time.perf_counter()
    iterator = build.make_iterator(config, process_index=0, process_count=1)
    stack.callback(iterator.close)

    def seconds_of(count):
      start = time.perf_counter()
      for _ in range(count):
        batch = next(iterator)
        jax.block_until_ready(mesh_lib.put_batch(
            {key: batch[key] for key in keys}, split))
      return time.perf_counter() - start

    seconds_of(1)
    first = time.perf_counter() - start
    # Threads and workers are done nearly at once: a repeat is of as many
    # batches as they have in hand. What they read ahead would be too good.
    ready = max(_READ_AHEAD, 3 * config.data.num_workers)
    batches = period * math.ceil(ready / period)
    seconds_of(batches)
    calls = batches * timing.calls_of(seconds_of(batches))
    seconds = [seconds_of(calls) / calls for _ in range(bench.repeats)]
    compile_s = compilations.seconds
  series = Series('clips/s', tuple(bench.clips / one for one in seconds),
                  compile_s, calls)
  waiting = None
  if 'train' in bench.found:
    waiting = max(0.0, 1 - series.median / bench.found['train'].main.median)
  return Found(main=series, seconds=float(np.median(seconds)), values={
      'first_batch_s': first, 'waiting_share': waiting,
      'num_workers': config.data.num_workers})


def _shrink_pool(config: ConfigDict, clips: int) -> int:
  """Fills the pool at once: afterwards clips are drawn as often from any pool.

  Args:
    config: unlocked here, in place.
    clips: of a batch.

  Returns:
    Batches to which one drawn group of clips contributes, on average.
  """
  with config.unlocked():
    config.data.stream.pool = streamed.GROUP
  return math.ceil(streamed.GROUP * config.data.stream.uses / clips)


def phantom(bench: Bench) -> Found:
  """Phantom clips as training draws them, and a patient as files hold them."""
  style = PhantomConfig.named(
      bench.config.data.get('stream', {}).get('style')
      or streamed.StreamConfig().style)
  draw = stream.jitted(streamed.GROUP, bench.frames, bench.image_size, style)
  program = timing.compile_program(draw, jax.random.key(0))
  series, seconds = timing.rate(
      functools.partial(program.run, jax.random.key(1)), bench.repeats,
      streamed.GROUP * bench.frames, 'frames/s', program.compile_s)

  clips = {}
  with latency.Compilations() as compilations:
    elapsed, calls = timing.time_calls(
        lambda: clips.update(patient.generate_patient(0, 1).clips),
        bench.repeats)
  count = sum(len(clip.frames) for clip in clips.values())
  whole = Series('frames/s', tuple((count / elapsed).tolist()),
                 compilations.seconds, calls)
  return Found(main=series, others={'patient': whole}, seconds=seconds,
               values={'clips_a_call': streamed.GROUP,
                       'memory_mb': program.memory_mb})


def metrics(bench: Bench) -> Found:
  """Scores of a frame on the host, as evaluation computes them."""
  pairs = list(zip(*(ellipses(bench.image_size, CLIP_FRAMES, shift)
                     == LABELS['lv'] for shift in (0.0, 0.02))))

  def dice():
    return [overlap.dice(*pair) for pair in pairs]

  def distances():
    return [surface.surface_distances(*pair, (0.5, 0.5)).hd95
            for pair in pairs]

  def timed(call):
    return timing.rate(call, bench.repeats, len(pairs), 'frames/s')

  both, seconds = timed(lambda: (dice(), distances()))
  return Found(main=both, seconds=seconds, others={
      'dice': timed(dice)[0], 'hd, hd95 and asd': timed(distances)[0]})


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
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      state, sharding)
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
        jax.block_until_ready(
            checkpointer.restore(step, abstract, _Position()))
        restored.append(time.perf_counter() - start)
    finally:
      checkpointer.close()
    root = pathlib.Path(folder)
    size = sum(f.stat().st_size for f in root.rglob('*') if f.is_file()) / 1e6

  def series(seconds):
    return Series('s', tuple(seconds[1:]))  # The first one warms up.

  in_memory = sum(math.prod(x.shape) * x.dtype.itemsize
                  for x in jax.tree.leaves(abstract)) / 1e6
  return Found(
      main=series(saved), seconds=float(np.median(saved[1:])),
      others={'restore': series(restored),
              'until the step may go on': series(held)},
      values={'quantity': 'save', 'state_mb': in_memory, 'files_mb': size})
