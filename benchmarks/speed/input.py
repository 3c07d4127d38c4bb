"""The part `input`: batches from prepared data to the devices."""

import contextlib
import functools
import math
import pathlib
import tempfile
import time

import jax
from ml_collections import ConfigDict
import numpy as np

from benchmarks.speed import latency, timing
from benchmarks.speed.host import CLIP_FRAMES, ellipses
from benchmarks.speed.parts import Bench
from benchmarks.speed.timing import Found, Series
from echoforge_jax.clip import Clip
from echoforge_jax.data import augment as device_views
from echoforge_jax.data import datasets as raw
from echoforge_jax.data import phantom_stream as streamed
from echoforge_jax.data import prepare as builder
from echoforge_jax.data.transforms import AugmentConfig
from echoforge_jax.inference import programs
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import build

# Batches that the pipeline may have ready.
_READ_AHEAD = 4


def _prepare(bench: Bench, folder: pathlib.Path) -> dict:
  """Prepares noise in a sector, and returns the config fields that read it."""
  side = bench.image_size
  # Half of the patients are labeled where some clips have no label.
  patients = max(4, bench.clips)
  video = programs.frames_of((side, side))[:CLIP_FRAMES]
  masks = ellipses(side, CLIP_FRAMES)

  def list_clips(raw_dir, split, scheme):
    names = {
      'train': range(patients),
      'validation': [patients],
      'test': [patients + 1],
    }
    return [
      (f'patient{n:04d}', view) for n in names[split] for view in ('2CH', '4CH')
    ]

  def read_clip(raw_dir, name, view):
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
  builder.prepare(
    'camus',
    folder / 'raw',
    folder / 'data',
    side,
    reader=raw.RawReader(
      list_clips, read_clip, is_synthetic=lambda raw_dir: True
    ),
  )
  unlabeled = bench.config.unlabeled_batch_size
  return {
    'data_dir': str(folder / 'data'),
    'dataset': 'camus',
    'split_scheme': 'official',
    'label_seed': 0,
    'label_fraction': 0.5 if unlabeled else 1.0,
  }


def with_data(bench: Bench, stack: contextlib.ExitStack) -> ConfigDict:
  """The config on prepared noise, or on streamed phantoms if it has those.

  Args:
    bench: what parts share.
    stack: removes the data when it is closed.

  Returns:
    A copy of the config.
  """
  config = bench.config.copy_and_resolve_references()
  data = config.data
  with config.unlocked():  # Configs of older runs lack both.
    data.augment_on = data.get('augment_on', 'host')
    data.cache_mb = data.get('cache_mb', 0)
  if data.dataset != streamed.DATASET:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    with config.unlocked():
      data.update(_prepare(bench, pathlib.Path(folder)))
  return config


def data_input(bench: Bench) -> Found:
  """The training iterator alone, up to batches that are on the devices.

  As the config has it; then with views drawn at the other place, and with every
  clip read anew. The device's own program, which draws the views of a batch
  that has arrived, is timed apart. Nothing else runs meanwhile; `starvation`
  measures both at once.
  """
  others = {}
  # Batches for which one group of drawn clips lasts.
  period = 1
  with contextlib.ExitStack() as stack:
    config = with_data(bench, stack)
    data = config.data
    if data.dataset == streamed.DATASET:
      period = _shrink_pool(config, bench.clips)
    series, first, seconds = _measure(bench, config, period)
    if data.cache_mb and data.dataset != streamed.DATASET:
      others['every clip read anew'], _, _ = _measure(
        bench, _with_data(config, cache_mb=0), period
      )
    for place in {'host', 'device'} - {data.augment_on}:
      others[f'augment_on {place}'], _, _ = _measure(
        bench, _with_data(config, augment_on=place), period
      )
    others['views on the device'] = _views(
      bench, _with_data(config, augment_on='device')
    )
  return Found(
    main=series,
    seconds=seconds,
    others=others,
    values={
      'first_batch_s': first,
      'augment_on': data.augment_on,
      'cache_mb': data.cache_mb,
      'num_workers': data.num_workers,
    },
  )


def _with_data(config: ConfigDict, **fields) -> ConfigDict:
  changed = config.copy_and_resolve_references()
  with changed.unlocked():
    changed.data.update(fields)
  return changed


def _measure(
  bench: Bench, config: ConfigDict, period: int
) -> tuple[Series, float, float]:
  """Times one iterator.

  Args:
    bench: what parts share.
    config: whose iterator it is.
    period: repeats are of a multiple of so many batches.

  Returns:
    clips/s; seconds until the first batch; median seconds of a batch.
  """
  split = mesh_lib.batch_sharding(bench.mesh)
  keys = build.make_objective(config).batch_keys
  if config.data.augment_on == 'device':
    keys = None  # All that the views are drawn from.
  with contextlib.ExitStack() as stack:
    compilations = stack.enter_context(latency.Compilations())
    start = time.perf_counter()
    iterator = build.make_iterator(config, process_index=0, process_count=1)
    stack.callback(iterator.close)

    def seconds_of(count):
      start = time.perf_counter()
      for _ in range(count):
        batch = next(iterator)
        jax.block_until_ready(
          mesh_lib.put_batch({key: batch[key] for key in keys or batch}, split)
        )
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
  return (
    Series(
      'clips/s', tuple(bench.clips / one for one in seconds), compile_s, calls
    ),
    first,
    float(np.median(seconds)),
  )


def _views(bench: Bench, config: ConfigDict) -> Series:
  """Times the program that draws views, on one batch."""
  split = mesh_lib.batch_sharding(bench.mesh)
  with contextlib.closing(
    build.make_iterator(config, process_index=0, process_count=1)
  ) as iterator:
    batch = mesh_lib.put_batch(next(iterator), split)
  views = device_views.make_views(
    AugmentConfig.from_mapping(config.data.augmentation.to_dict()),
    split,
    build.make_objective(config).batch_keys,
  )
  program = timing.compile_program(views, batch)
  return timing.rate(
    functools.partial(program.run, batch),
    bench.repeats,
    bench.clips,
    'clips/s',
    program.compile_s,
  )[0]


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
