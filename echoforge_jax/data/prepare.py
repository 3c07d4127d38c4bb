"""Prepared data: a raw dataset squeezed to one grid, in ArrayRecord files.

    <data_dir>/<dataset>/<scheme>_<size>/<version>/   complete, never modified
    <data_dir>/<dataset>/.<scheme>_<size>.partial/    an unfinished preparation

A preparation squeezes one clip after the other into the partial folder, then a
tensorflow_datasets builder writes the records into a temporary folder that is
renamed when it is complete. An interrupted run continues with the first clip
that is missing. The records carry a fingerprint of the raw files.
"""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
import shutil

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from echoforge_jax.data import datasets as raw
from echoforge_jax.data import squeezing
from echoforge_jax.data.prepared import (  # noqa: F401
  SPLITS,
  VERSION,
  config_name,
  load_split,
  prepared_path,
  read_index,
)
from echoforge_jax.errors import InputError


@dataclasses.dataclass(kw_only=True)
class SquareConfig(tfds.core.BuilderConfig):
  """One prepared grid: every clip squeezed to image_size x image_size.

  Attributes:
    image_size: S, side of the square in pixels.
    split_scheme: which split files decide ('official', 'memsam').
  """

  image_size: int = 256
  split_scheme: str = 'official'


def example_features(image_size: int) -> tfds.features.FeaturesDict:
  """Features of one example: one clip of one view on the squeezed grid.

  Frames and masks are stored as bytes and compressed by ArrayRecord (zstd):
  0.2 MB and 0.6 ms a clip of 20 frames at 128 x 128, where the features' own
  zlib takes 2.1 ms.
  """
  tensor = tfds.features.Tensor
  video = functools.partial(
    tensor,
    shape=(None, image_size, image_size),
    dtype=np.uint8,
    encoding='bytes',
  )
  number = functools.partial(tensor, shape=(), dtype=np.float32)
  return tfds.features.FeaturesDict(
    {
      'patient': tfds.features.Text(),
      'view': tfds.features.Text(),
      'frames': video(),
      'masks': video(),
      'labeled': tensor(shape=(None,), dtype=np.bool_),
      'ed': tensor(shape=(), dtype=np.int32),
      'es': tensor(shape=(), dtype=np.int32),
      'spacing_mm': tensor(shape=(2,), dtype=np.float32),
      'native_size': tensor(shape=(2,), dtype=np.int32),
      'native_spacing_mm': tensor(shape=(2,), dtype=np.float32),
      'fps': number(),
      'quality': tfds.features.Text(),
      'ef_percent': number(),
      'edv_ml': number(),
      'esv_ml': number(),
    }
  )


class _LocalInfo(tfds.core.DatasetInfo):
  """Dataset info that never asks the public bucket for a copy of itself."""

  def initialize_from_bucket(self) -> None:
    """Does nothing: these datasets exist on this machine only."""


class ClipBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes clips that were squeezed into `.npz` files before.

  Attributes:
    squeezed: split -> files, one a clip, in the order of the records.
  """

  VERSION = tfds.core.Version(VERSION)
  BUILDER_CONFIGS = [
    SquareConfig(
      name=config_name(scheme, size), image_size=size, split_scheme=scheme
    )
    for size in (256, 128, 112)
    for scheme in raw.SPLIT_SCHEMES
  ]

  # Nothing is downloaded: no checksums to look for, no download to report.
  url_infos = None

  squeezed: dict[str, list[pathlib.Path]] = {}

  def _log_download_bytes(self) -> None:
    pass

  def _log_download_done(self) -> None:
    pass

  @classmethod
  def get_builder_config(cls, name, version=None) -> SquareConfig:
    """Returns the config of a name; every size has one, listed or not."""
    scheme, _, size = name.rpartition('_')
    return super().get_builder_config(name, version) or SquareConfig(
      name=name, image_size=int(size), split_scheme=scheme
    )

  def _info(self) -> tfds.core.DatasetInfo:
    # Shuffling is the reader's business: records stay in the order of ids.
    return _LocalInfo(
      builder=self,
      features=example_features(self.builder_config.image_size),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      split: self._generate_examples(files)
      for split, files in self.squeezed.items()
      if files
    }

  def _generate_examples(self, files):
    for key, file in enumerate(files):
      with np.load(file) as arrays:
        yield (
          key,
          {
            name: array if array.shape else array[()]
            for name, array in arrays.items()
          },
        )


class Camus(ClipBuilder, skip_registration=True):
  """CAMUS: 500 patients, 2CH and 4CH, ED to ES with every frame labeled."""


class Echonet(ClipBuilder, skip_registration=True):
  """EchoNet-Dynamic: 4CH clips with two labeled frames each.

  Training clips run from ED to ES; the others are whole, so that ED and ES
  can be looked for.
  """


BUILDERS = {'camus': Camus, 'echonet': Echonet}


@dataclasses.dataclass(frozen=True)
class Prepared:
  """What lies in a prepared folder.

  Attributes:
    path: the folder of ArrayRecord files.
    counts: split -> (patients, clips, frames).
    num_bytes: size of the folder on disk.
    reused: True when it was complete before and nothing was written.
    skipped: [{'patient', 'view', 'split', 'reason'}, ...], clips left out.
  """

  path: pathlib.Path
  counts: dict[str, tuple[int, int, int]]
  num_bytes: int
  reused: bool
  skipped: list[dict]


def _summary(path: pathlib.Path, reused: bool) -> Prepared:
  index = read_index(path)
  counts = {
    split: (
      len({clip['patient'] for clip in clips}),
      len(clips),
      sum(clip['num_frames'] for clip in clips),
    )
    for split, clips in index['clips'].items()
  }
  size = sum(file.stat().st_size for file in path.iterdir())
  return Prepared(path, counts, size, reused, index.get('skipped', []))


def _list_splits(
  reader: raw.RawReader,
  raw_dir: pathlib.Path,
  scheme: str,
  excluded: frozenset[str],
) -> dict[str, list[tuple[str, str]]]:
  """Lists the clips of every split; a patient may be in one split only."""
  if scheme not in reader.schemes:
    raise InputError(
      f'split_scheme: found {scheme!r}, wanted one of {list(reader.schemes)}'
    )
  listed = {s: reader.list_clips(raw_dir, s, scheme) for s in SPLITS}
  # A misspelt name would leave the clip in.
  unknown = sorted(
    excluded
    - set(reader.excluded)
    - {patient for clips in listed.values() for patient, _ in clips}
  )
  if unknown:
    raise InputError(
      f'exclude: found {", ".join(map(repr, unknown[:3]))}'
      f'{f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""}, '
      f'wanted names that {raw_dir} lists; correct the names'
    )
  splits = {
    s: [clip for clip in clips if clip[0] not in excluded]
    for s, clips in listed.items()
  }
  if not splits['train']:
    raise InputError(
      f"{raw_dir}: no patient in the split 'train' of the "
      f'scheme {scheme!r}; wanted at least one'
    )
  owner = {}
  for split, clips in splits.items():
    if len(set(clips)) < len(clips):
      raise InputError(
        f'{raw_dir}: the split {split!r} of the scheme {scheme!r} names a '
        'patient twice; wanted every patient once; correct the split files'
      )
    for patient, _ in clips:
      if owner.setdefault(patient, split) != split:
        raise InputError(
          f'{raw_dir}: {patient} is in the splits {owner[patient]!r} and '
          f'{split!r} of the scheme {scheme!r}; wanted every patient in one '
          'split only; correct the split files'
        )
  return splits


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  """Holds a folder against a second preparation, until the process ends."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / 'lock', 'w')  # noqa: SIM115
  except OSError as error:
    raise InputError(
      f'{folder}: cannot write ({error.strerror}); choose a data_dir that '
      'you may write to'
    ) from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise InputError(
        f'{folder}: another preparation is running here; wait '
        'until it has finished'
      ) from error
    yield


