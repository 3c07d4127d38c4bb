"""The parts `input` and `starvation`: batches from prepared data to devices."""

from collections.abc import Callable
import contextlib
import functools
import math
import pathlib
import tempfile
import time
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from benchmarks.speed import timing
from benchmarks.speed.host import CLIP_FRAMES, ellipses
from benchmarks.speed.parts import Bench
from benchmarks.speed.timing import Found, Series
from benchmarks.speed.training import make_state
from echoforge_jax.clip import Clip
from echoforge_jax.data import augment, datasets, phantom_stream, prepare
from echoforge_jax.inference.programs import frames_of
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import build, steps
from echoforge_jax.training.loop import MAX_IN_FLIGHT, InputWait

# Batches that the pipeline may have ready.
_READ_AHEAD = 4
# Seconds and steps of a repeat of `starvation`, at least.
_SECONDS, _STEPS = 2.0, 4


def _prepare(bench: Bench, folder: pathlib.Path) -> dict:
  """Prepares noise in a sector, and returns the config fields that read it."""
  side = bench.image_size
  # Half of the patients are labeled where some clips have no label.
  patients = max(4, bench.clips)
  video = frames_of((side, side))[:CLIP_FRAMES]
  masks = ellipses(side, CLIP_FRAMES)

  def list_clips(self, split, scheme):
    names = {'train': range(patients), 'validation': [patients], 'test': [patients + 1]}
    return [(f'patient{n:04d}', view) for n in names[split] for view in ('2CH', '4CH')]

  def read_clip(self, name, view):
    return Clip(
      patient=name,
      view=view,
      frames=video,
      masks=masks,
      labeled=np.ones(CLIP_FRAMES, bool),
      ed=0,
      es=CLIP_FRAMES - 1,
      spacing_mm=np.full(2, 0.5, np.float32),
      fps=50.0,
    )

  (folder / 'raw').mkdir()
  members = {'list_clips': list_clips, 'read_clip': read_clip, 'synthetic': True}
  reader = type('Bench', (datasets.Reader,), members)(folder / 'raw')
  prepare.prepare('camus', folder / 'raw', folder / 'data', side, reader=reader)
  unlabeled = bench.config.unlabeled_batch_size
  return {
    'data_dir': str(folder / 'data'),
    'dataset': 'camus',
    'split_scheme': 'official',
    'label_seed': 0,
    'labeled_patients': 0,
    'label_fraction': 0.5 if unlabeled else 1.0,
  }


def _with_data(config: ConfigDict, **fields) -> ConfigDict:
  changed = config.copy_and_resolve_references()
  with changed.unlocked():
    changed.data.update(fields)
  return changed


def _on_noise(bench: Bench, stack: contextlib.ExitStack) -> ConfigDict:
  """Returns the config on noise that the stack removes, or on its own streamed phantoms."""
  if bench.config.data.dataset == phantom_stream.DATASET:
    return bench.config.copy_and_resolve_references()
  folder = stack.enter_context(tempfile.TemporaryDirectory())
  return _with_data(bench.config, **_prepare(bench, pathlib.Path(folder)))


def _iterator(config: ConfigDict) -> Any:
  return build.make_iterator(config, process_index=0, process_count=1)


def data_input(bench: Bench) -> Found:
  """The training iterator alone, up to batches that are on the devices.

  The program that draws the views of a batch on the device is timed apart.
  Nothing else runs meanwhile; `starvation` measures both at once.
  """
  others = {}
  # Batches for which one group of drawn clips lasts.
  period = 1
  with contextlib.ExitStack() as stack:
    config = _on_noise(bench, stack)
    data = config.data
    drawn = data.dataset == phantom_stream.DATASET
    if drawn:
      period = _shrink_pool(config, bench.clips)
    series, first, seconds = _measure(bench, config, period)
    if data.cache_mb and not drawn:
      others['every clip read anew'], _, _ = _measure(bench, _with_data(config, cache_mb=0), period)
    others['views on the device'] = _views(bench, config)
  return Found(
    main=series,
    seconds=seconds,
    others=others,
    values={'first_batch_s': first, 'cache_mb': data.cache_mb},
  )


