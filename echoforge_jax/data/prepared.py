"""Reading of prepared data: clips by number, opened when first needed."""

from collections.abc import Collection
import json
import os
import pathlib
import re
import threading

import numpy as np

from echoforge_jax.errors import InputError

VERSION = '1.0.0'
SPLITS = ('train', 'validation', 'test')
_TEXTS = {'patient', 'view', 'quality'}
_SCALARS = {'ed': np.int32, 'es': np.int32} | dict.fromkeys(
  ('fps', 'ef_percent', 'edv_ml', 'esv_ml'), np.float32
)


def folder_name(dataset: str) -> str:
  """Returns a dataset's name as a safe file name: 'my.data:Reader' becomes 'my_data_Reader'."""
  return re.sub(r'\W', '_', dataset, flags=re.ASCII).lstrip('_')


def _root(data_dir: str | os.PathLike, dataset: str) -> pathlib.Path:
  return pathlib.Path(data_dir).expanduser() / folder_name(dataset)


def prepared_path(
  data_dir: str | os.PathLike, dataset: str, split_scheme: str, image_size: int
) -> pathlib.Path:
  """Returns the folder of one prepared grid, whether it exists or not."""
  return _root(data_dir, dataset) / f'{split_scheme}_{image_size}' / VERSION


def read_index(path: pathlib.Path) -> dict:
  """Reads what a prepared folder says about itself.

  Returns:
    dict with 'fingerprint', 'dataset', 'image_size', 'split_scheme', 'synthetic' (the patients are
    phantoms) and 'clips': split -> [{'patient', 'view', 'num_frames', 'labeled'}, ...] in the order
    of the records; 'labeled' says that ED and ES have a label, 'ef_source', where it is there, that
    the EF is not the provider's.
  """
  file = path / 'metadata.json'
  try:
    return json.loads(file.read_text())
  except (OSError, ValueError) as error:
    raise InputError(
      f'{file}: not an index of prepared data ({error}); delete {path} and '
      'run `echoforge prepare` again'
    ) from error


class ClipSource:
  """Random access to the clips of one split; `features` are decoded, None: all.

  Safe to share between threads and processes: files are opened on first use in each process.
  """

  def __init__(self, path: pathlib.Path, split: str, features: Collection[str] | None = None):
    index = read_index(path)
    self.path, self.split, self.features = path, split, features
    self.clips = index['clips'][split]
    self.image_size = index['image_size']
    self.fingerprint = index['fingerprint']
    self.synthetic = index.get('synthetic')  # Older preparations did not record it.
    self._records = None
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self.clips)

  def __getitem__(self, key: int) -> dict[str, np.ndarray | str]:
    """Returns one clip with the features of `shards.example_features`, and `ef_source`."""
    if self._records is None:
      with self._lock:
        if self._records is None:
          self._records = self._open()
    records, features = self._records
    example = features.deserialize_example_np(records[int(key)])
    for name in _TEXTS & example.keys():
      example[name] = example[name].decode()
    for name in _SCALARS.keys() & example.keys():
      example[name] = _SCALARS[name](example[name])
    if 'labeled' in example:
      example['labeled'] = np.asarray(example['labeled'], np.bool_)
    if 'ef_percent' in example:
      example['ef_source'] = self.clips[int(key)].get('ef_source', '')
    return example

  def _open(self):
    import tensorflow_datasets as tfds  # Half a second; needed here only.

    builder = tfds.builder_from_directory(self.path)
    records = builder.as_data_source(
      self.split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    features = builder.info.features
    if self.features is not None:
      # Each of the sixteen costs as much Python as a frame costs reading.
      features = tfds.features.FeaturesDict({name: features[name] for name in self.features})
    return records, features

  def __getstate__(self):
    return {**self.__dict__, '_records': None, '_lock': None}

  def __setstate__(self, state):
    self.__dict__.update(state, _lock=threading.Lock())

  def __repr__(self) -> str:
    return f'ClipSource({str(self.path)!r}, {self.split!r})'


def _find_size(data_dir, dataset, split_scheme) -> int:
  """Returns the only prepared image size of a dataset."""
  root = _root(data_dir, dataset)
  found = sorted(
    int(folder.parent.name.removeprefix(f'{split_scheme}_'))
    for folder in root.glob(f'{split_scheme}_*/{VERSION}')
  )
  if len(found) == 1:
    return found[0]
  wanted = 'give image_size' if found else _remedy(data_dir, dataset, split_scheme, 256)
  raise InputError(
    f'{root}: found the image sizes {found} of the split scheme '
    f'{split_scheme!r}, wanted exactly one; {wanted}'
  )


def _remedy(data_dir, dataset, split_scheme, image_size) -> str:
  return (
    f'run `echoforge prepare --dataset={dataset} --raw=DIR --data_dir={data_dir} '
    f'--image_size={image_size} --split_scheme={split_scheme}`'
  )


def load_split(
  data_dir: str | os.PathLike,
  dataset: str,
  split: str,
  image_size: int | None = None,
  *,
  split_scheme: str = 'official',
  features: Collection[str] | None = None,
) -> ClipSource:
  """Opens one split of prepared data, in the order patient, view.

  Args:
    data_dir: root of all prepared data.
    dataset: name of the dataset, for example 'camus'.
    split: 'train', 'validation' or 'test'.
    image_size: S in pixels; None takes the only one that is prepared.
    split_scheme: which split files decided ('official', 'memsam').
    features: what is decoded, of `shards.example_features`; None: everything.
  """
  if split not in SPLITS:
    raise InputError(f'split: found {split!r}, wanted one of {list(SPLITS)}')
  if image_size is None:
    image_size = _find_size(data_dir, dataset, split_scheme)
  path = prepared_path(data_dir, dataset, split_scheme, image_size)
  if not path.is_dir():
    raise InputError(
      f'{path}: no prepared data; ' + _remedy(data_dir, dataset, split_scheme, image_size)
    )
  source = ClipSource(path, split, features)
  if not len(source):
    others = [name for name, clips in read_index(path)['clips'].items() if clips]
    raise InputError(
      f'{path}: the split {split!r} has no clip; wanted at least one: choose another split '
      f"({', '.join(others)}), or list patients in the raw dataset's split file and prepare again"
    )
  return source
