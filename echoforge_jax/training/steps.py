"""One training step and one evaluation step, as pure functions."""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax.linen as nn
import jax
from jax import Array
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import optax

from echoforge_jax import cpu
from echoforge_jax.parallel import mesh as mesh_lib
from echoforge_jax.training import losses, schedules
from echoforge_jax.training.objectives.base import Batch, Metrics, Objective, average
from echoforge_jax.training.state import TrainState, stream_key

_Gradient = tuple[dict, dict, Any, Metrics]


def to_float(video: Array) -> Array:
  """Returns uint8 gray levels as float32 in [0, 1]; floats as they are."""
  return video.astype(jnp.float32) / 255.0 if video.dtype == jnp.uint8 else video


def _variables(params: dict, batch_stats: dict) -> dict:
  return {'params': params} | ({'batch_stats': batch_stats} if batch_stats else {})


def _whole(tree: dict, mesh: Mesh | None) -> dict:
  return tree if mesh is None else mesh_lib.gather(tree, mesh)


@dataclasses.dataclass(frozen=True)
class _Task:
  """What a gradient is taken of, besides parameters, key and batch."""

  model: nn.Module
  objective: Objective
  teacher: dict  # The teacher's variables.
  values: schedules.ScheduleValues

  def teacher_outputs(self, batch: Batch, key: Array, extra: Any) -> Any:
    """Returns the teacher's outputs, or zeros while their weight is zero.

    The condition skips the forward pass until FlameRise begins; the step still compiles once.
    """
    if self.objective.teacher is None:
      return None

    def apply(video: Array, **inputs):
      return self.model.apply(self.teacher, to_float(video), train=False, **inputs)

    def run():
      return self.objective.teacher(apply, batch, key, extra)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run))
    outputs = jax.lax.cond(self.values.weight > 0, run, lambda: zeros)
    return jax.tree.map(jax.lax.stop_gradient, outputs)

  def gradient(
    self, params: dict, batch_stats: dict, extra: Any, key: Array, batch: Batch
  ) -> _Gradient:
    """Returns gradients, new batch statistics, new `extra` and metrics of one batch."""
    goal = self.objective
    names = ('teacher', 'mix', 'student', 'loss', 'update')
    keys = {name: stream_key(key, name, 0) for name in names}
    believed = teacher_outputs = self.teacher_outputs(batch, keys['teacher'], extra)
    if goal.mix is not None:
      batch, teacher_outputs = goal.mix(batch, believed, keys['mix'])

    def loss(params: dict) -> tuple[Array, tuple[dict, Any, Metrics]]:
      stats, calls = batch_stats, 0

      def apply(video: Array, **inputs):
        nonlocal stats, calls
        outputs, mutated = self.model.apply(
          _variables(params, stats),
          to_float(video),
          train=True,
          mutable=['batch_stats'],
          # The first call's key is the step's own.
          rngs={'dropout': jax.random.fold_in(key, calls) if calls else key},
          **inputs,
        )
        stats, calls = mutated.get('batch_stats', {}), calls + 1
        return outputs

      outputs = goal.student(apply, batch, keys['student'], extra)
      inputs = (batch, self.values)
      value, logged = goal.loss(outputs, teacher_outputs, *inputs, keys['loss'], extra)
      kept = extra
      if goal.update_extra is not None:
        seen = jax.tree.map(jax.lax.stop_gradient, outputs)
        kept = goal.update_extra(extra, seen, believed, *inputs, keys['update'])
      return value, (stats, kept, logged)

    (_, (stats, extra, logged)), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return grads, stats, extra, logged

  def accumulated(
    self, params: dict, batch_stats: dict, extra: Any, key: Array, parts: Batch
  ) -> _Gradient:
    """As `gradient`, of the mean over parts [A, B / A, ...] of a batch."""
    count = parts['labeled'].shape[0]

    def one(carried, part):
      grads, batch_stats, extra, index = carried
      part_key = jax.random.fold_in(key, index)
      own, batch_stats, extra, logged = self.gradient(params, batch_stats, extra, part_key, part)
      grads = jax.tree.map(lambda total, x: total + x / count, grads, own)
      return (grads, batch_stats, extra, index + 1), logged

    start = (jax.tree.map(jnp.zeros_like, params), batch_stats, extra, jnp.int32(0))
    (grads, batch_stats, extra, _), logged = jax.lax.scan(one, start, parts)
    # Sums and counts of the parts add up.
    return grads, batch_stats, extra, jax.tree.map(lambda x: x.sum(0), logged)


