"""Ahead-of-time plans: training's own step, compiled from shapes for a slice that is not here."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from echoforge_jax import cpu
from echoforge_jax.data import augment
from echoforge_jax.errors import InputError
from echoforge_jax.inference import segmenter
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.planning import compiled
from echoforge_jax.planning.topology import Slice
from echoforge_jax.training import build, steps


class Remedy(NamedTuple):
  """A change that may make a step fit, as flags of the command line."""

  flags: tuple[str, ...]
  fits: bool | None  # None: not tried, for it cannot save enough.
  needed: int  # Bytes on a chip, as far as known.


@dataclasses.dataclass(frozen=True)
class Plan:
  """Describes a config on a slice."""

  place: Slice
  chips: int  # Of the slice that the config uses.
  clips_per_chip: int
  flags: tuple[str, ...]  # Give the config this batch; () where it has it already.
  train: compiled.CompiledStep
  segment: compiled.CompiledStep  # One frame of one clip on one chip.
  state_bytes: int  # On one chip.
  gradient_bytes: int  # Of one copy of the trained parameters, float32.
  largest: int  # Clips per chip that would still fit, an estimate; 0: not known.
  remedies: tuple[Remedy, ...] = ()  # Tried where the training step does not fit.

  @property
  def estimate(self) -> compiled.Estimate | None:
    """Estimate of the training step; None where it does not fit or peaks are unknown."""
    return self._estimate(self.train, self.place.shape)

  @property
  def segment_estimate(self) -> compiled.Estimate | None:
    """Estimate of the inference step, likewise."""
    return self._estimate(self.segment, (1,))

  @property
  def clips_per_second(self) -> float:
    """Estimate of training on all chips; NaN where there is none."""
    found = self.estimate
    return self.chips * self.clips_per_chip / found.total if found else math.nan

  def _estimate(self, step, shape) -> compiled.Estimate | None:
    if not step.fits or self.place.chip is None:
      return None
    return compiled.estimate(step, self.place.chip, shape)


def make_plan(config: ConfigDict, place: Slice, *, per_chip: int = 0, suggest: bool = True) -> Plan:
  """Compiles a config's two steps for a slice.

  Args:
    config: any config.
    place: of `topology.get_slice`.
    per_chip: clips per chip; 0: the config's batch where it divides over the chips, else 1.
    suggest: tries remedies where the training step does not fit.
  """
  chips = mesh_lib.make_mesh(config.num_devices, config.fsdp, devices=place.devices).size
  config, flags = with_clips(config, chips, per_chip)
  train, state = _compile_train(config, place)
  state_bytes = bytes_on_a_chip(state)
  clips = (config.batch_size + config.unlabeled_batch_size) // chips
  remedies = ()
  if suggest and not train.fits:
    remedies = tuple(
      try_remedies(
        config,
        chips,
        lambda changed: _compile_train(changed, place)[0],
        excess=max(train.needed - place.hbm, 0) if train.needed else 0,
        state_bytes=state_bytes,
      )
    )
  return Plan(
    place=place,
    chips=chips,
    clips_per_chip=clips,
    flags=flags,
    train=train,
    segment=_compile(place, *segment_step(config, state, place)),
    state_bytes=state_bytes,
    gradient_bytes=sum(4 * leaf.size for leaf in jax.tree.leaves(state.params)),
    largest=largest_batch(train, state_bytes, place.hbm, clips),
    remedies=remedies,
  )


def _compile_train(config: ConfigDict, place: Slice) -> tuple[compiled.CompiledStep, Any]:
  step, state, batch = train_step(config, place)
  return _compile(place, step, state, batch), state


def _compile(place: Slice, jitted: Any, *arguments: Any) -> compiled.CompiledStep:
  step = compiled.compile_step(jitted, *arguments, platform=place.devices[0].platform)
  if not step.fits or not 0 < place.hbm < step.needed:
    return step
  # Only a TPU's compiler refuses what is too large.
  message = f'{place.kind} has {place.hbm:,} bytes and the program needs {step.needed:,}'
  return dataclasses.replace(step, fits=False, memory=None, message=message)


def with_clips(
  config: ConfigDict, chips: int, per_chip: int = 0
) -> tuple[ConfigDict, tuple[str, ...]]:
  """Gives a config a batch that divides over the chips; also returns the flags that do so.

  Labeled and unlabeled clips keep their proportion, as far as whole clips can. `per_chip` is
  that of `make_plan`.
  """
  labeled, unlabeled = config.batch_size, config.unlabeled_batch_size
  total = labeled + unlabeled
  wanted = chips * max(per_chip, 1)
  if wanted == total or (not per_chip and total % chips == 0):
    return config, ()
  if not unlabeled:
    return _changed(config, {'batch_size': wanted})
  if wanted < 2:
    raise InputError(
      'one clip cannot be labeled and unlabeled at once; set '
      'config.unlabeled_batch_size to 0, or --per_chip to 2 or more'
    )
  rest = min(max(round(wanted * unlabeled / total), 1), wanted - 1)
  return _changed(config, {'batch_size': wanted - rest, 'unlabeled_batch_size': rest})


def _changed(config: ConfigDict, fields: Mapping[str, Any]) -> tuple[ConfigDict, tuple[str, ...]]:
  """Returns a changed copy and the flags that make it so."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict(fields)
  return config, tuple(f'--config.{key}={value}' for key, value in fields.items())


