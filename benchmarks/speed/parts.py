"""The parts that are programs: ceiling, model and training step."""

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
from echoforge_jax.clip import IGNORE
from echoforge_jax.models import registry
from echoforge_jax.models.backbone import make_backbone
from echoforge_jax.models.echoforge import GRAY_MEAN, GRAY_STD, EchoForge
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.planning import plan
from echoforge_jax.training import build, steps

# Of the ceiling: side of the square matrices; images, side and channels of the
# convolution. Large enough to keep a CPU or an accelerator busy.
_CPU_MATMUL, _CPU_CONVOLUTION = 1024, (4, 32, 256)
_MATMUL, _CONVOLUTION = 8192, (64, 64, 256)
# Streaming steps that are timed for every repeat, for percentiles.
STEPS_A_REPEAT = 20


class Bench:
  """What all parts share; made when first asked for.

  Attributes:
    config: with the wanted batch.
    repeats: measurements of every quantity.
    found: parts that are done.
    mesh: the config's devices.
    model: the config's.
  """

  def __init__(self, config: ConfigDict, repeats: int):
    self.config, self.repeats = config, repeats
    self.found: dict[str, Found] = {}
    self.mesh = mesh_lib.make_mesh(config.num_devices, config.fsdp)
    mesh_lib.check_batch(
      config.batch_size,
      self.mesh,
      config.unlabeled_batch_size,
      config.grad_accum_steps,
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
      jax.tree.map(lambda x: _weights(x, rng), shapes),
      mesh_lib.replicated(self.mesh),
    )

  def times(self, part: str, seconds: float) -> float | None:
    """How many times as long as another part's call; None without it."""
    return seconds / self.found[part].seconds if part in self.found else None


def _weights(leaf: Any, rng: np.random.Generator) -> np.ndarray:
  """Random numbers without a compiled initializer.

  Kernels keep the scale of what passes through, so that no number becomes
  denormal, which some CPUs are slow at; scales and variances are one.
  """
  if len(leaf.shape) < 2:
    return np.ones(leaf.shape, leaf.dtype)
  fan_in = math.prod(leaf.shape[:-1])
  return (
    rng.standard_normal(leaf.shape, np.float32) / math.sqrt(fan_in)
  ).astype(leaf.dtype)


def ceiling(bench: Bench) -> Found:
  """Matrix product and 3x3 convolution, GFLOP/s of all the config's devices.

  At JAX's default precision, which the model has as well.
  """
  others = {}
  for dtype in dict.fromkeys(('float32', bench.config.dtype)):
    for name, make in (('matmul', _matmul), ('convolution', _convolution)):
      function, left, right = make(bench.mesh.size, registry.DTYPES[dtype])
      left = jax.device_put(left, mesh_lib.batch_sharding(bench.mesh))
      right = jax.device_put(right, mesh_lib.replicated(bench.mesh))
      program = timing.compile_ahead(jax.jit(function), left, right)
      others[f'{name} {dtype}'], _ = timing.rate(
        functools.partial(program.run, left, right),
        bench.repeats,
        program.gflop,
        'GFLOP/s',
        program.compile_s,
      )
  return Found(
    main=others.pop('matmul float32'),
    others=others,
    values={'quantity': 'matmul float32'},
  )


def _matmul(devices: int, dtype: Any) -> tuple[Callable, Any, Any]:
  side = _CPU_MATMUL if jax.default_backend() == 'cpu' else _MATMUL
  one = np.linspace(-1, 1, side * side, dtype=np.float32).reshape(side, side)
  return jnp.matmul, np.tile(one, (devices, 1)).astype(dtype), one.astype(dtype)


