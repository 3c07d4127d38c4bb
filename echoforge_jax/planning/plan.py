"""Ahead-of-time plans: the real steps, compiled for a slice that is not here.

The training step is built and jitted by the functions that training uses, on a
mesh of the slice's devices, from shapes alone: no array is ever made.
"""

from collections.abc import Callable, Iterator
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from echoforge_jax import cpu
from echoforge_jax.errors import InputError
from echoforge_jax.inference import segmenter
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.planning import compiled
from echoforge_jax.planning.topology import Slice
from echoforge_jax.training import build, steps

# Smaller batches that are tried where one does not fit.
_HALVINGS = 3


class Remedy(NamedTuple):
  """A change that may make a step fit, as flags of the command line."""

  flags: tuple[str, ...]
  fits: bool | None  # None: not tried, for it cannot save enough.
  needed: int  # Bytes on a chip, as far as known.


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is known of a config on a slice.

  Attributes:
    place: the slice.
    chips: of it that the config uses.
    clips_per_chip: of a training step.
    flags: that give the config this batch; () where it has it already.
    train: the training step.
    segment: the inference step: one frame of one clip on one chip.
    state_bytes: of the state on a chip.
    gradient_bytes: of one copy of the trained parameters, float32.
    largest: clips a chip that would still fit, an estimate; 0: not known.
    remedies: what was tried where the training step does not fit.
  """

  place: Slice
  chips: int
  clips_per_chip: int
  flags: tuple[str, ...]
  train: compiled.CompiledStep
  segment: compiled.CompiledStep
  state_bytes: int
  gradient_bytes: int
  largest: int
  remedies: tuple[Remedy, ...] = ()

  @property
  def estimate(self) -> compiled.Estimate | None:
    """Of the training step; None where it does not fit or peaks are unknown."""
    return self._estimate(self.train, self.place.shape)

  @property
  def segment_estimate(self) -> compiled.Estimate | None:
    """Of the inference step."""
    return self._estimate(self.segment, (1,))

  @property
  def clips_per_second(self) -> float:
    """Of all chips; an estimate, NaN where there is none."""
    found = self.estimate
    return self.chips * self.clips_per_chip / found.total if found else math.nan

  def _estimate(self, step, shape) -> compiled.Estimate | None:
    if not step.fits or self.place.chip is None:
      return None
    return compiled.estimate(step, self.place.chip, shape)


def make_plan(config: ConfigDict, place: Slice, *, per_chip: int = 0, suggest: bool = True) -> Plan:
  """Compiles a config's two steps for a slice.

  Args:
    config: a config of `configs/`.
    place: of `topology.get_slice`.
    per_chip: clips a chip; 0: the config's batch where it divides over the
      chips, else one a chip.
    suggest: where the training step does not fit, compile until one of
      rematerialization, a divided state or a smaller batch does.

  Raises:
    InputError: for a config that does not work on this many chips.
  """
  chips = make_mesh(config, place).size
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


def make_mesh(config: ConfigDict, place: Slice) -> jax.sharding.Mesh:
  """Returns the mesh that training would make of a slice's devices."""
  return mesh_lib.make_mesh(config.num_devices, config.fsdp, devices=place.devices)


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
  """Gives the config a batch that divides over the chips.

  Args:
    config: a config of `configs/`.
    chips: that share a batch.
    per_chip: as in `make_plan`.

  Returns:
    The config, locked, and the flags that make it so. Labeled and unlabeled
    clips keep their proportion, as far as whole clips can.
  """
  labeled, unlabeled = config.batch_size, config.unlabeled_batch_size
  total = labeled + unlabeled
  wanted = chips * max(per_chip, 1)
  if wanted == total or (not per_chip and total % chips == 0):
    return config, ()
  rest = round(wanted * unlabeled / total)
  if unlabeled:
    if wanted < 2:
      raise InputError(
        'one clip cannot be labeled and unlabeled at once; set '
        'config.unlabeled_batch_size to 0, or --per_chip to 2 or more'
      )
    rest = min(max(rest, 1), wanted - 1)
  flags = (f'--config.batch_size={wanted - rest}',)
  if unlabeled:
    flags += (f'--config.unlabeled_batch_size={rest}',)
  fields = {'batch_size': wanted - rest, 'unlabeled_batch_size': rest}
  return _changed(config, **fields), flags


