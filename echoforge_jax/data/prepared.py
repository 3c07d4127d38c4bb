"""Reading of prepared data: clips by number, opened when first needed."""

from collections.abc import Collection
import json
import os
import pathlib
import threading

import numpy as np

from echoforge_jax.errors import InputError

VERSION = '1.0.0'
SPLITS = ('train', 'validation', 'test')
_TEXTS = {'patient', 'view', 'quality'}
_SCALARS = {
  'ed': np.int32,
  'es': np.int32,
  'fps': np.float32,
  'ef_percent': np.float32,
  'edv_ml': np.float32,
  'esv_ml': np.float32,
}


def config_name(split_scheme: str, image_size: int) -> str:
  """Returns the folder name of one prepared grid, such as 'official_256'."""
  return f'{split_scheme}_{image_size}'


def prepared_path(
  data_dir: str | os.PathLike, dataset: str, split_scheme: str, image_size: int
) -> pathlib.Path:
  """Returns the folder of one prepared grid, whether it exists or not."""
  return (
    pathlib.Path(data_dir).expanduser() / dataset / config_name(split_scheme, image_size) / VERSION
  )


def read_index(path: pathlib.Path) -> dict:
  """Reads what a prepared folder says about itself.

  Returns:
    dict with 'fingerprint', 'dataset', 'image_size', 'split_scheme',
    'synthetic' (the patients are phantoms) and 'clips': split -> [{'patient',
    'view', 'num_frames', 'labeled'}, ...] in the order of the records;
    'labeled' says that ED and ES have a label.

  Raises:
    InputError: the folder holds no readable index.
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
  """Random access to the clips of one split.

  Safe to share between threads and to send to another process: files are
  opened on first use in each process.

  Attributes:
    path: folder of ArrayRecord files.
    split: 'train', 'validation' or 'test'.
    clips: one dict a clip (see `read_index`).
    image_size: S, side of every frame in pixels.
    fingerprint: of the raw files that were prepared.
    synthetic: whether the patients are phantoms; None where an older
      preparation did not record it.
    features: what is decoded of a clip; None: everything.
  """

  def __init__(self, path: pathlib.Path, split: str, features: Collection[str] | None = None):
    self.features = features
    index = read_index(path)
    self.path = path
    self.split = split
    self.clips = index['clips'][split]
    self.image_size = index['image_size']
    self.fingerprint = index['fingerprint']
    self.synthetic = index.get('synthetic')
    self._records = None
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self.clips)

  def __getitem__(self, key: int) -> dict[str, np.ndarray | str]:
    """Returns one clip with the features of `shards.example_features`."""
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
  """The only prepared image size of a dataset, or an error with the choices."""
  root = pathlib.Path(data_dir).expanduser() / dataset
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
    f'run `echoforge prepare --dataset={dataset} --raw=DIR '
    f'--data_dir={data_dir} --image_size={image_size} '
    f'--split_scheme={split_scheme}`'
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
  """Opens one split of prepared data.

  Args:
    data_dir: root of all prepared data.
    dataset: name of the dataset, for example 'camus'.
    split: 'train', 'validation' or 'test'.
    image_size: S in pixels; None takes the only one that is prepared.
    split_scheme: which split files decided ('official', 'memsam').
    features: what is decoded, of `shards.example_features`; None: everything.

  Returns:
    Random access to the split's clips, in the order patient, view.

  Raises:
    InputError: the split is unknown, empty or not prepared.
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
    raise InputError(
      f'{path}: the split {split!r} has no clip; wanted at '
      'least one: choose another split, or list patients in the '
      "raw dataset's split file and prepare again"
    )
  return source
