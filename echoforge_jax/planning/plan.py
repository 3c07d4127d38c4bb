"""Ahead-of-time plans: the real steps, compiled for a slice that is not here.

The training step is built and jitted by the functions that training uses, on a
mesh of the slice's devices, from shapes alone: no array is ever made.
"""

from collections.abc import Iterator
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from echoforge_jax import cpu
from echoforge_jax.errors import InputError
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.planning import compiled
from echoforge_jax.planning.topology import Slice

# Smaller batches that are tried where one does not fit.
_HALVINGS = 3


@dataclasses.dataclass(frozen=True)
class Remedy:
  """A change that may make a step fit.

  Attributes:
    flags: of the command line.
    fits: None: not tried, for it cannot save enough.
    needed: bytes on a chip, as far as known.
  """

  flags: tuple[str, ...]
  fits: bool | None
  needed: int


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
  train: compiled.Program
  segment: compiled.Program
  state_bytes: int
  gradient_bytes: int
  largest: int
  remedies: tuple[Remedy, ...] = ()

  @property
  def estimate(self) -> compiled.Estimate | None:
    """Of the training step; None where it does not fit or peaks are unknown."""
    return _estimate(self.train, self.place, self.place.shape)

  @property
  def segment_estimate(self) -> compiled.Estimate | None:
    """Of the inference step."""
    return _estimate(self.segment, self.place, (1,))

  @property
  def clips_per_second(self) -> float:
    """Of all chips; an estimate, NaN where there is none."""
    found = self.estimate
    return self.chips * self.clips_per_chip / found.total if found else math.nan


def _estimate(program, place, shape) -> compiled.Estimate | None:
  if not program.fits or place.chip is None:
    return None
  return compiled.estimate(program, place.chip, shape)


def make_plan(
  config: ConfigDict, place: Slice, *, per_chip: int = 0, suggest: bool = True
) -> Plan:
  """Compiles a config's two steps for a slice.

  Args:
    config: a config of `configs/`.
    place: of `topology.get_slice`.
    per_chip: clips a chip; 0: the config's batch where it divides over the
      chips, else one a chip.
    suggest: where the training step does not fit, compile until one of
      rematerialization, a divided state or a smaller batch does.

  Returns:
    The plan.

  Raises:
    InputError: for a config that does not work on this many chips.
  """
  mesh = mesh_lib.make_mesh(
    config.num_devices, config.get('fsdp', 1), devices=place.devices
  )
  config, flags = with_clips(config, mesh.size, per_chip)
  step, state, batch = train_step(config, place)
  train = _compile(place, step, state, batch)
  state_bytes = bytes_on_a_chip(state)
  clips = (config.batch_size + config.unlabeled_batch_size) // mesh.size
  remedies = ()
  if suggest and not train.fits:
    remedies = tuple(_try_remedies(config, place, train, state))
  return Plan(
    place=place,
    chips=mesh.size,
    clips_per_chip=clips,
    flags=flags,
    train=train,
    segment=_compile(place, *segment_step(config, state, place)),
    state_bytes=state_bytes,
    gradient_bytes=sum(4 * leaf.size for leaf in jax.tree.leaves(state.params)),
    largest=largest_batch(train, state_bytes, place.hbm, clips),
    remedies=remedies,
  )


def _compile(place: Slice, jitted: Any, *arguments: Any) -> compiled.Program:
  program = compiled.compile_program(
    jitted, *arguments, platform=place.devices[0].platform
  )
  if program.fits and 0 < place.hbm < program.needed:
    # Only a TPU's compiler refuses what is too large.
    return dataclasses.replace(
      program,
      fits=False,
      memory=None,
      message=f'{place.kind} has '
      f'{place.hbm:,} bytes and the program needs {program.needed:,}',
    )
  return program