def train_step(config: ConfigDict, place: Slice) -> tuple[Any, Any, Any]:
  """Returns the jitted training step for a slice, and the shapes of state and batch."""
  mesh = mesh_lib.make_mesh(config.num_devices, config.fsdp, devices=place.devices)
  mesh_lib.check_batch(
    config.batch_size, mesh, config.unlabeled_batch_size, config.grad_accum_steps
  )
  parts = build.make_parts(config, mesh=mesh)
  state = jax.eval_shape(parts.create_state)
  sharding = mesh_lib.state_sharding(state, mesh)
  batch_sharding = mesh_lib.batch_sharding(mesh)
  state = jax.tree.map(lambda x, where: x.update(sharding=where), state, sharding)
  batch = {
    key: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding)
    for key, (shape, dtype) in batch_shapes(config, parts.batch_keys).items()
  }
  step = steps.jit_train_step(parts.train_step, sharding, batch_sharding)
  return step, state, batch


def batch_shapes(
  config: ConfigDict, fields: Sequence[str] = augment.FIELDS
) -> dict[str, tuple[tuple[int, ...], Any]]:
  """Returns (shape, dtype) of a batch's fields as `data.augment` draws them."""
  clips = config.batch_size + config.unlabeled_batch_size
  frames, side = config.data.num_frames, config.data.image_size
  masks = (clips, frames, side, side)
  shapes = {
    'video_weak': (masks + (1,), jnp.uint8),
    'video_strong': (masks + (1,), jnp.uint8),
    'masks': (masks, jnp.uint8),
    'labeled': ((clips, frames), jnp.bool_),
    'spacing_mm': ((clips, 2), jnp.float32),
  }
  return {field: shapes[augment.view_kind(field)] for field in fields}


def segment_step(config: ConfigDict, state: Any, place: Slice) -> tuple:
  """Returns the jitted inference step for a slice's first device, and its arguments.

  These are the model and the shapes of teacher (from the training `state`), frame and memory.
  """
  model = build.make_model(config)
  side = (config.data.image_size,) * 2
  teacher = {'params': state.teacher_params}
  if state.teacher_batch_stats:
    teacher['batch_stats'] = state.teacher_batch_stats
  memory = jax.eval_shape(lambda: model.init_memory(1, side))
  frame = jax.ShapeDtypeStruct(side, jnp.uint8)
  here = SingleDeviceSharding(place.devices[0])
  # On the CPU that this runs on, as `segment` compiles it.
  jit = cpu.jit if place.devices[0].platform == 'cpu' else jax.jit
  shapes = jax.tree.map(lambda x: x.update(sharding=here), (teacher, frame, memory))
  return jit(segmenter.frame_step, static_argnums=0), model, *shapes


def bytes_on_a_chip(tree: Any) -> int:
  """Adds up a tree's bytes on each of the devices that share it, unpadded."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def largest_batch(train: compiled.CompiledStep, state_bytes: int, hbm: int, clips: int) -> int:
  """Estimates how many clips per chip would fit, if all but the state grows; 0: not known.

  `train` is of `clips` per chip. One compilation cannot tell what grows: all temporaries are
  taken for activations, so the estimate is too small rather than too large.
  """
  if not train.fits or not hbm:
    return 0
  fixed = state_bytes + train.memory.code
  growing = max(train.needed - fixed, 1) / clips
  return max(int((hbm - fixed) / growing), clips)


def try_remedies(
  config: ConfigDict,
  chips: int,
  compile_with: Callable[[ConfigDict], compiled.CompiledStep],
  *,
  excess: int,
  state_bytes: int,
) -> Iterator[Remedy]:
  """Tries one change after the other, up to the first that fits.

  These are rematerialization, then with it a state that is divided over chips, then smaller
  batches. What cannot save `excess` bytes (0: not known) is not compiled.
  """
  for flags, changed, saved in _candidates(config, chips, state_bytes):
    if saved is not None and saved < excess:
      yield Remedy(flags, None, 0)
      continue
    found = compile_with(changed)
    yield Remedy(flags, found.fits, found.needed)
    if found.fits:
      return


def _candidates(
  config: ConfigDict, chips: int, state_bytes: int
) -> Iterator[tuple[tuple[str, ...], ConfigDict, int | None]]:
  """Yields flags, the config they make, and the most they save, if known."""
  flags: tuple[str, ...] = ()
  if 'remat' in config.model and not config.model.remat:
    config, flags = _changed(config, {'model.remat': True})
    yield flags, config, None
  shares = math.gcd(chips, 16)
  if shares > config.fsdp:
    divided, more = _changed(config, {'fsdp': shares})
    # What it saves with remat on top, which alone was not enough, is not known.
    yield flags + more, divided, None if flags else state_bytes
  clips = (config.batch_size + config.unlabeled_batch_size) // chips
  for _ in range(3):
    clips //= 2
    if not clips:
      return
    config, fewer = with_clips(config, chips, clips)
    yield flags + fewer, config, None
