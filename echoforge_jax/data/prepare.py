"""Prepared data: a raw dataset squeezed to one grid, in ArrayRecord files.

    <data_dir>/<dataset>/<scheme>_<size>/<version>/   complete, never modified
    <data_dir>/<dataset>/.<scheme>_<size>.partial/    an unfinished preparation

Clips are decoded, squeezed and written once, a shard of some clips at a time. Each complete shard
has a note in a journal, so that an interrupted run goes on with the first shard that is missing.
The folder gets its name when all shards and the metadata of tensorflow_datasets are in it.
"""

import collections
from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import fcntl
import fnmatch
import os
import pathlib
import shutil

from tqdm import tqdm

from echoforge_jax.data import datasets as raw
from echoforge_jax.data.prepared import SPLITS, VERSION, prepared_path, read_index
from echoforge_jax.data.shards import ShardWriter, cut_into_shards
from echoforge_jax.errors import InputError

# What an interrupted run may lose, and what is in memory at once.
_CLIPS_PER_SHARD = 32


@dataclasses.dataclass(frozen=True)
class Prepared:
  """What lies in a prepared folder."""

  path: pathlib.Path  # Holds ArrayRecord files.
  counts: dict[str, tuple[int, int, int]]  # Split -> (patients, clips, frames).
  num_bytes: int
  reused: bool  # It was complete before and nothing was written.
  skipped: list[dict]  # [{'patient', 'view', 'split', 'reason'}, ...], clips left out.
  ef_sources: dict[str, int]  # Clips by what their EF was measured on; the others state it or none.


class ClipsFailed(InputError):
  """Some clips could not be read (`skipped`, as of `Prepared`); all others are kept."""

  def __init__(self, raw_dir, skipped: list[dict]):
    self.skipped = skipped
    first = '; '.join(skip['reason'] for skip in skipped[:3])
    more = f'; and {len(skipped) - 3} more' if len(skipped) > 3 else ''
    super().__init__(
      f'{raw_dir}: {len(skipped)} clips cannot be prepared: {first}{more}. The others are kept: '
      'mend these and start again, or pass --allow_skips to go on without them; `echoforge verify` '
      'lists all that is wrong'
    )


def _summary(path: pathlib.Path, reused: bool) -> Prepared:
  index = read_index(path)
  counts = {}
  for split, clips in index['clips'].items():
    patients, frames = {clip['patient'] for clip in clips}, sum(c['num_frames'] for c in clips)
    counts[split] = len(patients), len(clips), frames
  size = sum(file.stat().st_size for file in path.iterdir())
  sources = collections.Counter(
    clip['ef_source'] for clips in index['clips'].values() for clip in clips if 'ef_source' in clip
  )
  return Prepared(path, counts, size, reused, index.get('skipped', []), dict(sources))


