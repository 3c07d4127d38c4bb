"""The parts `train` and `train_supervised`: the compiled training step."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from benchmarks.speed import timing
from benchmarks.speed.parts import Bench, random_weights
from benchmarks.speed.timing import Found, NotMeasuredError
from echoforge_jax.clip import IGNORE
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.planning import plan
from echoforge_jax.training import build, steps


def make_state(config: ConfigDict, parts: build.Parts, mesh: Any) -> tuple[Any, Any]:
  """Returns a training state of random numbers, and its shardings.

  It is near the end of training, where the teacher gives labels if it ever does.
  """
  shapes = jax.eval_shape(parts.create_state)
  sharding = mesh_lib.state_sharding(shapes, mesh)
  rng = np.random.default_rng(0)

  def weights(tree):
    return jax.tree.map(lambda x: random_weights(x, rng), tree)

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
  """Returns a batch of noise as `data.pipeline` would give it (`plan.batch_shapes`)."""
  rng = np.random.default_rng(0)
  shapes = plan.batch_shapes(config)
  labeled = np.zeros(shapes['labeled'][0], np.bool_)
  rows = slice(config.batch_size)  # The others have no label.
  if config.data.supervision == 'full':
    labeled[rows] = True
  else:
    labeled[rows, 0] = labeled[rows, -1] = True
  masks = rng.integers(0, len(config.data.classes) + 1, shapes['masks'][0], np.uint8)
  masks[~labeled] = IGNORE
  videos = {
    name: rng.integers(0, 256, shapes[name][0], np.uint8) for name in ('video_weak', 'video_strong')
  }
  spacing = np.full(shapes['spacing_mm'][0], 0.5, np.float32)
  return videos | {'masks': masks, 'labeled': labeled, 'spacing_mm': spacing}


def _train(bench: Bench, config: ConfigDict) -> Found:
  parts = build.make_parts(config, bench.model, bench.mesh)
  state, sharding = make_state(config, parts, bench.mesh)
  batch_sharding = mesh_lib.batch_sharding(bench.mesh)
  batch = host_batch(config)
  batch = mesh_lib.put_batch({key: batch[key] for key in parts.batch_keys}, batch_sharding)
  program = timing.compile_ahead(
    steps.jit_train_step(parts.train_step, sharding, batch_sharding), state, batch
  )

  def call():
    nonlocal state, metrics
    state, metrics = program.run(state, batch)
    return state, metrics

  metrics = None
  series, seconds = timing.rate(call, bench.repeats, bench.clips, 'clips/s', program.compile_s)
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
    raise NotMeasuredError("the config's own objective is supervised: see train")
  config = bench.config.copy_and_resolve_references()
  old = config.objective
  with config.unlocked():
    config.objective = ConfigDict(
      {
        'name': 'supervised',
        **{name: old[name] for name in ('supervised_weight', 'coarse_weight') if name in old},
      }
    )
  return _train(bench, config)
