"""Starting from weights that exist instead of from random ones."""

from collections.abc import Sequence
import os

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp
import numpy as np

from echoforge_jax.errors import InputError
from echoforge_jax.models import network_file, weight_files, weights
from echoforge_jax.models.backbone import RESNETS
from echoforge_jax.models.echoforge import EchoForge
from echoforge_jax.models.sscf import SSCF
from echoforge_jax.training import checkpoint
from echoforge_jax.training.state import TrainState, compare_trees, shorten

# Parts of EchoForge that a config switches on and off.
PARTS = ('arc', 'tsf', 'cpr', 'coarse_head')


def replace_weights(
  state: TrainState,
  variables: dict,
  *,
  source: str,
  remedy: str = 'Use the config.model it was trained with',
) -> TrainState:
  """Puts weights into student and teacher before the first update; the rest stays new.

  `variables` is any subtree of the model's {'params': ..., 'batch_stats': ...}; `source` and
  `remedy` are for messages.
  """
  variables = jax.tree.map(np.asarray, variables)
  own = {'params': state.params, 'batch_stats': state.batch_stats}
  if problems := compare_trees(variables, own):
    raise InputError(f'{source} does not fit config.model: {shorten(problems)}. {remedy}')
  new = {}
  for name, old in own.items():
    values = flatten_dict(variables.get(name, {}))
    shardings = {path: leaf.sharding for path, leaf in flatten_dict(old).items() if path in values}
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings)
    # A copy for each network: they are donated, and may share no buffer.
    for network in (name, f'teacher_{name}'):
      new[network] = unflatten_dict(flatten_dict(getattr(state, network)) | copy(values))
  return state.replace(**new)


def from_run(
  state: TrainState,
  workdir: str | os.PathLike,
  *,
  model: nn.Module | None = None,
  classes: Sequence[str] = (),
) -> tuple[TrainState, str]:
  """Starts from the teacher of another run, such as one on the phantom.

  Where that run had other classes than `classes`, the parameters whose shape follows from their
  number stay new; parts of EchoForge that this model is without are left out. Returns the state,
  and a line that says what was taken and what was not.
  """
  config, variables, step = checkpoint.restore_for_inference(workdir, 'teacher')
  text = f'weights of {workdir} (step {step})'
  params = variables['params']
  if absent := [part for part in PARTS if part in params and part not in state.params]:
    variables = variables | {'params': {k: v for k, v in params.items() if k not in absent}}
    text += f'; not taken, since this model is without: {", ".join(absent)}'
  if classes and (theirs := tuple(config.data.classes)) != tuple(classes):
    flat = flatten_dict(variables)
    skipped = _depending_on_classes(state, model) & flat.keys()
    variables = unflatten_dict({path: leaf for path, leaf in flat.items() if path not in skipped})
    text += (
      f'; its classes are {", ".join(theirs)}, wanted {", ".join(classes)}: not taken but new are '
      f'{", ".join(sorted("/".join(path[1:]) for path in skipped))}'
    )
  source = f'config.init_from={workdir} (step {step})'
  return replace_weights(state, variables, source=source), text


def _depending_on_classes(state: TrainState, model: nn.Module) -> set[tuple[str, ...]]:
  """Finds the variables that have another shape in the same model with one class more."""
  video = jax.ShapeDtypeStruct((1, 2, 64, 64, 1), jnp.float32)
  more = model.clone(num_classes=model.num_classes + 1)
  other = flatten_dict(dict(jax.eval_shape(more.init, jax.random.key(0), video)))
  own = flatten_dict({'params': state.params, 'batch_stats': state.batch_stats})
  return {path for path, leaf in own.items() if other[path].shape != leaf.shape}


def from_file(state: TrainState, path: str | os.PathLike, *, model: nn.Module) -> TrainState:
  """Starts from published weights in a file of `models.weight_files`.

  Those of a residual network go into the backbone of an EchoForge that has this backbone, those of
  a ResNet-18 into all three encoders of an SSCF, those of the whole published SSCF into an SSCF.
  """
  source = f'config.init_from={os.fspath(path)}'
  found = weight_files.read_weights(path)
  whole = any(name.removeprefix('module.').startswith('TCE.') for name in found)
  if isinstance(model, SSCF):
    name = 'sscf' if whole else 'resnet18'
    places = () if whole else ('encoder_previous', 'encoder_target', 'encoder_next')
  elif isinstance(model, EchoForge) and model.backbone in RESNETS and not whole:
    name, places = model.backbone, ('backbone',)
  else:
    kind = getattr(model, 'backbone', type(model).__name__)
    raise InputError(
      f'{source} holds {"a whole SSCF" if whole else "other arrays"} and '
      f'the model is {type(model).__name__} ({kind}); weights of a residual '
      'network fit an EchoForge whose config.model.backbone names it, or '
      'sscf (resnet18); those of an SSCF fit config.model.name sscf alone'
    )
  try:
    variables = weights.from_torch(name, found)
  except InputError as error:
    raise InputError(f'{source}: {error}') from error
  if places:
    variables = {part: dict.fromkeys(places, tree) for part, tree in variables.items()}
  return replace_weights(
    state,
    variables,
    source=source,
    remedy="Published weights need config.model.norm 'batch' or 'frozen', "
    'and an SSCF the width and classes of the file',
  )


def from_path(
  state: TrainState, path: str | os.PathLike, *, model: nn.Module, classes: Sequence[str] = ()
) -> tuple[TrainState, str]:
  """Starts from `config.init_from`: published weights, a run, an exported network or 'default'.

  `classes` are those of the training. Returns the state, and a line about what was taken.
  """
  if (
    weight_files.is_weight_file(path)
    and not os.path.isdir(path)
    and not network_file.holds_network(path)
  ):
    return from_file(state, path, model=model), f'weights of {os.fspath(path)}'
  return from_run(state, path, model=model, classes=classes)
