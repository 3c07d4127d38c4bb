"""Raw datasets by name: how each is listed and read, and its fingerprint.

A dataset of your own is one class with four methods (`Reader`), named 'my_package.my_module:Reader'
wherever a dataset is asked for; docs/data.md shows one.
"""

import collections
from collections.abc import Callable, Collection, Iterable, Iterator
import concurrent.futures
import contextlib
import functools
import hashlib
import os
import pathlib

import numpy as np

from echoforge_jax.clip import LABELS, Clip
from echoforge_jax.data.prepared import SPLITS
from echoforge_jax.errors import InputError
from echoforge_jax.formats.findings import Finding, FindingError, make_finding
from echoforge_jax.loading import load_object, origin

# The built-in readers; each imports its decoders only when asked for.
DATASETS = {
  'camus': 'echoforge_jax.data.verify:Camus',
  'echonet': 'echoforge_jax.data.verify_echonet:EchoNet',
  'folder': 'echoforge_jax.data.folder:FolderReader',
}
# What the providers' files end with; others that lie beside them do not count.
SUFFIXES = ('.nii', '.gz', '.mhd', '.raw', '.zraw', '.cfg', '.txt', '.csv', '.avi')
_SAMPLE = 16 * 1024


class Reader:
  """Lists, reads and verifies one raw dataset; the base of every reader.

  Clips are read by several threads at once. A fault of a file is an `InputError`.
  """

  # Split schemes that `list_clips` knows; '*' stands for anything.
  schemes: tuple[str, ...] = ('official',)
  # Clips reach beyond ED and ES: training gets the part between them, the other splits keep all.
  whole_clips = False
  excluded: tuple[str, ...] = ()  # Patients that are left out by default.
  synthetic = False  # Whether the patients are phantoms.
  options = ''  # What decides the clips beside the files, as text.
  suffixes: tuple[str, ...] | None = None  # Of the files that are data; None: every file.

  def __init__(self, raw_dir: str | os.PathLike):
    self.raw_dir = pathlib.Path(raw_dir).expanduser()

  def list_clips(self, split: str, scheme: str) -> list[tuple[str, str]]:
    """Returns (patient, view) of the clips of 'train', 'validation' or 'test', in order.

    A patient is in one split only. A split that the dataset does not have is empty.
    """
    raise NotImplementedError

  def read_clip(self, patient: str, view: str) -> Clip:
    """Reads one clip, frames from ED to ES or longer, at their own size."""
    raise NotImplementedError

  def file_names(self, patient: str, view: str) -> dict[str, int | str]:
    """Returns what a clip's files are called elsewhere: stem -> frame, or '' for the whole clip.

    Masks of other tools may have these names instead of PATIENT_VIEW.
    """
    return {}

  def notes(self, scheme: str) -> list[str]:
    """Returns lines that `prepare` prints first: how a scheme divides, and what is left out."""
    return []

  def verify(self) -> Iterable[Finding]:
    """Yields what is wrong: by default the splits' faults and what reading every clip raises."""
    clips = []
    owners: dict[str, str] = {}
    for split in SPLITS:
      try:
        listed = list_checked(self, split, self.schemes[0])
      except InputError as error:
        yield self._finding(error, self.raw_dir)
        continue
      for (patient, view), times in collections.Counter(listed).items():
        if times > 1:
          found = f'{patient} {view}, {times} times in {split}'
          yield make_finding('listed-twice', self.raw_dir, found, 'every clip once')
        if owners.setdefault(patient, split) != split:
          found = f'{patient} in {owners[patient]} and {split}'
          yield make_finding('split-leak', self.raw_dir, found, 'each patient in one split')
        if patient not in self.excluded:
          clips.append((patient, view))
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
      for found in pool.map(lambda clip: list(self._check(*clip)), dict.fromkeys(clips)):
        yield from found

  def count_patients(self) -> int:
    """Returns how many patients `verify` looks at."""
    patients = set()
    for split in SPLITS:
      with contextlib.suppress(InputError):  # A finding of `verify`.
        patients |= {p for p, _ in list_checked(self, split, self.schemes[0])}
    return len(patients)

  def _check(self, patient: str, view: str) -> Iterator[Finding]:
    try:
      read_checked(self, patient, view)
    except InputError as error:
      yield self._finding(error, f'{self.raw_dir}: {patient} {view}')

  def _finding(self, error: InputError, where) -> Finding:
    if isinstance(error, FindingError):
      return error.finding
    return make_finding('clip-unreadable', where, error, 'a clip')


def reader_of(dataset: str, field: str = 'dataset') -> Callable[..., Reader]:
  """Returns what opens a raw dataset: called with its folder it gives the reader.

  Args:
    dataset: a key of `DATASETS`, or 'module.path:Name' of a class with `list_clips` and `read_clip`
      (what else it lacks of `Reader` is added), or of a function that returns a reader.
    field: what the user set, as an error names it.
  """
  if dataset not in DATASETS and ':' not in dataset:
    wanted = f"one of {sorted(DATASETS)}, or 'module.path:Name' of a reader"
    raise InputError(f'{field}: found {dataset!r}, wanted {wanted}')
  found = load_object(DATASETS.get(dataset, dataset), field)
  if isinstance(found, type) and not issubclass(found, Reader):
    found = type(found.__name__, (found, Reader), {})
  for method in ('list_clips', 'read_clip'):
    if getattr(found, method, None) is getattr(Reader, method):
      raise InputError(f'{field}: {dataset} has no method {method}; docs/data.md shows a reader')
  return functools.partial(_open, dataset, found)