def _convolution(devices: int, dtype: Any) -> tuple[Callable, Any, Any]:
  images, side, channels = (
    _CPU_CONVOLUTION if jax.default_backend() == 'cpu' else _CONVOLUTION
  )
  shape = (devices * images, side, side, channels)
  x = np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(shape)
  kernel = np.linspace(-1, 1, 9 * channels**2, dtype=np.float32)

  def function(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  return (
    function,
    x.astype(dtype),
    kernel.reshape(3, 3, channels, channels).astype(dtype),
  )


def _share(bench: Bench, rate: float) -> float | None:
  """GFLOP/s as a share of the faster ceiling in the config's dtype."""
  if 'ceiling' not in bench.found or not math.isfinite(rate):
    return None
  found = bench.found['ceiling']
  series = {'matmul float32': found.main} | dict(found.others)
  return rate / max(
    one.median
    for name, one in series.items()
    if name.endswith(bench.config.dtype)
  )


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

  return _forward(
    bench, apply, bench.variables(model, bench.video, train=False), **options
  )


def forward(bench: Bench) -> Found:
  """The config's model on a batch of clips, as evaluation runs it."""
  return _of_model(bench, bench.model)


def forward_plain(bench: Bench) -> Found:
  """The same with the convolutions and options of a training step."""
  if jax.default_backend() != 'cpu':
    raise NotMeasuredError('it differs from forward on CPUs only')
  return _of_model(
    bench,
    bench.model,
    as_training=True,
    compared={'forward': 'forward_time_over_this'},
  )


def _echoforge(bench: Bench) -> EchoForge:
  if not isinstance(bench.model, EchoForge):
    raise NotMeasuredError(
      f'the model {bench.config.model.name} has no backbone that stands alone'
    )
  return bench.model


def _trunk(bench: Bench) -> tuple[nn.Module, Any, Callable]:
  """The backbone, its weights, and what turns clips into its frames."""
  model = _echoforge(bench)
  encoder = make_backbone(
    model.backbone, norm=model.norm, remat=model.remat, dtype=model.dtype
  )

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

  return _forward(
    bench, apply, variables, {'forward': 'forward_time_over_this'}
  )


def trunk_train(bench: Bench) -> Found:
  """Gradients of the backbone alone: a step without loss and optimizer.

  Of the sum of its maps' mean squares, in training mode.
  """
  encoder, variables, frames_of = _trunk(bench)

  def gradients(variables, video):
    def loss(params):
      maps, updates = encoder.apply(
        variables | {'params': params},
        frames_of(video),
        True,
        mutable=['batch_stats'],
      )
      squares = (jnp.mean(jnp.square(x.astype(jnp.float32))) for x in maps)
      return sum(squares), updates

    return jax.grad(loss, has_aux=True)(variables['params'])

  return _forward(
    bench,
    gradients,
    variables,
    {'train': 'train_time_over_this'},
    as_training=True,
  )


def trunk_decoder(bench: Bench) -> Found:
  """Backbone, neck and decoder: the variant 'baseline'."""
  model = _echoforge(bench).clone(use_tsf=False, use_arc=False, use_cpr=False)
  return _of_model(bench, model, compared={'forward': 'forward_time_over_this'})


def stream(bench: Bench) -> Found:
  """A frame of one stream on one device, each waited for."""
  from echoforge_jax.inference import segmenter

  model, side = bench.model, bench.image_size
  here = SingleDeviceSharding(bench.mesh.devices.flat[0])
  variables = jax.device_put(
    bench.variables(model, bench.video[:1], train=False), here
  )
  frame = jax.device_put(
    np.random.default_rng(0).integers(0, 256, (side, side), np.uint8), here
  )
  memory = jax.device_put(model.init_memory(1, (side, side)), here)
  program = timing.compile_ahead(
    segmenter.jit_frame_step(), model, variables, frame, memory
  )
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


def make_state(
  config: ConfigDict, parts: build.Parts, mesh: Any
) -> tuple[Any, Any]:
  """A training state of random numbers, and its shardings.

  Args:
    config: a config of `configs/`.
    parts: built from it.
    mesh: its devices.

  Returns:
    The state near the end of training, where the teacher gives labels if it
    ever does, and its shardings.
  """
  shapes = jax.eval_shape(parts.create_state)
  sharding = mesh_lib.state_sharding(shapes, mesh)
  rng = np.random.default_rng(0)

  def weights(tree):
    return jax.tree.map(lambda x: _weights(x, rng), tree)

  def moments(leaf):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      return np.zeros(leaf.shape, leaf.dtype)
    return 1e-3 + rng.random(leaf.shape, np.float32).astype(leaf.dtype)

  state = shapes.replace(
    step=np.int32(build.num_steps(config) - 1),
    params=weights(shapes.params),
    batch_stats=weights(shapes.batch_stats),
    teacher_params=weights(shapes.teacher_params),
    teacher_batch_stats=weights(shapes.teacher_batch_stats),
    opt_state=jax.tree.map(moments, shapes.opt_state),
    rng=jax.random.key(config.seed),
  )
  # Donated later: no buffer may be numpy's.
  return jax.device_put(state, sharding, may_alias=False), sharding


def host_batch(config: ConfigDict) -> dict[str, np.ndarray]:
  """A batch of noise as `data.pipeline` would give it.

  Args:
    config: a config of `configs/`.

  Returns:
    The fields of `planning.plan.batch_shapes`.
  """
  rng = np.random.default_rng(0)
  shapes = plan.batch_shapes(config)
  labeled = np.zeros(shapes['labeled'][0], np.bool_)
  rows = slice(config.batch_size)  # The others have no label.
  if config.data.supervision == 'full':
    labeled[rows] = True
  else:
    labeled[rows, 0] = labeled[rows, -1] = True
  masks = rng.integers(
    0, len(config.data.classes) + 1, shapes['masks'][0], np.uint8
  )
  masks[~labeled] = IGNORE
  videos = {
    name: rng.integers(0, 256, shapes[name][0], np.uint8)
    for name in ('video_weak', 'video_strong')
  }
  spacing = np.full(shapes['spacing_mm'][0], 0.5, np.float32)
  return videos | {'masks': masks, 'labeled': labeled, 'spacing_mm': spacing}


def _train(bench: Bench, config: ConfigDict) -> Found:
  parts = build.make_parts(config, bench.model, bench.mesh)
  state, sharding = make_state(config, parts, bench.mesh)
  batch_sharding = mesh_lib.batch_sharding(bench.mesh)
  batch = host_batch(config)
  batch = mesh_lib.put_batch(
    {key: batch[key] for key in parts.batch_keys}, batch_sharding
  )
  program = timing.compile_ahead(
    steps.jit_train_step(parts.train_step, sharding, batch_sharding),
    state,
    batch,
  )

  def call():
    nonlocal state, metrics
    state, metrics = program.run(state, batch)
    return state, metrics

  metrics = None
  series, seconds = timing.rate(
    call, bench.repeats, bench.clips, 'clips/s', program.compile_s
  )
  weight = metrics['unsupervised_weight']
  return Found(
    main=series,
    seconds=seconds,
    values={
      'objective': config.objective.name,
      'unsupervised_weight': float(weight.total / weight.count),
      'step_s': seconds,
      'time_over_forward': bench.times('forward', seconds),
      'time_over_forward_plain': bench.times('forward_plain', seconds),
      'gflop_a_call': program.gflop,
      'memory_mb': program.memory_mb,
    },
  )


def train(bench: Bench) -> Found:
  """The training step, compiled as training does, on the config's objective."""
  return _train(bench, bench.config)


def train_supervised(bench: Bench) -> Found:
  """The same model's step on labeled frames alone, without a teacher."""
  if bench.config.objective.name == 'supervised':
    raise NotMeasuredError(
      "the config's own objective is supervised: see train"
    )
  config = bench.config.copy_and_resolve_references()
  old = config.objective
  with config.unlocked():
    config.objective = ConfigDict(
      {
        'name': 'supervised',
        **{
          name: old[name]
          for name in ('supervised_weight', 'coarse_weight')
          if name in old
        },
      }
    )
  return _train(bench, config)