def with_clips(
  config: ConfigDict, chips: int, per_chip: int = 0
) -> tuple[ConfigDict, tuple[str, ...]]:
  """The config with a batch that divides over the chips.

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
  if not per_chip and total % chips == 0:
    return config, ()
  wanted = chips * max(per_chip, 1)
  if wanted == total:
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
  return _changed(
    config, batch_size=wanted - rest, unlabeled_batch_size=rest
  ), flags


def _changed(
  config: ConfigDict, *, remat: bool | None = None, **fields: int
) -> ConfigDict:
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.update(fields)
    if remat is not None:
      config.model.remat = remat
  return config


def train_step(config: ConfigDict, place: Slice) -> tuple[Any, Any, Any]:
  """The jitted training step of a config, and the shapes it is called with.

  Args:
    config: a config of `configs/`.
    place: whose devices are used.

  Returns:
    step, state and batch: trees of ShapeDtypeStruct with shardings.
  """
  from echoforge_jax.training import build, steps

  mesh = mesh_lib.make_mesh(
    config.num_devices, config.get('fsdp', 1), devices=place.devices
  )
  mesh_lib.check_batch(
    config.batch_size,
    mesh,
    config.unlabeled_batch_size,
    config.get('grad_accum_steps', 1),
  )
  parts = build.make_parts(config, mesh=mesh)
  state = jax.eval_shape(parts.create_state)
  sharding = mesh_lib.state_sharding(state, mesh)
  split = mesh_lib.batch_sharding(mesh)
  state = jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    state,
    sharding,
  )
  batch = {
    key: jax.ShapeDtypeStruct(shape, dtype, sharding=split)
    for key, (shape, dtype) in batch_shapes(config).items()
    if key in parts.batch_keys
  }
  return steps.jit_train_step(parts.train_step, sharding, split), state, batch


def batch_shapes(config: ConfigDict) -> dict[str, tuple[tuple[int, ...], Any]]:
  """Shapes and types of a batch as `data.pipeline` gives it, over all chips.

  Args:
    config: a config of `configs/`.

  Returns:
    Field -> (shape, dtype).
  """
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
  """The jitted inference step and what it is called with.

  A clip of any length is segmented by this step, frame by frame.

  Args:
    config: a config of `configs/`.
    state: shapes of a training state.
    place: whose first device is used.

  Returns:
    step, model, and shapes of the teacher, a frame and the memory.
  """
  from echoforge_jax.inference import segmenter
  from echoforge_jax.training import build

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
  step = jit(segmenter.frame_step, static_argnums=0)
  return (
    step,
    model,
    *jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
      (teacher, frame, memory),
    ),
  )


def bytes_on_a_chip(tree: Any) -> int:
  """Bytes of a tree's arrays on each of the devices that share it.

  Args:
    tree: ShapeDtypeStruct with shardings as leaves.

  Returns:
    Bytes, without the padding that a device may add.
  """

  def size(leaf) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return 8
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * (
      leaf.dtype.itemsize
    )

  return sum(map(size, jax.tree.leaves(tree)))


def largest_batch(
  train: compiled.Program, state_bytes: int, hbm: int, clips: int
) -> int:
  """Clips a chip that would still fit, if all but the state grows with them.

  An estimate: one compilation cannot tell what grows. It takes all
  temporaries for activations, so it is rather too small than too large.

  Args:
    train: the step that fits.
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


def _try_remedies(
  config: ConfigDict, place: Slice, train: compiled.Program, state: Any
) -> Iterator[Remedy]:
  """Compiles one change after the other, up to the first that fits."""
  # Bytes that must go; 0 where the compiler did not say.
  excess = max(train.needed - place.hbm, 0) if train.needed else 0
  for flags, changed, saved in _candidates(
    config, config.num_devices or len(place.devices), state
  ):
    if saved is not None and saved < excess:
      yield Remedy(flags, None, 0)
      continue
    step, *shapes = train_step(changed, place)
    found = _compile(place, step, *shapes)
    yield Remedy(flags, found.fits, found.needed)
    if found.fits:
      return


def _candidates(
  config: ConfigDict, count: int, state: Any
) -> Iterator[tuple[tuple[str, ...], ConfigDict, int | None]]:
  """Yields flags, the config they make, and the most they save, if known."""
  flags: tuple[str, ...] = ()
  if 'remat' in config.model and not config.model.remat:
    config, flags = _changed(config, remat=True), ('--config.model.remat=True',)
    yield flags, config, None
  shares = math.gcd(count, 16)
  if shares > config.get('fsdp', 1):
    divided = _changed(config, fsdp=shares)
    flag = f'--config.fsdp={shares}'
    whole = bytes_on_a_chip(state)
    # With remat on top, which alone was not enough.
    yield (*flags, flag), divided, None if flags else whole
  total = config.batch_size + config.unlabeled_batch_size
  for _ in range(_HALVINGS):
    clips = total // count // 2
    if not clips:
      return
    config, fewer = with_clips(config, count, clips)
    total = clips * count
    yield (*flags, *fewer), config, None
