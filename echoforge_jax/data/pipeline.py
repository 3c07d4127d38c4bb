"""Prepared clips -> batches: deterministic, restorable, divided by process.

The batches of a step depend on the seed and the step only: every process takes a block of each
batch, however many processes share it. The only file that imports grain.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import hashlib
import math
import os

import grain
import numpy as np

from echoforge_jax.clip import IGNORE
from echoforge_jax.data import examples, phantom_stream
from echoforge_jax.data.prepared import ClipSource, load_split
from echoforge_jax.data.selection import class_table, divide_clips, protocol_frames
from echoforge_jax.data.spec import DataSpec
from echoforge_jax.errors import InputError
from echoforge_jax.parallel.mesh import local_batch_size

SAMPLERS = ('linspace', 'truncate', 'all')
Batch = dict[str, np.ndarray]


def _interleave(batches: tuple[Batch, ...]) -> Batch:
  """Joins labeled and unlabeled clips, evenly mixed.

  However many processes divide a batch, its rows are in the same order, and every device gets clips
  of both kinds where there are enough.
  """
  groups = math.gcd(*(len(batch['labeled']) for batch in batches))
  joined = {}
  for name in batches[0]:
    parts = [batch[name].reshape(groups, -1, *batch[name].shape[1:]) for batch in batches]
    joined[name] = np.concatenate(parts, axis=1).reshape(-1, *batches[0][name].shape[1:])
  return joined


def _stream_seed(seed: int, number: int) -> int:
  """Returns the seed of one of the streams, in 32 bits; streams share no randomness."""
  digest = hashlib.sha256(f'{seed}:{number}'.encode()).digest()
  return int.from_bytes(digest[:4], 'little')


def _phantoms(spec: DataSpec, seed: int, split: str):
  return phantom_stream.PhantomSource(
    spec.stream, num_frames=spec.num_frames, image_size=spec.image_size, seed=seed, split=split
  )


def _load(spec: DataSpec, split: str, **options) -> ClipSource:
  options |= {'image_size': spec.image_size, 'split_scheme': spec.split_scheme}
  return load_split(spec.data_dir, spec.dataset, split, **options)


def _streams(spec: DataSpec, local_sizes: list[int], process_count: int):
  """Yields (clips, order of their numbers), labeled ones first."""
  seeds = [_stream_seed(spec.seed, number) for number in range(2)]
  if spec.dataset == phantom_stream.DATASET:
    # Unlabeled ones are other patients, in a window with its own pace.
    pooled = dataclasses.replace(spec, cache_mb=0)
    for number, hidden in ((0, ()), (1, None)):
      source = _phantoms(spec, seeds[1] if number else spec.seed, 'train')
      clips = examples.TrainingClips(source, pooled, hidden)
      yield clips, phantom_stream.StreamOrder(spec.stream, seeds[number])
    return
  source = _load(spec, 'train', features=examples.FIELDS)
  labeled, unlabeled = divide_clips(
    source, spec.label_fraction, spec.label_seed, spec.labeled_patients
  )
  clips = examples.TrainingClips(source, spec, unlabeled)
  chosen = {'labeled': labeled, 'unlabeled': unlabeled}
  for (name, numbers), size, seed in zip(chosen.items(), local_sizes, seeds):
    # Every process needs a batch of different clips and a clip of its own.
    least = max(size, process_count)
    if size and len(numbers) < least:
      raise InputError(
        f'{source.path}: the split {source.split!r} holds {len(numbers)} {name} clips, wanted at '
        f'least {least} for a batch of {size} on each of {process_count} processes; lower the '
        'batch size, or change label_fraction or labeled_patients (unlabeled clips are those of '
        'the other patients)'
      )
    yield clips, examples.Order(numbers, seed)


def make_train_dataset(
  spec: DataSpec,
  *,
  process_index: int = 0,
  process_count: int = 1,
  first_batch: int = 0,
  num_threads: int | None = None,
) -> grain.IterDataset:
  """Builds this process's part of the infinite stream of training batches.

  Args:
    spec: clips and batches.
    process_index: which of the `process_count` processes this is.
    process_count: how many processes share the stream.
    first_batch: batches to leave out, at no cost.
    num_threads: threads that read ahead; None takes the number of processors, at most 4.

  Returns:
    A grain dataset of batches, labeled and unlabeled clips in turn, as `augment.make_views` takes
    them: video uint8 [B, T, S, S, 1]; masks uint8 [B, N, S, S] with class ids, 0 where there is no
    label, N = 2 (first and last frame) under sparse supervision, else T; labeled bool [B, T];
    spacing_mm float32 [B, 2] mm per pixel (row, column), NaN where unknown; seed uint32 [B], of the
    clip's views.
  """
  if not 0 <= process_index < process_count:
    raise InputError(f'process_index: found {process_index} of {process_count} processes')
  sizes = [
    local_batch_size(name, getattr(spec, name), process_count)
    for name in ('batch_size', 'unlabeled_batch_size')
  ]
  num_threads = min(4, os.cpu_count() or 1) if num_threads is None else num_threads
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(2, num_threads))
  parts = []
  for number, (clips, order) in enumerate(_streams(spec, sizes, process_count)):
    if size := sizes[number]:
      drawn = grain.MapDataset.source(order).seed(_stream_seed(spec.seed, number))
      drawn = drawn.random_map(examples.Examples(clips, spec))
      blocks = drawn.batch(size)[process_index::process_count][first_batch:]
      parts.append(blocks.to_iter_dataset(options))
  if len(parts) == 1:
    return parts[0]
  return grain.experimental.ZipIterDataset(parts).map(_interleave)


class TrainIterator:
  """Endless training batches; its state, the number of batches given, fits any process count."""

  def __init__(self, make_dataset: Callable[[int], grain.IterDataset]):
    """Starts at the first batch; `make_dataset` gives the dataset from batch n on."""
    self._make_dataset, self._given = make_dataset, 0
    self._iterator = iter(make_dataset(0))

  def __iter__(self) -> 'TrainIterator':
    return self

  def __next__(self) -> Batch:
    batch = next(self._iterator)
    self._given += 1
    return batch

  def get_state(self) -> dict[str, int]:
    """Returns the position, as JSON takes it."""
    return {'batches': self._given}

  def set_state(self, state: Mapping[str, int]) -> None:
    """Moves to a position of `get_state`."""
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
    """Ends the threads that read ahead."""
    self._iterator.close()


def make_train_iterator(spec: DataSpec, **options) -> TrainIterator:
  """Starts the stream of training batches; options are those of `make_train_dataset`."""
  return TrainIterator(lambda first: make_train_dataset(spec, first_batch=first, **options))


class EvalClips:
  """Clips of a split with their truth, in the order of the records."""

  def __init__(self, source: ClipSource, table: np.ndarray, num_frames: int, sampler: str):
    self._source, self._table = source, table
    self._num_frames, self._sampler = num_frames, sampler

  def __len__(self) -> int:
    return len(self._source)

  def __iter__(self) -> Iterator[dict]:
    return (self[number] for number in range(len(self)))

  def __getitem__(self, number: int) -> dict:
    """Returns one clip; see `eval_clips`."""
    clip = self._source[number]
    frames, masks, ed, es, labeled = (
      clip.pop(name) for name in ('frames', 'masks', 'ed', 'es', 'labeled')
    )
    if self._sampler == 'all':
      rows = np.arange(len(frames))
    else:
      truncate = self._sampler == 'truncate'
      rows = protocol_frames(ed, es, self._num_frames, truncate=truncate)
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


def eval_clips(spec: DataSpec, split: str, sampler: str = 'linspace') -> EvalClips:
  """Opens a split for evaluation: no augmentation, all the truth there is.

  Args:
    spec: clips; how they become batches does not matter.
    split: 'train', 'validation' or 'test'; of streamed phantoms 'validation' gives those held out.
    sampler: 'linspace' (rounded), 'truncate' (cut to whole numbers) or 'all' (every frame of the
      clip, whatever `spec.num_frames`).

  Returns:
    A sequence of dicts: video uint8 [T, S, S, 1]; masks uint8 [T, S, S] class ids, `IGNORE` on
    frames without a label; labeled bool [T]; frames int64 [T], numbers in the whole clip; ed and
    es, positions in the T frames; patient, view, quality; spacing_mm and native_spacing_mm float32
    [2] mm per pixel (row, column); native_size int32 [2]; fps, ef_percent, edv_ml, esv_ml;
    ef_source, as of `Clip`. A clip without frames between ED and ES has T = 2, a still T = 1.
  """
  if sampler not in SAMPLERS:
    raise InputError(f'sampler: found {sampler!r}, wanted one of {list(SAMPLERS)}')
  if spec.dataset == phantom_stream.DATASET:
    source = _phantoms(spec, 0, split)
  else:
    source = _load(spec, split)
  return EvalClips(source, class_table(spec.classes), spec.num_frames, sampler)