def _write_records(dataset, files, index, path, partial) -> None:
  """Writes the records of all squeezed clips; complete or not at all."""
  if path.exists():  # Out of sight at once, whatever happens to the deletion.
    path.rename(path.with_name(f'{path.name}.incomplete.replaced'))
  for leftover in path.parent.glob(f'{path.name}.incomplete*'):
    shutil.rmtree(leftover)
  builder = BUILDERS[dataset](data_dir=path.parents[2], config=path.parent.name)
  builder.squeezed = files
  builder.info.metadata.update(index)
  tfds.disable_progress_bar()
  try:
    builder.download_and_prepare(
      download_dir=partial,
      file_format='array_record',
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
  finally:
    tfds.enable_progress_bar()


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
  reader: raw.RawReader | None = None,
) -> Prepared:
  """Squeezes a raw dataset to one grid and writes it as ArrayRecord.

  May be interrupted and started again at any time; the same raw files give the
  same records in the same order (their compressed bytes may differ in files of
  several megabytes, which array_record compresses in threads).

  Args:
    dataset: a key of `raw.DATASETS`.
    raw_dir: root of the raw dataset.
    data_dir: root of all prepared data.
    image_size: S, side of the square in pixels.
    split_scheme: which split files decide ('official', 'memsam').
    overwrite: replace data that were prepared from other raw files.
    allow_skips: leave out clips that cannot be read; the index names them.
    excluded: patients (EchoNet: clips) to leave out unread; None takes the
      dataset's own list.
    progress: show a progress bar.
    reader: how to read the raw files; by default the dataset's own.

  Returns:
    What was prepared, or what was found complete.

  Raises:
    InputError: when the raw files cannot be read, `data_dir` cannot be
      written, or it holds data prepared from other raw files.
  """
  reader = reader or raw.reader_of(dataset)
  raw_dir = pathlib.Path(raw_dir).expanduser()
  if not raw_dir.is_dir():
    raise InputError(
      f'{raw_dir}: no such folder; wanted the raw dataset '
      f'{dataset!r} as its provider distributes it'
    )
  if not 16 <= image_size <= 2048:
    raise InputError(f'image_size: found {image_size}, wanted 16 to 2048')
  excluded = frozenset(reader.excluded if excluded is None else excluded)
  splits = _list_splits(reader, raw_dir, split_scheme, excluded)
  path = prepared_path(data_dir, dataset, split_scheme, image_size)
  found = raw.fingerprint(raw_dir)
  if path.exists():
    index = read_index(path)
    same = (
      index['fingerprint'] == found
      and set(index.get('excluded', excluded)) == excluded
    )
    if same and (allow_skips or not index.get('skipped')):
      return _summary(path, reused=True)
    if not same and not overwrite:
      raise InputError(
        f'{path}: prepared from other raw files than those in {raw_dir} now, '
        'or with another list of excluded clips; pass --overwrite to '
        'prepare again, or choose another data_dir'
      )
  name = config_name(split_scheme, image_size)
  partial = path.parents[1] / f'.{name}.partial'
  with _locked(partial):
    cache = partial / f'{VERSION}-{found[:16]}'
    cache.mkdir(exist_ok=True)
    try:
      with tqdm(
        total=sum(map(len, splits.values())), unit='clip', disable=not progress
      ) as bar:
        files, records, skipped = squeezing.squeeze_all(
          reader, raw_dir, splits, image_size, cache, bar
        )
      if skipped and not allow_skips:
        raise squeezing.ClipsFailed(raw_dir, skipped)
      if not records['train']:
        raise InputError(
          f"{raw_dir}: no clip of the split 'train' can be "
          f'read; the first: {skipped[0].reason}'
        )
      index = {
        'fingerprint': found,
        'dataset': dataset,
        'image_size': image_size,
        'split_scheme': split_scheme,
        'synthetic': reader.is_synthetic(raw_dir),
        'clips': records,
        'excluded': sorted(excluded),
        'skipped': [dataclasses.asdict(s) for s in skipped],
      }
      _write_records(dataset, files, index, path, partial)
    except OSError as error:
      raise InputError(
        f'{data_dir}: cannot write ({error}); free space or '
        'choose another data_dir, then start again'
      ) from error
    shutil.rmtree(partial)
  return _summary(path, reused=False)
