"""One file for a trained network: its config and parameters, no optimizer.

An `.npz` of plain arrays, `params/...` and `batch_stats/...` by their path in
the tree, and `meta`, a JSON text. Stands wherever a run's workdir does for
inference; equal networks give equal bytes. `default` is the one that is shipped
with the package.
"""

import importlib.resources
import json
import pathlib
from typing import Any
import zipfile

from flax import traverse_util
import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.models import weight_files
from echoforge_jax.textio import replacing

SUFFIX = '.npz'
DEFAULT = 'default'
FORMAT = 'echoforge-network 1'
_META = 'meta'


def is_bundle(path: Any) -> bool:
  """Whether `path` names such a file, or the one shipped: 'default'.

  Args:
    path: what a user gave as checkpoint.
  """
  return str(path) == DEFAULT or (
    str(path).endswith(SUFFIX) and not pathlib.Path(path).is_dir()
  )


def is_network(path: Any) -> bool:
  """Whether an .npz is a bundle, and not a file of published weights.

  Args:
    path: a file, whether it can be read or not.
  """
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return _META in arrays.files
  except (
    OSError,
    ValueError,
    EOFError,
    AttributeError,
    TypeError,
    zipfile.BadZipFile,
  ):
    return False


def default_path() -> pathlib.Path:
  """The file that is shipped with the package."""
  return pathlib.Path(
    str(importlib.resources.files('echoforge_jax') / 'default_model.npz')
  )


def write(
  path: Any, config: dict, variables: dict, step: int, which: str, **facts: Any
) -> int:
  """Writes a network into one file.

  Args:
    path: ends in .npz; replaced.
    config: of the run, a nested dict.
    variables: {'params': ...} and, with batch norm, 'batch_stats'.
    step: updates the network has seen.
    which: 'teacher' or 'student'.
    **facts: more that is kept with it, as JSON takes it.

  Returns:
    Bytes written.

  Raises:
    InputError: the file cannot be written.
  """
  path = pathlib.Path(path)
  arrays = {
    name: np.asarray(leaf)
    for name, leaf in traverse_util.flatten_dict(variables, sep='/').items()
  }
  meta = {
    'format': FORMAT,
    'config': config,
    'step': int(step),
    'which': which,
    **facts,
  }
  arrays[_META] = np.frombuffer(
    json.dumps(meta, sort_keys=True).encode(), np.uint8
  )
  try:
    with replacing(path) as temporary, open(temporary, 'wb') as file:
      np.savez(file, **arrays)
  except OSError as error:
    raise InputError(
      f'{path}: cannot be written ({error.strerror or error})'
    ) from error
  return path.stat().st_size


def read(path: Any) -> tuple[dict, dict[str, Any]]:
  """Reads such a file.

  Args:
    path: the file, or 'default'.

  Returns:
    variables: {'params': ..., ...} of numpy arrays; and `meta` with 'config'
    (a plain dict), 'step', 'which' and what else was kept.

  Raises:
    InputError: no such file, or not one that `write` wrote.
  """
  path = default_path() if str(path) == DEFAULT else pathlib.Path(path)
  arrays = weight_files.read_weights(path)
  try:
    meta = json.loads(bytes(arrays.pop(_META)))
    if meta['format'] != FORMAT:
      raise ValueError(f'format {meta["format"]!r}')
    variables = traverse_util.unflatten_dict(arrays, sep='/')
    meta['config'], meta['step'], meta['which']  # noqa: B018
    variables['params']  # noqa: B018
  except (KeyError, ValueError, TypeError, AttributeError) as error:
    raise InputError(
      f'{path}: found no network of this project '
      f'({type(error).__name__}: {error}); wanted the workdir of a training '
      'run, or what `echoforge export --out=FILE.npz` writes'
    ) from error
  return variables, meta
