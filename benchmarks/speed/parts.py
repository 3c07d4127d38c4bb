"""Holds the shared set-up of all parts, and times the parts of a model."""

from collections.abc import Callable
import functools
import math
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict
import numpy as np

from benchmarks.speed import timing
from benchmarks.speed.timing import Found, NotMeasuredError, Series
from echoforge_jax import cpu
from echoforge_jax.models import registry
from echoforge_jax.models.backbone import make_backbone
from echoforge_jax.models.echoforge import GRAY_MEAN, GRAY_STD, EchoForge
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import build, steps

# Of the ceiling: side of the square matrices; images, side and channels of the
# convolution. Large enough to keep a CPU or an accelerator busy.
_CPU_MATMUL, _CPU_CONVOLUTION = 1024, (4, 32, 256)
_MATMUL, _CONVOLUTION = 8192, (64, 64, 256)
# Streaming steps that are timed for every repeat, for percentiles.
STEPS_A_REPEAT = 20


class Bench:
  """Holds the set-up that all parts share; each item is made on first use."""

  def __init__(self, config: ConfigDict, repeats: int):
    self.config, self.repeats = config, repeats
    self.found: dict[str, Found] = {}
    self.mesh = mesh_lib.make_mesh(config.num_devices, config.fsdp)
    mesh_lib.check_batch(
      config.batch_size, self.mesh, config.unlabeled_batch_size, config.grad_accum_steps
    )
    checked = config.copy_and_resolve_references()
    if config.data.num_frames == 1:  # It is a clip, if not to training.
      with checked.unlocked():
        checked.data.num_frames = 2
    build.check(checked)
    self.model = build.make_model(config)

  @property
  def clips(self) -> int:
    """B, labeled and unlabeled."""
    return self.config.batch_size + self.config.unlabeled_batch_size

  @property
  def frames(self) -> int:
    """T of a clip."""
    return self.config.data.num_frames

  @property
  def image_size(self) -> int:
    """S, side of a frame."""
    return self.config.data.image_size

  @functools.cached_property
  def video(self) -> jax.Array:
    """Noise, float32 [B, T, S, S, 1], divided over the devices."""
    shape = (self.clips, self.frames, self.image_size, self.image_size, 1)
    noise = np.random.default_rng(0).random(shape, np.float32)
    return jax.device_put(noise, mesh_lib.batch_sharding(self.mesh))

  def variables(self, model: nn.Module, *inputs: Any, **options: Any) -> Any:
    """Random weights of a module, whole on every device."""
    shapes = jax.eval_shape(
      lambda key, *x: model.init(key, *x, **options), jax.random.key(0), *inputs
    )
    rng = np.random.default_rng(0)
    return jax.device_put(
      jax.tree.map(lambda x: random_weights(x, rng), shapes), mesh_lib.replicated(self.mesh)
    )

  def times(self, part: str, seconds: float) -> float | None:
    """Returns the ratio to the time of another part's call; None without it."""
    return seconds / self.found[part].seconds if part in self.found else None


def random_weights(leaf: Any, rng: np.random.Generator) -> np.ndarray:
  """Draws random numbers without a compiled initializer.

  Kernels keep the scale of what passes through, so that no number becomes
  denormal, which some CPUs are slow at; scales and variances are one.
  """
  if len(leaf.shape) < 2:
    return np.ones(leaf.shape, leaf.dtype)
  fan_in = math.prod(leaf.shape[:-1])
  return (rng.standard_normal(leaf.shape, np.float32) / math.sqrt(fan_in)).astype(leaf.dtype)


def ceiling(bench: Bench) -> Found:
  """Matrix product and 3x3 convolution, GFLOP/s of all the config's devices.

  At JAX's default precision, which the model has as well.
  """
  others = {}
  for dtype in dict.fromkeys(('float32', bench.config.dtype)):
    for name, make in (('matmul', _matmul), ('convolution', _convolution)):
      function, *inputs = make(bench.mesh.size)
      left, right = (
        jax.device_put(x.astype(registry.DTYPES[dtype]), sharding)
        for x, sharding in zip(
          inputs, (mesh_lib.batch_sharding(bench.mesh), mesh_lib.replicated(bench.mesh))
        )
      )
      program = timing.compile_ahead(jax.jit(function), left, right)
      others[f'{name} {dtype}'], _ = timing.rate(
        functools.partial(program.run, left, right),
        bench.repeats,
        program.gflop,
        'GFLOP/s',
        program.compile_s,
      )
  return Found(
    main=others.pop('matmul float32'), others=others, values={'quantity': 'matmul float32'}
  )


def _ramp(*shape: int) -> np.ndarray:
  return np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(shape)


def _matmul(devices: int) -> tuple[Callable, Any, Any]:
  side = _CPU_MATMUL if jax.default_backend() == 'cpu' else _MATMUL
  return jnp.matmul, _ramp(devices * side, side), _ramp(side, side)


def _convolution(devices: int) -> tuple[Callable, Any, Any]:
  images, side, channels = _CPU_CONVOLUTION if jax.default_backend() == 'cpu' else _CONVOLUTION
  convolve = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(1, 1),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  x = _ramp(devices * images, side, side, channels)
  return convolve, x, _ramp(3, 3, channels, channels)


def _share(bench: Bench, rate: float) -> float | None:
  """GFLOP/s as a share of the faster ceiling in the config's dtype."""
  if 'ceiling' not in bench.found or not math.isfinite(rate):
    return None
  found = bench.found['ceiling']
  series = {'matmul float32': found.main} | dict(found.others)
  return rate / max(one.median for name, one in series.items() if name.endswith(bench.config.dtype))