def _changed(config: ConfigDict, **fields: Any) -> ConfigDict:
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict(fields)
  return config


def train_step(config: ConfigDict, place: Slice) -> tuple[Any, Any, Any]:
  """Jits the training step of a config for the devices of a slice.

  Returns:
    step, state and batch: trees of ShapeDtypeStruct with shardings.
  """
  mesh = make_mesh(config, place)
  mesh_lib.check_batch(
    config.batch_size, mesh, config.unlabeled_batch_size, config.grad_accum_steps
  )
  parts = build.make_parts(config, mesh=mesh)
  state = jax.eval_shape(parts.create_state)
  sharding = mesh_lib.state_sharding(state, mesh)
  batch_sharding = mesh_lib.batch_sharding(mesh)
  state = jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, sharding
  )
  batch = {
    key: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding)
    for key, (shape, dtype) in batch_shapes(config).items()
    if key in parts.batch_keys
  }
  step = steps.jit_train_step(parts.train_step, sharding, batch_sharding)
  return step, state, batch


def batch_shapes(config: ConfigDict) -> dict[str, tuple[tuple[int, ...], Any]]:
  """Returns (shape, dtype) of a batch's fields as `data.pipeline` gives it."""
  clips = config.batch_size + config.unlabeled_batch_size
  frames, side = config.data.num_frames, config.data.image_size
  masks = (clips, frames, side, side)
  return {
    'video_weak': (masks + (1,), jnp.uint8),
    'video_strong': (masks + (1,), jnp.uint8),
    'masks': (masks, jnp.uint8),
    'labeled': ((clips, frames), jnp.bool_),
    'spacing_mm': ((clips, 2), jnp.float32),
  }


def segment_step(config: ConfigDict, state: Any, place: Slice) -> tuple:
  """Jits the inference step, which segments any clip frame by frame.

  Args:
    config: a config of `configs/`.
    state: shapes of a training state.
    place: whose first device is used.

  Returns:
    step, model, and shapes of the teacher, a frame and the memory.
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
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), (teacher, frame, memory)
  )
  return jit(segmenter.frame_step, static_argnums=0), model, *shapes


def bytes_on_a_chip(tree: Any) -> int:
  """Adds up a tree's bytes on each of the devices that share it, unpadded."""

  def size(leaf) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return 8
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * (leaf.dtype.itemsize)

  return sum(map(size, jax.tree.leaves(tree)))


def largest_batch(train: compiled.CompiledStep, state_bytes: int, hbm: int, clips: int) -> int:
  """Estimates clips a chip that would still fit, if all but the state grows.

  One compilation cannot tell what grows. It takes all temporaries for
  activations, so it is rather too small than too large.

  Args:
    train: the step.
    state_bytes: on a chip.
    hbm: bytes a program can use.
    clips: a chip, of `train`.

  Returns:
    The estimate, at least `clips`; 0 where it cannot be known.
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

  Args:
    config: whose training step does not fit.
    chips: that it is for.
    compile_with: compiles the training step of a changed config.
    excess: bytes that must go; 0 where the compiler did not say.
    state_bytes: of the state on a chip.

  Yields:
    Rematerialization, then with it a state that is divided over chips, then
    smaller batches. What cannot save enough is not compiled.
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
    config = _changed(config, **{'model.remat': True})
    flags = ('--config.model.remat=True',)
    yield flags, config, None
  shares = math.gcd(chips, 16)
  if shares > config.fsdp:
    divided = _changed(config, fsdp=shares)
    # With remat on top, which alone was not enough.
    saved = None if flags else state_bytes
    yield (*flags, f'--config.fsdp={shares}'), divided, saved
  total = config.batch_size + config.unlabeled_batch_size
  for _ in range(_HALVINGS):
    clips = total // chips // 2
    if not clips:
      return
    config, fewer = with_clips(config, chips, clips)
    total = clips * chips
    yield (*flags, *fewer), config, None
