"""Raw datasets by name: how each is listed and read, and its fingerprint."""

from collections.abc import Callable
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib

from echoforge_jax.clip import Clip
from echoforge_jax.errors import InputError

SPLIT_SCHEMES = ('official', 'memsam')
_SUFFIXES = ('.nii', '.gz', '.mhd', '.raw', '.zraw', '.cfg', '.txt', '.csv', '.avi')
_SAMPLE = 16 * 1024


@dataclasses.dataclass(frozen=True)
class RawReader:
  """Lists and reads one raw dataset."""

  # (raw_dir, split, scheme) -> [(patient, view), ...] in order.
  list_clips: Callable[[pathlib.Path, str, str], list[tuple[str, str]]]
  # (raw_dir, patient, view) -> Clip, frames ED to ES or longer.
  read_clip: Callable[[pathlib.Path, str, str], Clip]
  schemes: tuple[str, ...] = SPLIT_SCHEMES
  # Whether the patients are phantoms.
  is_synthetic: Callable[[pathlib.Path], bool] = lambda raw_dir: False
  # Clips reach beyond ED and ES: training gets the part between them, the other splits keep all.
  whole_clips: bool = False
  excluded: tuple[str, ...] = ()  # Clips that the provider lists but nobody can use.


def _camus_reader() -> RawReader:
  from echoforge_jax.formats import camus

  return RawReader(
    lambda *args: list(itertools.product(camus.read_split(*args), ('2CH', '4CH'))),
    camus.read_clip,
    is_synthetic=camus.is_synthetic,
  )


def _echonet_reader() -> RawReader:
  from echoforge_jax.formats import echonet

  # The tables of ten thousand clips are parsed once, not once per clip.
  tables = functools.lru_cache(maxsize=1)(echonet.Dataset)
  return RawReader(
    lambda raw_dir, split, scheme: tables(raw_dir).clips_of(split),
    lambda raw_dir, patient, view: tables(raw_dir).read_clip(patient, view),
    schemes=('official',),
    is_synthetic=echonet.is_synthetic,
    whole_clips=True,
    excluded=echonet.DEFAULT_EXCLUDED,
  )


DATASETS: dict[str, Callable[[], RawReader]] = {'camus': _camus_reader, 'echonet': _echonet_reader}


def reader_of(dataset: str) -> RawReader:
  """Returns the reader of a raw dataset; the error lists the choices."""
  if dataset not in DATASETS:
    raise InputError(f'dataset: found {dataset!r}, wanted one of {sorted(DATASETS)}')
  return DATASETS[dataset]()


def fingerprint(raw_dir: str | os.PathLike) -> str:
  """Returns a hash of names, sizes and contents of a raw dataset's files, 64 hexadecimal digits.

  Of files above 64 kB only the size and 16 kB at the beginning, middle and end count, so that
  gigabytes are not read again on every start; a gzip file ends with the checksum of its contents,
  so every change of a .nii.gz shows. The hash is the same wherever the dataset is copied to.
  """
  root = pathlib.Path(raw_dir)
  digest = hashlib.sha256()
  for path in sorted(root.rglob('*')):
    name = path.relative_to(root).as_posix()
    if (
      path.suffix.lower() not in _SUFFIXES
      or not path.is_file()
      or any(part.startswith('.') for part in name.split('/'))
    ):
      continue
    size = path.stat().st_size
    digest.update(f'{name}\0{size}\0'.encode())
    with path.open('rb') as file:
      if size <= 4 * _SAMPLE:
        digest.update(file.read())
        continue
      for start in (0, size // 2, size - _SAMPLE):
        file.seek(start)
        digest.update(file.read(_SAMPLE))
  return digest.hexdigest()
