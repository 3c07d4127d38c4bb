"""PyTorch parameters by their published names -> this package's variables.

Names are torchvision's and timm's for residual networks, and those of the
published SSCF module. Nothing here needs torch: `weight_files` reads files.
"""

from collections.abc import Mapping
import functools
import re

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.models.backbone import RESNETS, ResNet
from echoforge_jax.models.sscf import SSCF

NAMES = ('resnet18', 'resnet34', 'resnet50', 'sscf')
_LEAVES = {'mean': 'running_mean', 'var': 'running_var', 'bias': 'bias'}  # Others: 'weight'.
# Module path here -> there, in this order.
_RESNET_RULES = (
  (r'^layer(\d)_(\d+)', r'layer\1.\2'),
  ('downsample_conv', 'downsample.0'),
  ('downsample_bn', 'downsample.1'),
)
_SSCF_RULES = (
  ('^encoder_previous', 'TCE.FE.0'),
  ('^encoder_target', 'TCE.FE.1'),
  ('^encoder_next', 'TCE.FE.2'),
  (r'^(TCE\.FE\.\d)\.conv1', r'\1.first.0'),
  (r'^(TCE\.FE\.\d)\.bn1', r'\1.first.1'),
  (r'^(TCE\.FE\.\d)\.layer(\d)_(\d+)', r'\1.encoder\2.\3'),
  ('downsample_conv', 'downsample.0'),
  ('downsample_bn', 'downsample.1'),
  *((f'^fusion{i + 1}', f'STFT.stages.{i}') for i in range(4)),
  ('(forward|backward)_query', r'\1_calibration.Tq'),
  ('(forward|backward)_key', r'\1_calibration.Tk'),
  ('(forward|backward)_condition', r'\1_calibration.condition'),
  ('out_norm$', 'out_conv.1'),
  ('out$', 'out_conv.0'),
  ('^final', 'finalconv'),
)


def torch_name(name: str, path: tuple[str, ...]) -> str:
  """Returns the published name of a variable of model `name` by its path."""
  *modules, leaf = path
  module = '.'.join(modules)
  for pattern, there in _SSCF_RULES if name == 'sscf' else _RESNET_RULES:
    module = re.sub(pattern, there, module)
  # The one parameter that belongs to no layer of its own.
  if module.endswith('.condition'):
    return module
  return f'{module}.{_LEAVES.get(leaf, "weight")}'


def _torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
  if path[-1] != 'kernel':
    return shape
  h, w, inputs, outputs = shape
  if path[-2] == 'deconv2':
    return inputs, outputs, h, w
  return outputs, inputs, h, w


def _from_torch_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
  if path[-1] != 'kernel':
    return value
  if path[-2] == 'deconv2':
    # Transposed convolutions: torch scatters the kernel, Linen slides it over
    # the dilated map.
    return value[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
  return value.transpose(2, 3, 1, 0)


@functools.cache
def _wanted(name: str, width: int, num_classes: int) -> dict[tuple[str, ...], tuple[int, ...]]:
  """Returns the shapes of the variables: ('params' or 'batch_stats', ...) -> shape."""
  is_sscf = name == 'sscf'
  model = SSCF(num_classes, width) if is_sscf else ResNet(name)
  x = jnp.zeros((1, 3, 64, 64, 1) if is_sscf else (1, 32, 32, 1))
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, False))
  return jax.tree.map(jnp.shape, traverse_util.flatten_dict(shapes))


def from_torch(name: str, state_dict: Mapping[str, np.ndarray]) -> dict:
  """Makes variables of a PyTorch module's parameters.

  A residual network's stem of three channels is summed over them: on a gray image that is the same
  convolution. Its classifier (`fc.*`), all counters (`num_batches_tracked`) and the prefix
  `module.` of torch's data-parallel wrappers are passed over.

  Args:
    name: 'resnet18' | 'resnet34' | 'resnet50' with torchvision's or timm's names, or 'sscf' with
      the published module's. SSCF's width and number of classes are those of the given arrays.
    state_dict: name -> array, in torch's layout.

  Returns:
    {'params': ..., 'batch_stats': ...}, float32 numpy arrays, of `backbone.ResNet` alone or of
    `sscf.SSCF`. An InputError lists every name and shape that differs.
  """
  if name not in NAMES:
    raise InputError(f'from_torch: found name {name!r}, wanted one of {", ".join(NAMES)}')
  if state_dict and all(key.startswith('module.') for key in state_dict):
    state_dict = {key.removeprefix('module.'): value for key, value in state_dict.items()}
  found = {
    key: np.asarray(value)
    for key, value in state_dict.items()
    if not key.endswith('num_batches_tracked') and not (name in RESNETS and key.startswith('fc.'))
  }
  width = _first_side(found, 'TCE.FE.0.first.0.weight', 64)
  wanted = _wanted(name, width, _first_side(found, 'finalconv3.weight', 1))

  flat, problems = {}, []
  for path, shape in wanted.items():
    key, shape = torch_name(name, path[1:]), _torch_shape(path, shape)
    value = found.pop(key, None)
    if value is None:
      problems.append(f'{key}: wanted {shape}, found nothing')
      continue
    is_stem = name in RESNETS and path[1:] == ('conv1', 'kernel')
    if is_stem and value.shape == (shape[0], 3, *shape[2:]):
      value = value.astype(np.float32).sum(axis=1, keepdims=True)
    if value.shape != shape:
      problems.append(f'{key}: wanted {shape}, found {value.shape}')
      continue
    flat[path] = np.ascontiguousarray(_from_torch_layout(path, value.astype(np.float32)))
  problems += [f'{key}: wanted nothing, found {value.shape}' for key, value in found.items()]
  if problems:
    raise InputError(
      f'these are not the weights of {name}; {len(problems)} of their names '
      'or shapes differ:\n  ' + '\n  '.join(problems)
    )
  return traverse_util.unflatten_dict(flat)


def _first_side(found: Mapping[str, np.ndarray], key: str, default: int) -> int:
  value = found.get(key)
  return default if value is None or value.ndim != 4 else len(value)
