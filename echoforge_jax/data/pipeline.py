"""Prepared clips -> batches: deterministic, restorable, sharded by process.

    clip numbers, shuffled by epoch -> read and augment -> own rows -> batch

Augmenting may be left to the device (`device_views`): then a batch holds plain
frames, and a seed a clip that its views are drawn from.

The stream before the rows are divided is the same on every process, and every
process takes a block of each batch: the clips of a step, their augmentation and
their order depend on the seed and the step only, not on how many processes
share them or how many workers read ahead. The state of an iterator is the
number of batches it gave, so it fits any number of either.

The only file that uses grain's experimental names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import hashlib
import math
import os

import grain
import numpy as np

from echoforge_jax.clip import IGNORE
from echoforge_jax.data import examples
from echoforge_jax.data import phantom_stream as streamed
from echoforge_jax.data.prepared import ClipSource, load_split
from echoforge_jax.data.selection import (
  class_table,
  divide_clips,
  frame_indices,
)
from echoforge_jax.data.training_clips import FIELDS, ClipCache, TrainingClips
from echoforge_jax.data.transforms import AugmentConfig
from echoforge_jax.errors import InputError

SUPERVISION = ('sparse', 'full')
SAMPLERS = ('linspace', 'truncate', 'all')
AUGMENT_ON = ('host', 'device')
Batch = dict[str, np.ndarray]


def _interleave(batches: tuple[Batch, ...]) -> Batch:
  """Joins labeled and unlabeled clips, evenly mixed.

  However many processes divide a batch, its rows are in the same order, and
  every device gets clips of both kinds where there are enough.
  """
  groups = math.gcd(*(len(batch['labeled']) for batch in batches))
  joined = {}
  for name in batches[0]:
    parts = [
      batch[name].reshape(groups, -1, *batch[name].shape[1:])
      for batch in batches
    ]
    mixed = np.concatenate(parts, axis=1)
    joined[name] = mixed.reshape(-1, *mixed.shape[2:])
  return joined


def _check_numbers(
  num_frames,
  supervision,
  batch_size,
  unlabeled_batch_size,
  process_index,
  process_count,
  augment_on,
  cache_mb,
) -> None:
  if num_frames < 2:
    raise InputError(
      f'num_frames: found {num_frames}, wanted 2 (ED and ES) or more'
    )
  if supervision not in SUPERVISION:
    raise InputError(
      f'supervision: found {supervision!r}, wanted one of {list(SUPERVISION)}'
    )
  if augment_on not in AUGMENT_ON:
    raise InputError(
      f'augment_on: found {augment_on!r}, wanted one of {list(AUGMENT_ON)}'
    )
  if not cache_mb >= 0:
    raise InputError(f'cache_mb: found {cache_mb}, wanted 0 (off) or more')
  if batch_size < 1 or unlabeled_batch_size < 0:
    raise InputError(
      f'batch_size {batch_size} and unlabeled_batch_size '
      f'{unlabeled_batch_size}: wanted at least 1 and 0'
    )
  if not 0 <= process_index < process_count:
    raise InputError(
      f'process_index: found {process_index} of {process_count} processes'
    )


def _check_supply(name, source, clips, batch_size, process_count) -> None:
  """Every process needs a batch of different clips and a clip of its own."""
  if len(clips) < max(batch_size, process_count):
    raise InputError(
      f'{source.path}: the split {source.split!r} holds {len(clips)} {name} '
      f'clips, wanted at least {max(batch_size, process_count)} for a batch '
      f'of {batch_size} on each of {process_count} processes; lower the '
      f'batch size, or change label_fraction (its unlabeled clips are those '
      'of the other patients)'
    )


def make_train_dataset(
  *,
  data_dir: str | os.PathLike,
  dataset: str,
  image_size: int,
  num_frames: int,
  batch_size: int,
  seed: int,
  classes: Sequence[str] = ('lv',),
  supervision: str = 'sparse',
  label_fraction: float = 1.0,
  label_seed: int = 0,
  unlabeled_batch_size: int = 0,
  augmentation: AugmentConfig | Mapping | None = None,
  augment_on: str = 'host',
  split: str = 'train',
  split_scheme: str = 'official',
  process_index: int = 0,
  process_count: int = 1,
  stream: Mapping | None = None,
  first_batch: int = 0,
  cache_mb: float = 0,
  num_workers: int = 0,
  num_threads: int | None = None,
) -> grain.IterDataset:
  """Builds the infinite stream of training batches.

  Args:
    data_dir: root of all prepared data.
    dataset: name of the dataset, for example 'camus'.
    image_size: S in pixels.
    num_frames: T, frames from ED to ES.
    batch_size: labeled clips a step on this process.
    seed: decides order and augmentation, together with the step.
    classes: foreground classes; the first has id 1, the second 2, ...
    supervision: 'sparse' (ED and ES are labeled) or 'full' (all frames).
    label_fraction: share of the patients whose labels are used, in (0, 1].
    label_seed: which patients these are; see `selection.labeled_patients`.
    unlabeled_batch_size: clips of the other patients a step on this process.
    augmentation: an `AugmentConfig`, or a mapping of its fields.
    augment_on: 'host' draws the views here; 'device' picks frames only (jitter
      and reversal), for `device_views` to draw them.
    split: which split to train on.
    split_scheme: which split files decided.
    process_index: which of the processes this is.
    process_count: how many processes share the stream.
    stream: fields of `streamed.StreamConfig`, for the dataset 'phantom_stream',
      whose clips are drawn as they are needed, not read.
    first_batch: batches to leave out, at no cost.
    cache_mb: memory for clips that were read, in 10^6 bytes over all workers; 0
      reads every clip anew. Streamed phantoms have a pool of their own.
    num_workers: processes that read ahead; 0 reads in threads of this one.
      A script that asks for workers guards its start with
      `if __name__ == '__main__'`.
    num_threads: threads that read ahead, in this process or in each worker;
      None takes the number of processors, at most 4 (1 in a worker).

  Returns:
    A grain dataset of batches, B = batch_size + unlabeled_batch_size, labeled
    and unlabeled clips in turn: video_weak, video_strong uint8 [B, T, S, S,
    1]; masks uint8 [B, T, S, S] with class ids, `IGNORE` on all frames whose
    label training does not see; labeled bool [B, T]; spacing_mm float32 [B, 2]
    mm per pixel (row, column) of the augmented frames, NaN where unknown.
    For the device: video uint8 [B, T, S, S, 1]; masks uint8 [B, N, S, S], 0
    where there is no label, N = 2 (first and last frame) under sparse
    supervision, else T; labeled; spacing_mm of the frames as they are; seed
    uint32 [B], which depends on nothing but `seed` and the place in training.

  Raises:
    InputError: when an argument is out of range, or there are fewer clips than
      a batch or the processes need.
  """
  _check_numbers(
    num_frames,
    supervision,
    batch_size,
    unlabeled_batch_size,
    process_index,
    process_count,
    augment_on,
    cache_mb,
  )
  if not isinstance(augmentation, AugmentConfig):
    augmentation = AugmentConfig.from_mapping(augmentation)
  table = class_table(classes)
  if dataset == streamed.DATASET:
    cache_mb = 0
    source = _phantoms(stream, num_frames, image_size, seed, num_workers)

    def order(clips, own_seed):
      return streamed.StreamOrder(clips.config, own_seed)

    # Other patients, and a window that moves at its own pace.
    labeled, unlabeled = (
      source,
      _phantoms(
        stream, num_frames, image_size, _stream_seed(seed, 1), num_workers
      ),
    )
  else:
    source = load_split(
      data_dir,
      dataset,
      split,
      image_size,
      split_scheme=split_scheme,
      features=FIELDS,
    )
    order = examples.Order
    labeled, unlabeled = divide_clips(source, label_fraction, label_seed)
  # Labeled and unlabeled clips are never the same.
  cache = ClipCache(cache_mb / max(num_workers, 1))
  make_examples = examples.Examples
  if augment_on == 'device':
    make_examples = functools.partial(
      examples.PlainExamples,
      num_masks=2 if supervision == 'sparse' else num_frames,
    )
  if num_threads is None:
    num_threads = 1 if num_workers else min(4, os.cpu_count() or 1)
  options = grain.ReadOptions(
    num_threads=num_threads, prefetch_buffer_size=max(2, num_threads)
  )

  def rows_of(name, clips, size, number, supervision):
    _check_supply(name, source, clips, size, process_count)
    own_seed = _stream_seed(seed, number)
    own = clips if dataset == streamed.DATASET else source
    transform = make_examples(
      TrainingClips(own, supervision, cache),
      table,
      num_frames,
      supervision,
      augmentation,
    )
    numbers = grain.MapDataset.source(order(clips, own_seed))
    drawn = numbers.seed(own_seed).random_map(transform)
    rows = examples.OwnRows(
      drawn,
      size=size,
      index=process_index,
      count=process_count,
      first_batch=first_batch,
    )
    return rows.batch(size).to_iter_dataset(options)

  batches = rows_of('labeled', labeled, batch_size, 0, supervision)
  if unlabeled_batch_size:
    rest = rows_of('unlabeled', unlabeled, unlabeled_batch_size, 1, 'none')
    batches = grain.experimental.ZipIterDataset([batches, rest])
    batches = batches.map(_interleave)
  if not num_workers:
    return batches
  return _with_workers(batches, num_workers)


def _phantoms(
  stream, num_frames, image_size, seed, num_workers
) -> streamed.PhantomSource:
  if num_workers:
    raise InputError(
      f'config.data.num_workers is {num_workers}; phantom clips are drawn by '
      'the training process itself: set it to 0'
    )
  return streamed.PhantomSource(
    streamed.StreamConfig.from_mapping(stream),
    num_frames=num_frames,
    image_size=image_size,
    seed=seed,
  )


def _stream_seed(seed: int, number: int) -> int:
  """Seed of one of the streams, in 32 bits; streams share no randomness."""
  digest = hashlib.sha256(f'{seed}:{number}'.encode()).digest()
  return int.from_bytes(digest[:4], 'little')


def _with_workers(
  batches: grain.IterDataset, num_workers: int
) -> grain.IterDataset:
  """Reads ahead in other processes; the order stays the same.

  Grain starts them anew (spawn) whatever the platform does by default, so that
  threads and devices of this process are no matter.
  """
  from absl import flags  # Grain reads them in its workers and raises unless

  if not flags.FLAGS.is_parsed():  # they are parsed; nobody here defines any.
    flags.FLAGS.mark_as_parsed()
  return batches.mp_prefetch(
    grain.MultiprocessingOptions(
      num_workers=num_workers, per_worker_buffer_size=2
    ),
    _start_worker,
  )


def _start_worker(index: int, count: int) -> None:
  """Keeps a worker off the accelerators, which belong to the trainer."""
  del index, count
  import jax  # Grain imports it anyhow; nothing here computes with it.

  jax.config.update('jax_platforms', 'cpu')


class TrainIterator:
  """Endless training batches; its state is the number of batches given.

  The state is the same in every process and fits an iterator with any number of
  processes, workers and threads: it goes on with the very next clip.
  """

  def __init__(self, make_dataset: Callable[[int], grain.IterDataset]):
    """Starts at the first batch.

    Args:
      make_dataset: number of the first batch -> the dataset from there on.
    """
    self._make_dataset = make_dataset
    self._given = 0
    self._iterator = iter(make_dataset(0))

  def __iter__(self) -> 'TrainIterator':
    return self

  def __next__(self) -> Batch:
    batch = next(self._iterator)
    self._given += 1
    return batch

  def get_state(self) -> dict[str, int]:
    """How far it is, as JSON takes it."""
    return {'batches': self._given}

  def set_state(self, state: Mapping[str, int]) -> None:
    """Goes to where another iterator was.

    Args:
      state: of `get_state`.

    Raises:
      InputError: for anything else.
    """
    given = state.get('batches') if isinstance(state, Mapping) else None
    if not isinstance(given, int) or given < 0:
      raise InputError(
        f'position in the data: found {state!r}, wanted the number of '
        "batches that were read, {'batches': N}"
      )
    self.close()
    self._given = given
    self._iterator = iter(self._make_dataset(given))

  def close(self) -> None:
    """Ends the threads and workers that read ahead."""
    self._iterator.close()


def make_train_iterator(**kwargs) -> TrainIterator:
  """Starts the stream of training batches.

  Args:
    **kwargs: see `make_train_dataset`, but `first_batch`.

  Returns:
    Endless iterator over batches with `get_state()` and `set_state()`.
  """

  def make_dataset(first_batch: int) -> grain.IterDataset:
    return make_train_dataset(first_batch=first_batch, **kwargs)

  return TrainIterator(make_dataset)


class EvalClips:
  """Clips of a split with their truth, in the order of the records.

  See `eval_clips` for what a clip holds.
  """

  def __init__(
    self, source: ClipSource, table: np.ndarray, num_frames: int, sampler: str
  ):
    self._source = source
    self._table = table
    self._num_frames = num_frames
    self._sampler = sampler

  def __len__(self) -> int:
    return len(self._source)

  def __iter__(self) -> Iterator[dict]:
    return (self[number] for number in range(len(self)))

  def __getitem__(self, number: int) -> dict:
    clip = self._source[number]
    frames, masks = clip.pop('frames'), clip.pop('masks')
    ed, es, labeled = clip.pop('ed'), clip.pop('es'), clip.pop('labeled')
    if self._sampler == 'all':
      rows = np.arange(len(frames))
    else:
      rows = frame_indices(
        ed, es, self._num_frames, truncate=self._sampler == 'truncate'
      )
    truth = self._table[masks[rows]]
    truth[~labeled[rows]] = IGNORE
    return clip | {
      'video': frames[rows][..., None],
      'masks': truth,
      'labeled': labeled[rows],
      'frames': rows,
      'ed': int(np.flatnonzero(rows == ed)[0]),
      'es': int(np.flatnonzero(rows == es)[-1]),
    }


def eval_clips(
  *,
  data_dir: str | os.PathLike,
  dataset: str,
  image_size: int,
  num_frames: int,
  split: str,
  classes: Sequence[str] = ('lv',),
  sampler: str = 'linspace',
  split_scheme: str = 'official',
  stream: Mapping | None = None,
) -> EvalClips:
  """Opens a split for evaluation: no augmentation, all the truth there is.

  Args:
    data_dir: root of all prepared data.
    dataset: name of the dataset.
    image_size: S in pixels.
    num_frames: T, frames from ED to ES; ignored by the sampler 'all'.
    split: 'train', 'validation' or 'test'.
    classes: foreground classes; the first has id 1, the second 2, ...
    sampler: 'linspace' (rounded), 'truncate' (cut to whole numbers) or 'all'
      (every frame of the clip, of which T then is the number).
    split_scheme: which split files decided.
    stream: as in `make_train_dataset`; clips are the held-out ones.

  Returns:
    A sequence of dicts: video uint8 [T, S, S, 1]; masks uint8 [T, S, S] class
    ids, `IGNORE` on frames without a label; labeled bool [T]; frames int64
    [T], numbers in the whole clip; ed and es, positions in the T frames;
    patient, view, quality; spacing_mm and native_spacing_mm float32 [2] mm per
    pixel (row, column); native_size int32 [2]; fps, ef_percent, edv_ml, esv_ml.

  Raises:
    InputError: when an argument is out of range or the split not prepared.
  """
  if sampler not in SAMPLERS:
    raise InputError(
      f'sampler: found {sampler!r}, wanted one of {list(SAMPLERS)}'
    )
  if num_frames < 2 and sampler != 'all':
    raise InputError(f'num_frames: found {num_frames}, wanted 2 or more')
  if dataset == streamed.DATASET:
    source = streamed.PhantomSource(
      streamed.StreamConfig.from_mapping(stream),
      num_frames=num_frames,
      image_size=image_size,
      seed=0,
      split=split,
    )
  else:
    source = load_split(
      data_dir, dataset, split, image_size, split_scheme=split_scheme
    )
  return EvalClips(source, class_table(classes), num_frames, sampler)