def _open(
  dataset: str, make: Callable[..., Reader], raw_dir: str | os.PathLike, **options
) -> Reader:
  """Returns a reader of a folder that exists."""
  raw_dir = pathlib.Path(raw_dir).expanduser()
  if not raw_dir.is_dir():
    raise InputError(
      f'{raw_dir}: no such folder; wanted the raw dataset {dataset!r} as its provider '
      'distributes it; correct the path'
    )
  with _one_line(f'{raw_dir}: {dataset} cannot open it'):
    reader = make(raw_dir, **options)
    reader.raw_dir = raw_dir
  return reader


@contextlib.contextmanager
def _one_line(where: str) -> Iterator[None]:
  """Makes what a reader raises an `InputError` that names the line of its code."""
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    kind = type(error).__name__
    raise InputError(f'{where} ({error}; {kind} at {origin(error)})') from error


def list_checked(reader: Reader, split: str, scheme: str) -> list[tuple[str, str]]:
  """Lists a split; raises `InputError` for what a reader raises and for what is no clip."""
  where = f'{reader.raw_dir}: cannot list the split {split!r}'
  with _one_line(where):
    listed = [tuple(clip) for clip in reader.list_clips(split, scheme)]
  for clip in listed:
    if len(clip) != 2 or not all(isinstance(name, str) and name for name in clip):
      raise InputError(f'{where}: found {clip!r}, wanted pairs of names (patient, view)')
  return listed


def read_checked(reader: Reader, patient: str, view: str) -> Clip:
  """Reads a clip; raises `InputError` for what a reader raises and for a malformed clip."""
  where = f'{reader.raw_dir}: cannot read {patient} {view}'
  with _one_line(where):
    clip = reader.read_clip(patient, view)
  if not isinstance(clip, Clip):
    raise InputError(f'{where}: found a {type(clip).__name__}, wanted an echoforge_jax.Clip')
  count, shape = len(clip.frames), np.shape(clip.frames)
  for name, dtype, wanted in (
    ('frames', np.uint8, (count, *shape[1:3])),
    ('masks', np.uint8, shape),
    ('labeled', np.bool_, (count,)),
    ('spacing_mm', None, (2,)),
  ):
    found = np.asarray(getattr(clip, name))
    if found.shape != wanted or (dtype and found.dtype != dtype):
      kind = f'{dtype.__name__} ' if dtype else ''
      raise InputError(f'{where}: {name} is {found.dtype} {found.shape}, wanted {kind}{wanted}')
  if not (0 <= clip.ed < count and 0 <= clip.es < count and (clip.ed != clip.es or count == 1)):
    raise InputError(
      f'{where}: ED and ES are {clip.ed} and {clip.es}, wanted two of the frames 0 to {count - 1}'
    )
  if (highest := int(clip.masks.max())) > max(LABELS.values()):
    raise InputError(f'{where}: found the label {highest}, wanted those of {LABELS}')
  return clip


def fingerprint(
  raw_dir: str | os.PathLike,
  suffixes: Collection[str] | None = None,
  skip: str | os.PathLike | None = None,
  options: str = '',
) -> str:
  """Returns a hash of names, sizes and contents of a raw dataset's files, 64 hexadecimal digits.

  Of files above 64 kB only the size and 16 kB at the beginning, middle and end count, so that
  gigabytes are not read again on every start; a gzip file ends with the checksum of its contents,
  so every change of a .nii.gz shows. The hash is the same wherever the dataset is copied to.

  Args:
    raw_dir: the folder; hidden files and folders do not count.
    suffixes: in lower case, of the files that count; None: all.
    skip: a folder that does not count, such as that of the prepared data.
    options: the reader's.
  """
  root = pathlib.Path(raw_dir)
  absolute = root.resolve()
  skipped = pathlib.Path(skip).expanduser().resolve() if skip else None
  digest = hashlib.sha256(options.encode())
  for path in sorted(root.rglob('*')):
    name = path.relative_to(root).as_posix()
    if (
      (suffixes is not None and path.suffix.lower() not in suffixes)
      or not path.is_file()
      or any(part.startswith('.') for part in name.split('/'))
      or skipped in (absolute / name).parents
    ):
      continue
    size = path.stat().st_size
    digest.update(f'{name}\0{size}\0'.encode(errors='surrogateescape'))
    with path.open('rb') as file:
      if size <= 4 * _SAMPLE:
        digest.update(file.read())
        continue
      for start in (0, size // 2, size - _SAMPLE):
        file.seek(start)
        digest.update(file.read(_SAMPLE))
  return digest.hexdigest()