def _list_splits(
  reader: raw.Reader, scheme: str, excluded: frozenset[str]
) -> dict[str, list[tuple[str, str]]]:
  """Lists all clips of every split; a patient may be in one split only."""
  raw_dir = reader.raw_dir
  if not any(fnmatch.fnmatchcase(scheme, known) for known in reader.schemes):
    raise InputError(f'split_scheme: found {scheme!r}, wanted one of {list(reader.schemes)}')
  listed = {s: raw.list_checked(reader, s, scheme) for s in SPLITS}
  # A misspelt name would leave the clip in.
  known = {patient for clips in listed.values() for patient, _ in clips}
  if unknown := sorted(excluded - set(reader.excluded) - known):
    more = f' and {len(unknown) - 3} more' if len(unknown) > 3 else ''
    raise InputError(
      f'exclude: found {", ".join(map(repr, unknown[:3]))}{more}, '
      f'wanted names that {raw_dir} lists; correct the names'
    )
  if not any(patient not in excluded for patient, _ in listed['train']):
    raise InputError(
      f"{raw_dir}: no patient in the split 'train' of the scheme {scheme!r}; wanted at least one; "
      '`verify` says what is wrong'
    )
  owner = {}
  for split, clips in listed.items():
    if len(set(clips)) < len(clips):
      raise InputError(
        f'{raw_dir}: the split {split!r} of the scheme {scheme!r} names a '
        'patient twice; wanted every patient once; correct the split files'
      )
    for patient, _ in clips:
      if owner.setdefault(patient, split) != split:
        raise InputError(
          f'{raw_dir}: {patient} is in the splits {owner[patient]!r} and {split!r} of the scheme '
          f'{scheme!r}; wanted every patient in one split only; correct the split files'
        )
  return listed


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  """Holds a folder against a second preparation, until the process ends."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / 'lock', 'w')  # noqa: SIM115
  except OSError as error:
    raise InputError(
      f'{folder}: cannot write ({error.strerror}); choose a data_dir that you may write to'
    ) from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise InputError(
        f'{folder}: another preparation is running here; wait until it has finished'
      ) from error
    yield


def prepare(
  dataset: str,
  raw_dir: str | os.PathLike,
  data_dir: str | os.PathLike,
  image_size: int = 256,
  *,
  split_scheme: str = 'official',
  overwrite: bool = False,
  allow_skips: bool = False,
  excluded: Iterable[str] | None = None,
  progress: bool = False,
  reader: raw.Reader | None = None,
  clips_per_shard: int = _CLIPS_PER_SHARD,
) -> Prepared:
  """Squeezes a raw dataset to one grid and writes it as ArrayRecord.

  May be interrupted and started again at any time; the same raw files give the same bytes.

  Args:
    dataset: as `raw.reader_of` takes it.
    raw_dir: root of the raw dataset.
    data_dir: root of all prepared data.
    image_size: S, side of the square in pixels.
    split_scheme: which split files decide, one of the reader's `schemes`.
    overwrite: replace data that were prepared from other raw files.
    allow_skips: leave out clips that cannot be read; the index names them.
    excluded: patients (EchoNet: clips) to leave out unread; None takes the dataset's own list.
    progress: show a progress bar.
    reader: of `raw_dir`; by default the dataset's own.
    clips_per_shard: clips in one file, which are written together.

  Returns:
    What was prepared, or what was found complete.
  """
  reader = reader or raw.reader_of(dataset)(raw_dir)
  raw_dir = reader.raw_dir
  if not 16 <= image_size <= 2048:
    raise InputError(f'image_size: found {image_size}, wanted 16 to 2048')
  excluded = frozenset(reader.excluded if excluded is None else excluded)
  splits = _list_splits(reader, split_scheme, excluded)
  path = prepared_path(data_dir, dataset, split_scheme, image_size)
  index = {
    'fingerprint': raw.fingerprint(raw_dir, reader.suffixes, data_dir, reader.options),
    'dataset': dataset,
    'image_size': image_size,
    'split_scheme': split_scheme,
    'synthetic': bool(reader.synthetic),
    'excluded': sorted(excluded),
  }
  if path.exists() and _is_complete(path, index, raw_dir, allow_skips, overwrite):
    return _summary(path, reused=True)
  partial = path.parents[1] / f'.{path.parent.name}.partial'
  name = f'{VERSION}-{index["fingerprint"][:16]}-{clips_per_shard}'
  with _locked(partial):
    try:
      writer = ShardWriter(reader, image_size, partial / name, partial / f'{name}.journal')
      shards = cut_into_shards(dataset, splits, excluded, clips_per_shard)
      _write(writer, shards, index, path, allow_skips, progress)
    except OSError as error:
      raise InputError(
        f'{data_dir}: cannot write ({error}); free space or '
        'choose another data_dir, then start again'
      ) from error
    shutil.rmtree(partial)
  return _summary(path, reused=False)


def _is_complete(path, index, raw_dir, allow_skips, overwrite) -> bool:
  """Tells whether `path` holds what is asked for, or refuses to replace it."""
  found = read_index(path)
  same = all(
    found.get(key, index[key]) == index[key] for key in ('fingerprint', 'dataset', 'excluded')
  )
  if not same and not overwrite:
    raise InputError(
      f'{path}: prepared from other raw files than those in {raw_dir} now, or with another list of '
      'excluded clips; pass --overwrite to prepare again, or choose another data_dir'
    )
  return same and (allow_skips or not found.get('skipped'))


def _write(writer: ShardWriter, shards, index: dict, path, allow_skips, progress) -> None:
  """Writes all shards and, unless clips fail that must not, the folder."""
  writer.folder.mkdir(exist_ok=True)
  writer.journal.mkdir(exist_ok=True)
  total = sum(len(shard.clips) for shard in shards)
  with tqdm(total=total, unit='clip', disable=not progress) as bar:
    notes = writer.run(shards, allow_skips, bar)
  index |= {'clips': {split: [] for split in SPLITS}, 'skipped': []}
  for shard, note in zip(shards, notes):
    index['clips'][shard.split] += note['clips']
    index['skipped'] += note['skipped']
  if index['skipped'] and not allow_skips:
    raise ClipsFailed(writer.reader.raw_dir, index['skipped'])
  if not index['clips']['train']:
    raise InputError(
      f"{writer.reader.raw_dir}: no clip of the split 'train' can be "
      f'read; the first: {index["skipped"][0]["reason"]}'
    )
  writer.finish(shards, notes, index, path)
