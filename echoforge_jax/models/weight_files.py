"""Weight files -> arrays by name: safetensors, npz, and torch's own.

A `.pth` file is a pickle, and a pickle can run any code: it is read only by
torch's restricted loader (`weights_only=True`), where torch is installed.
"""

import pathlib
from zipfile import BadZipFile

import numpy as np
import safetensors
from safetensors.numpy import load_file

from echoforge_jax.errors import InputError

# What numpy raises where a file is no archive of arrays.
_NO_NPZ = (ValueError, OSError, EOFError, TypeError, AttributeError, BadZipFile)
SUFFIXES = ('.safetensors', '.npz', '.pth', '.pt')
CONVERT = (
  'python -c "import sys, numpy, torch; '
  "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
  "d = d.get('state_dict', d); "
  'numpy.savez(sys.argv[2], **{k: v.float().numpy() for k, v in d.items()})"'
)


def is_weight_file(path: str | pathlib.Path) -> bool:
  """Returns whether a path's suffix is one that `read_weights` takes."""
  return pathlib.Path(path).suffix in SUFFIXES


def read_weights(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a file by name.

  Args:
    path: `.safetensors`, `.npz`, or `.pth` and `.pt` where torch is installed (a state dict,
      perhaps under the key 'state_dict'); elsewhere the error tells how to convert it.
  """
  path = pathlib.Path(path)
  if path.suffix not in SUFFIXES:
    raise InputError(f'{path}: found suffix {path.suffix!r}, wanted one of {", ".join(SUFFIXES)}')
  if not path.is_file():
    raise InputError(f'{path}: no such file; wanted a file of weights')
  read = {'.safetensors': _read_safetensors, '.npz': _read_npz}.get(path.suffix, _read_torch)
  return read(path)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    return load_file(path)
  except (safetensors.SafetensorError, KeyError, ValueError) as error:
    raise InputError(
      f'{path}: not a safetensors file that numpy can hold ({error}); wanted '
      'one of plain float tensors; download or convert it anew'
    ) from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return dict(arrays)
  except _NO_NPZ as error:
    raise InputError(
      f'{path}: not an npz file of plain arrays ({error}); wanted what numpy.savez writes of '
      'arrays alone (pickled objects are never loaded)'
    ) from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError as error:
    raise InputError(
      f'{path}: torch is not installed here, and nothing else may safely read its files; where it '
      f'is, convert the file:\n  {CONVERT} {path} {path.with_suffix(".npz")}'
    ) from error

  try:
    state = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # torch raises what its unpickler meets.
    raise InputError(
      f'{path}: torch cannot load it as plain weights ({error}); wanted a '
      'state dict, as torch.save(model.state_dict(), path) writes'
    ) from error
  if isinstance(state, dict) and isinstance(state.get('state_dict'), dict):
    state = state['state_dict']
  if not isinstance(state, dict) or not all(hasattr(value, 'numpy') for value in state.values()):
    raise InputError(
      f'{path}: found {type(state).__name__} that is not a state dict; wanted names and tensors'
    )
  return {str(name): value.detach().float().numpy() for name, value in state.items()}
