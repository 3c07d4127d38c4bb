"""Config -> model, optimizer, objective, data: where fields become named arguments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
from jax import Array
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict
import numpy as np
import optax

from echoforge_jax.data import augment
from echoforge_jax.data.phantom_stream import StreamConfig
from echoforge_jax.data.spec import DataSpec
from echoforge_jax.errors import InputError
from echoforge_jax.models.registry import DTYPES
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import objectives, schedules, steps
from echoforge_jax.training import optimizer as optimizer_lib
from echoforge_jax.training import state as state_lib
from echoforge_jax.training import validation as validation_lib
from echoforge_jax.training.objectives.base import Objective

# Clips of an epoch where no data is read: plans, costs and speeds.
NOMINAL_CLIPS = 1000


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a run is made of, built from its config; all functions are pure."""

  model: nn.Module
  create_state: Callable[[], state_lib.TrainState]
  train_step: Callable[..., Any]  # (state, batch) -> (state, metrics).
  eval_step: Callable[..., Any]  # (state, batch) -> sums and counts.
  batch_keys: tuple[str, ...]  # Fields of a batch that the step reads.


def make_model(config: ConfigDict) -> nn.Module:
  """Builds `config.model` for `config.data.classes` in `config.dtype`."""
  from echoforge_jax.models import build_model  # Only where a model is built.

  lacking = [name for name in ('dtype', 'model', 'data') if name not in config]
  if lacking or 'classes' not in config.data or 'name' not in config.model:
    raise InputError(
      f'the config lacks {", ".join(lacking) or "model.name or data.classes"}; wanted one as '
      'training writes it: restore config.json, or start a new workdir'
    )
  if config.dtype not in DTYPES:
    raise InputError(f'config.dtype is {config.dtype!r}; choose one of {", ".join(DTYPES)}')
  options = config.model.to_dict()
  name, dtype = options.pop('name'), DTYPES[config.dtype]
  return build_model(name, num_classes=len(config.data.classes), dtype=dtype, **options)


def count_clips(config: ConfigDict) -> int | None:
  """Counts the clips of the training split; None where they are endless."""
  if 'stream' in config.data:
    if not config.num_steps:
      raise InputError(
        'config.num_steps is 0, but clips that are drawn while training have '
        'no epochs; set it to a number of updates'
      )
    return None
  return len(_train_split(config))


def _train_split(config: ConfigDict) -> Any:
  """Opens the training split, a `prepared.ClipSource`."""
  from echoforge_jax.data import prepared

  data = config.data
  return prepared.load_split(
    data.data_dir, data.dataset, 'train', data.image_size, split_scheme=data.split_scheme
  )


def describe_frames(config: ConfigDict) -> str:
  """Says that no clip of the training split has as many frames as are asked for; '' if one has."""
  if 'stream' in config.data:
    return ''
  most, wanted = max(c['num_frames'] for c in _train_split(config).clips), config.data.num_frames
  if most >= wanted:
    return ''
  return (
    f'WARNING: the clips of the training split hold {most} frames at most, and '
    f'config.data.num_frames={wanted} repeats them: set it to {max(most, 2)}'
  )


def describe_labels(config: ConfigDict) -> str:
  """Says whose labels are used and who is not used at all; '' where nothing is left out."""
  from echoforge_jax.data import selection

  spec = data_spec(config)
  if 'stream' in config.data or not spec.hides_labels:
    frames = spec.num_frames if spec.unlabeled_batch_size else spec.num_frames - 2
    if spec.supervision == 'full' or frames or not make_objective(config).teacher:
      return ''
    name = config.objective.name
    return f'WARNING: every frame is labeled, so the objective {name!r} has no unlabeled one'
  source = _train_split(config)
  labeled, others = selection.divide_clips(
    source, spec.label_fraction, spec.label_seed, spec.labeled_patients
  )
  chosen = {source.clips[n]['patient'] for n in labeled}
  count = len({source.clips[n]['patient'] for n in others} - chosen)
  text = f'labels of {len(chosen)} patients ({len(labeled)} clips); '
  if spec.unlabeled_batch_size:
    return text + f'{count} others are seen without labels ({len(others)} clips)'
  return f'WARNING: {text}the other {count} patients ({len(others)} clips) are NOT USED: ' + (
    'config.unlabeled_batch_size is 0'
  )