def _forward(
  bench: Bench,
  apply: Callable,
  variables: Any,
  compared: dict[str, str] | None = None,
  as_training: bool = False,
) -> Found:
  """Times one program on the batch of clips, compiled as inference is."""
  jitted = (
    jax.jit(apply, compiler_options=steps.compiler_options(bench.mesh))
    if as_training
    else cpu.jit(apply)
  )
  program = timing.compile_ahead(jitted, variables, bench.video)
  series, seconds = timing.rate(
    functools.partial(program.run, variables, bench.video),
    bench.repeats,
    bench.clips * bench.frames,
    'frames/s',
    program.compile_s,
  )
  reached = program.gflop / seconds
  values = {
    'gflop_a_call': program.gflop,
    'gflop_per_s': reached,
    'share_of_ceiling': _share(bench, reached),
    'memory_mb': program.memory_mb,
  }
  for part, name in (compared or {}).items():
    times = bench.times(part, seconds)
    values[name] = None if times is None else 1 / times
  return Found(main=series, values=values, seconds=seconds)


def _of_model(bench: Bench, model: nn.Module, **options) -> Found:
  def apply(variables, video):
    return model.apply(variables, video, train=False)['logits']

  return _forward(bench, apply, bench.variables(model, bench.video, train=False), **options)


def forward(bench: Bench) -> Found:
  """The config's model on a batch of clips, as evaluation runs it."""
  return _of_model(bench, bench.model)


def forward_plain(bench: Bench) -> Found:
  """The same with the convolutions and options of a training step."""
  if jax.default_backend() != 'cpu':
    raise NotMeasuredError('it differs from forward on CPUs only')
  return _of_model(
    bench, bench.model, as_training=True, compared={'forward': 'forward_time_over_this'}
  )


def _echoforge(bench: Bench) -> EchoForge:
  if not isinstance(bench.model, EchoForge):
    raise NotMeasuredError(f'the model {bench.config.model.name} has no backbone that stands alone')
  return bench.model


def _trunk(bench: Bench) -> tuple[nn.Module, Any, Callable]:
  """The backbone, its weights, and what turns clips into its frames."""
  model = _echoforge(bench)
  encoder = make_backbone(model.backbone, norm=model.norm, remat=model.remat, dtype=model.dtype)

  def frames_of(video):
    frames = video.reshape(-1, *video.shape[2:])
    return ((frames - GRAY_MEAN) / GRAY_STD).astype(model.dtype)

  side = bench.image_size
  variables = bench.variables(
    encoder, jax.ShapeDtypeStruct((1, side, side, 1), model.dtype), train=False
  )
  return encoder, variables, frames_of


def trunk(bench: Bench) -> Found:
  """The backbone alone, on the same frames."""
  encoder, variables, frames_of = _trunk(bench)

  def apply(variables, video):
    return encoder.apply(variables, frames_of(video), False)

  return _forward(bench, apply, variables, {'forward': 'forward_time_over_this'})


def trunk_train(bench: Bench) -> Found:
  """Gradients of the backbone alone: a step without loss and optimizer.

  Of the sum of its maps' mean squares, in training mode.
  """
  encoder, variables, frames_of = _trunk(bench)

  def gradients(variables, video):
    def loss(params):
      maps, updates = encoder.apply(
        variables | {'params': params}, frames_of(video), True, mutable=['batch_stats']
      )
      squares = (jnp.mean(jnp.square(x.astype(jnp.float32))) for x in maps)
      return sum(squares), updates

    return jax.grad(loss, has_aux=True)(variables['params'])

  return _forward(bench, gradients, variables, {'train': 'train_time_over_this'}, as_training=True)


def trunk_decoder(bench: Bench) -> Found:
  """Backbone, neck and decoder: the variant 'baseline'."""
  model = _echoforge(bench).clone(use_tsf=False, use_arc=False, use_cpr=False)
  return _of_model(bench, model, compared={'forward': 'forward_time_over_this'})


def stream(bench: Bench) -> Found:
  """A frame of one stream on one device, each waited for."""
  from echoforge_jax.inference import segmenter

  model, side = bench.model, bench.image_size
  here = SingleDeviceSharding(bench.mesh.devices.flat[0])
  variables = jax.device_put(bench.variables(model, bench.video[:1], train=False), here)
  frame = jax.device_put(np.random.default_rng(0).integers(0, 256, (side, side), np.uint8), here)
  memory = jax.device_put(model.init_memory(1, (side, side)), here)
  program = timing.compile_ahead(segmenter.jit_frame_step(), model, variables, frame, memory)
  milliseconds = []
  for _ in range(timing.WARM_UP + STEPS_A_REPEAT * bench.repeats):
    start = time.perf_counter()
    logits, memory = program.run(variables, frame, memory)
    jax.block_until_ready((logits, memory))
    milliseconds.append(1000 * (time.perf_counter() - start))
  del milliseconds[: timing.WARM_UP]
  p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99]).tolist()
  return Found(
    main=Series('ms', tuple(milliseconds), program.compile_s),
    values={
      'p50': p50,
      'p95': p95,
      'p99': p99,
      'batch': 1,
      'gflop_a_call': program.gflop,
      'memory_mb': program.memory_mb,
    },
    seconds=p50 / 1000,
  )