def make_train_step(
  *,
  model: nn.Module,
  tx: optax.GradientTransformation,
  objective: Objective,
  schedule: Callable[[Array], schedules.ScheduleValues],
  ema: Callable[[Array], Array],
  learning_rate: Callable[[Array], Array] | None = None,
  mesh: Mesh | None = None,
  grad_accum_steps: int = 1,
  mixture: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Builds the training step: pure train_step(state, batch) -> (state, metrics).

  The teacher predicts on the weak view, outside the gradient; the student learns on the strong
  view; then the teacher moves toward the updated student: teacher <- d teacher + (1 - d) student
  with d = ema(step), for the parameters and for the batch statistics, which the teacher's own pass
  never moves (ours). Metrics are `clu.metrics.Average` pairs (sum, count) over all devices.

  Args:
    model: called as `model.apply(variables, video, train=..., **inputs)`.
    schedule: step -> weight and threshold.
    ema: step -> decay of the teacher.
    learning_rate: step -> learning rate, for the log only.
    mesh: its 'fsdp' axis divides the state: networks run on gathered parameters, the optimizer on
      shares. None: the state is whole.
    grad_accum_steps: A, parts of a batch that pass one after the other; gradient and loss are means
      over them. Batch norm, CPR and confident means see a part; running statistics move A times.
    mixture: see `mesh.microbatches`.
  """

  def train_step(state: TrainState, batch: Batch):
    values = schedule(state.step)
    teacher = _variables(_whole(state.teacher_params, mesh), state.teacher_batch_stats)
    task = _Task(model, objective, teacher, values)
    gradient = task.gradient
    if grad_accum_steps > 1:
      gradient = task.accumulated
      batch = mesh_lib.microbatches(batch, grad_accum_steps, mixture, mesh)
    key = stream_key(state.rng, 'dropout', state.step)
    grads, batch_stats, extra, logged = gradient(
      _whole(state.params, mesh), state.batch_stats, _whole(state.extra, mesh), key, batch
    )
    if mesh is not None:
      grads, extra = mesh_lib.scatter((grads, extra), mesh)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step_size = 1 - ema(state.step)
    logged |= {
      'grad_norm': average(optax.global_norm(grads)),
      'unsupervised_weight': average(values.weight),
      'threshold': average(values.threshold),
    }
    if learning_rate is not None:
      logged['learning_rate'] = average(learning_rate(state.step))
    return state.replace(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      teacher_params=optax.incremental_update(params, state.teacher_params, step_size),
      teacher_batch_stats=optax.incremental_update(
        batch_stats, state.teacher_batch_stats, step_size
      ),
      opt_state=opt_state,
      extra=extra,
    ), logged

  return train_step


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
  """Returns the compile options of a training step on these devices."""
  if mesh.size > 1:
    return None
  return cpu.known_options(cpu.TRAINING, mesh.devices.flat[0].platform)


def jit_train_step(train_step: Callable, state_sharding: Any, batch_sharding: NamedSharding) -> Any:
  """Jits the step, which donates the state, as it is compiled here and in plans."""
  mesh = batch_sharding.mesh
  return jax.jit(
    train_step,
    in_shardings=(state_sharding, batch_sharding),
    out_shardings=(state_sharding, mesh_lib.replicated(mesh)),
    donate_argnums=0,
    compiler_options=compiler_options(mesh),
  )


def make_eval_step(
  *, model: nn.Module, mesh: Mesh | None = None
) -> Callable[[TrainState, Batch], dict]:
  """Builds eval_step(state, batch) -> {'dice_student', 'dice_teacher'}: hard Dice.

  Each is the pair (sum, count) over labeled frames, float32 [K]. A batch holds `video` uint8
  [B, T, H, W, 1] and `masks` uint8 [B, T, H, W].
  """

  def eval_step(state: TrainState, batch: Batch) -> dict:
    video = to_float(batch['video'])
    result = {}
    for who, variables in (
      ('student', _variables(state.params, state.batch_stats)),
      ('teacher', _variables(state.teacher_params, state.teacher_batch_stats)),
    ):
      logits = model.apply(_whole(variables, mesh), video, train=False)['logits']
      dice, counted = losses.hard_dice(logits, batch['masks'])
      result[f'dice_{who}'] = ((dice * counted).sum((0, 1)), counted.sum((0, 1)))
    return result

  return eval_step