def num_steps(config: ConfigDict, num_clips: int = NOMINAL_CLIPS) -> int:
  """Returns `config.num_steps`, or the updates of `config.num_epochs` of `num_clips` clips."""
  updates = config.num_epochs * num_clips // (config.batch_size + config.unlabeled_batch_size)
  return config.num_steps or max(1, updates)


def fix_length(config: ConfigDict, num_clips: int | None) -> ConfigDict:
  """Returns a locked copy of a config whose `num_steps` is that of the run."""
  fixed = config.copy_and_resolve_references()
  with fixed.unlocked():
    fixed.num_steps = num_steps(config, num_clips or NOMINAL_CLIPS)
  return fixed.lock()


def make_optimizer(config: ConfigDict) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Builds `config.optimizer` and its learning-rate schedule."""
  return optimizer_lib.make_optimizer(num_steps=num_steps(config), **config.optimizer.to_dict())


def make_objective(config: ConfigDict) -> Objective:
  """Builds `config.objective`."""
  options = config.objective.to_dict()
  name = options.pop('name', '')
  # A sparsely labeled clip always has two labeled frames; only a clip without any label needs
  # pseudo-labels for all of its frames.
  sparse = config.data.supervision == 'sparse' and not config.unlabeled_batch_size
  count = config.data.num_frames - 2 if sparse else None
  # Clips with a label on every frame, where others have none.
  labeled, others = config.batch_size, config.unlabeled_batch_size
  whole = config.data.supervision == 'full' or config.data.num_frames <= 2
  runs = math.gcd(labeled, others)
  layout = (labeled // runs, others // runs) if others and whole else (0, 1)
  return objectives.make_objective(name, num_unlabeled=count, layout=layout, **options)


def make_schedule(config: ConfigDict) -> Callable[[Array], schedules.ScheduleValues]:
  """Builds FlameRise from `config.semi.flame_rise`."""
  try:
    flame_rise = schedules.FlameRise(**config.semi.flame_rise.to_dict())
  except ValueError as error:
    raise InputError(f'config.semi.flame_rise: {error}') from error
  return functools.partial(flame_rise, num_steps=num_steps(config))


def make_parts(
  config: ConfigDict, model: nn.Module | None = None, mesh: Mesh | None = None
) -> Parts:
  """Builds everything that is jitted; `model` replaces `config.model`.

  The mesh is given where its devices share the state (`config.fsdp`).
  """
  check(config)
  model = model or make_model(config)
  tx, learning_rate = make_optimizer(config)
  objective = make_objective(config)
  labeled, unlabeled = config.batch_size, config.unlabeled_batch_size
  data = config.data
  video = jnp.zeros((1, data.num_frames, data.image_size, data.image_size, 1))
  return Parts(
    model=model,
    create_state=functools.partial(
      state_lib.create_train_state,
      model=model,
      tx=tx,
      seed=config.seed,
      video=video,
      init_extra=objective.init_extra,
    ),
    train_step=steps.make_train_step(
      model=model,
      tx=tx,
      objective=objective,
      schedule=make_schedule(config),
      ema=functools.partial(schedules.ema_decay, decay=config.semi.ema_decay),
      learning_rate=learning_rate,
      mesh=mesh,
      grad_accum_steps=config.grad_accum_steps,
      mixture=(labeled + unlabeled) // math.gcd(labeled, unlabeled),
    ),
    eval_step=steps.make_eval_step(model=model, mesh=mesh),
    batch_keys=objective.batch_keys,
  )


def check(config: ConfigDict) -> None:
  """Raises `InputError` for values that no later stage would name."""
  spec = data_spec(config)  # It checks its values.
  for name, least in (
    ('num_steps', 0),
    ('num_epochs', 1),
    ('grad_accum_steps', 1),
    ('log_every', 1),
    ('checkpoint_every', 1),
    ('keep_checkpoints', 1),
    ('eval.every', 0),
    ('eval.max_clips', 0),
    ('eval.batch_size', 1),
    ('model.memory_frames', 0),
    ('optimizer.clip_norm', 0),
  ):
    value = config
    for part in name.split('.'):
      value = value.get(part, least)  # A model may lack an option.
    if value < least:
      raise InputError(f'config.{name} is {value}; wanted at least {least}')
  dropout = config.model.get('dropout', 0.0)
  for name, value in (('model.dropout', dropout), ('semi.ema_decay', config.semi.ema_decay)):
    if not 0 <= value < 1:
      raise InputError(f'config.{name} is {value}; wanted a number in [0, 1)')
  scores = validation_lib.score_names(config.data.classes)
  if config.eval.best_metric not in ('', *scores):
    raise InputError(
      f'config.eval.best_metric is {config.eval.best_metric!r};'
      f" choose one of {', '.join(scores)}, or ''"
    )
  if spec.hides_labels and not spec.unlabeled_batch_size and make_objective(config).teacher:
    field = 'labeled_patients' if spec.labeled_patients else 'label_fraction'
    raise InputError(
      f'config.data.{field} is {getattr(spec, field)} and config.unlabeled_batch_size is 0: the '
      f'objective {config.objective.name!r} would learn from no clip of the other patients; set '
      'unlabeled_batch_size to 4, say, or choose the supervised objective (--config=FILE:tsf_arc)'
    )
  goal = config.objective
  cpr, episodic = goal.get('cpr', 'paper'), goal.get('episodic_weight', 0.4)
  if (
    goal.name == 'echoforge'
    and not config.model.get('use_cpr', False)
    and (cpr == 'paper' or (cpr == 'none' and episodic))
  ):
    raise InputError(
      f'config.objective.cpr is {cpr!r} and '
      f'config.objective.episodic_weight is {episodic} for a model without CPR '
      '(config.model.use_cpr); set them to none and to 0, or choose another objective'
    )


def data_spec(config: ConfigDict) -> DataSpec:
  """Builds the description of `config.data`, and checks it."""
  fields = config.data.to_dict()
  for name, cls in (('augmentation', augment.AugmentConfig), ('stream', StreamConfig)):
    fields[name] = _built(cls, fields.get(name, {}), f'config.data.{name}')
  fields['classes'] = tuple(config.data.classes)
  fields |= {name: config[name] for name in ('batch_size', 'unlabeled_batch_size', 'seed')}
  return _built(DataSpec, fields, 'config.data')


def _built(cls: type, fields: Mapping[str, Any], where: str) -> Any:
  names = [field.name for field in dataclasses.fields(cls)]
  if unknown := sorted(set(fields) - set(names)):
    raise InputError(f'{where}: found {unknown}, wanted some of {names}')
  return cls(**fields)


def make_iterator(config: ConfigDict, *, process_index: int, process_count: int) -> Any:
  """Builds this process's endless iterator over training batches."""
  from echoforge_jax.data import pipeline  # It imports grain.

  return pipeline.make_train_iterator(
    data_spec(config), process_index=process_index, process_count=process_count
  )


def make_loader(
  config: ConfigDict, keys: Sequence[str], sharding: NamedSharding
) -> Callable[[Mapping[str, np.ndarray]], dict[str, Array]]:
  """Builds load(batch of `make_iterator`) -> fields `keys` of the batch, on the devices.

  Views are drawn on the way, by a program that is compiled for the first batch and runs
  asynchronously. The sharding is that of `mesh.batch_sharding`.
  """
  views = augment.make_views(data_spec(config).augmentation, sharding, keys)
  return lambda batch: views(mesh_lib.put_batch(batch, sharding))


def make_validation(config: ConfigDict) -> Iterable[Mapping[str, Any]]:
  """Returns validation clips of `config.data`, as `pipeline.eval_clips` gives them."""
  from echoforge_jax.data import pipeline  # It imports grain.

  return pipeline.eval_clips(data_spec(config), 'validation')
