"""One file for a trained network: its config and parameters, no optimizer.

A safetensors file: arrays `params/...` and `batch_stats/...`, named by their path in the tree, and
in the metadata one JSON text under `echoforge_network`. It stands wherever a run's workdir does for
inference; equal networks give equal bytes. 'default' names the file shipped with the package.
"""

import importlib.resources
import json
import pathlib
from typing import Any

from flax import traverse_util
import jax
import numpy as np
import safetensors
from safetensors.numpy import save

from echoforge_jax.errors import InputError
from echoforge_jax.textio import replacing

SUFFIX = '.safetensors'
DEFAULT = 'default'
# One key, since safetensors keeps no order of several.
_KEY = 'echoforge_network'


def is_network_path(path: Any) -> bool:
  """Returns whether a path names one network: 'default' or a .safetensors."""
  return str(path) == DEFAULT or (str(path).endswith(SUFFIX) and not pathlib.Path(path).is_dir())


def holds_network(path: Any) -> bool:
  """Returns whether `write` wrote a file; published weights lack the config."""
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      return _KEY in (file.metadata() or {})
  except (OSError, safetensors.SafetensorError):
    return False


def default_path() -> pathlib.Path:
  """Returns the file that is shipped with the package."""
  return pathlib.Path(str(importlib.resources.files('echoforge_jax') / f'default_model{SUFFIX}'))


def write(path: Any, config: dict, variables: dict, step: int, which: str, **facts: Any) -> int:
  """Writes a network into one file, which is replaced; returns its size in bytes.

  Args:
    path: ends in .safetensors.
    config: of the run, a nested dict.
    variables: {'params': ...} and, with batch norm, 'batch_stats'.
    step: updates the network has seen.
    which: 'teacher' or 'student'.
    **facts: more to keep with it, as JSON takes it.
  """
  arrays = traverse_util.flatten_dict(jax.tree.map(np.asarray, variables), sep='/')
  meta = {'config': config, 'step': int(step), 'which': which, **facts}
  content = save(arrays, metadata={_KEY: json.dumps(meta, sort_keys=True)})
  try:
    with replacing(path) as temporary:
      temporary.write_bytes(content)
  except OSError as error:
    raise InputError(f'{path}: cannot be written ({error.strerror or error})') from error
  return len(content)


def read(path: Any) -> tuple[dict, dict[str, Any]]:
  """Reads what `write` wrote from a file or 'default': variables of numpy arrays, and the facts.

  The facts are a dict with 'config' (plain), 'step', 'which' and what else was kept.
  """
  path = default_path() if str(path) == DEFAULT else pathlib.Path(path)
  if not path.is_file():
    raise InputError(f'{path}: no such file; wanted a network')
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      meta = json.loads(file.metadata()[_KEY])
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    variables = traverse_util.unflatten_dict(arrays, sep='/')
    meta['config'], meta['step'], meta['which']  # noqa: B018
    variables['params']  # noqa: B018
  except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
    raise InputError(
      f'{path}: found no network of this project ({type(error).__name__}: {error}); wanted the '
      f'workdir of a training run, or what `echoforge export --out=FILE{SUFFIX}` writes'
    ) from error
  return variables, meta