def _measure(bench: Bench, config: ConfigDict, period: int) -> tuple[Series, float, float]:
  """Times one iterator in repeats of a multiple of `period` batches.

  Returns clips/s, seconds until the first batch, and median seconds per batch.
  """
  sharding = mesh_lib.batch_sharding(bench.mesh)
  with contextlib.ExitStack() as stack:
    compilations = stack.enter_context(timing.Compilations())
    start = time.perf_counter()
    iterator = stack.enter_context(contextlib.closing(_iterator(config)))

    def seconds_of(count):
      start = time.perf_counter()
      for _ in range(count):
        jax.block_until_ready(mesh_lib.put_batch(next(iterator), sharding))
      return time.perf_counter() - start

    seconds_of(1)
    first = time.perf_counter() - start
    # Threads are done nearly at once: a repeat is of as many batches as they
    # have in hand. What they read ahead would be too good.
    batches = period * math.ceil(_READ_AHEAD / period)
    seconds_of(batches)
    calls = batches * timing.calls_of(seconds_of(batches))
    seconds = [seconds_of(calls) / calls for _ in range(bench.repeats)]
    compile_s = compilations.seconds
  rates = tuple(bench.clips / one for one in seconds)
  return (Series('clips/s', rates, compile_s, calls), first, float(np.median(seconds)))


def _views(bench: Bench, config: ConfigDict) -> Series:
  """Times the program that draws views, on one batch."""
  sharding = mesh_lib.batch_sharding(bench.mesh)
  with contextlib.closing(_iterator(config)) as iterator:
    batch = mesh_lib.put_batch(next(iterator), sharding)
  views = augment.make_views(
    build.data_spec(config).augmentation, sharding, build.make_objective(config).batch_keys
  )
  program = timing.compile_ahead(views, batch)
  return timing.rate(
    functools.partial(program.run, batch), bench.repeats, bench.clips, 'clips/s', program.compile_s
  )[0]


def _shrink_pool(config: ConfigDict, clips: int) -> int:
  """Shrinks the pool in place, so that it fills at once; clips are drawn as often from any pool.

  Returns the batches to which one drawn group of clips contributes, on average.
  """
  with config.unlocked():
    config.data.stream.pool = phantom_stream.GROUP
  return math.ceil(phantom_stream.GROUP * config.data.stream.uses / clips)


def starvation(bench: Bench) -> Found:
  """Training with its input, against training on one batch that stays.

  Both run as the training loop does, some steps ahead of the device. Where
  input and step share cores, the step slows down instead of waiting: hence two
  figures, the share of the time that the device stood idle for want of a batch
  (`InputWait`'s bound), and how much longer a step takes than on a batch that
  is there already.
  """
  with contextlib.ExitStack() as stack:
    config = _on_noise(bench, stack)
    parts = build.make_parts(config, bench.model, bench.mesh)
    state, sharding = make_state(config, parts, bench.mesh)
    batch_sharding = mesh_lib.batch_sharding(bench.mesh)
    iterator = stack.enter_context(contextlib.closing(_iterator(config)))
    load = build.make_loader(config, parts.batch_keys, batch_sharding)
    batch = load(next(iterator))
    program = timing.compile_ahead(
      steps.jit_train_step(parts.train_step, sharding, batch_sharding), state, batch
    )

    def run(count: int, next_batch: Callable[[], Any], load: Callable) -> tuple[float, float]:
      """Runs steps; returns seconds per step and the share of idle time."""
      nonlocal state
      waiting, under_way, metrics = InputWait(), [], None
      jax.block_until_ready(state)
      start = time.perf_counter()
      for _ in range(count):
        state, metrics = program.run(state, load(waiting.get(next_batch, metrics)))
        under_way.append(metrics)
        if len(under_way) > MAX_IN_FLIGHT:
          jax.block_until_ready(under_way.pop(0))
      jax.block_until_ready(state)
      elapsed = time.perf_counter() - start
      return elapsed / count, waiting.idle / elapsed

    fresh = functools.partial(next, iterator)
    for _ in range(timing.WARM_UP):
      once, _ = run(1, fresh, load)
    count = max(_STEPS, round(_SECONDS / once))
    fed, resident, idle = [], [], []
    for _ in range(bench.repeats):  # In turn: the machine may change its pace.
      seconds, share = run(count, fresh, load)
      fed.append(seconds)
      idle.append(share)
      resident.append(run(count, lambda: None, lambda _: batch)[0])

  def rates(seconds):
    values = tuple(bench.clips / one for one in seconds)
    return Series('clips/s', values, program.compile_s, count)

  with_input, without = rates(fed), rates(resident)
  return Found(
    main=with_input,
    others={'one batch': without},
    values={
      'idle_share': sorted(idle)[len(idle) // 2],
      'slowdown': without.median / with_input.median - 1,
    },
  )
