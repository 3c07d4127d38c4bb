"""Schedules of FlameRise, the teacher's decay and the learning rate: functions of the step."""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

from jax import Array
import jax.numpy as jnp
import optax

from echoforge_jax.errors import InputError

SHAPES = ('linear', 'gaussian')


class ScheduleValues(NamedTuple):
  """What the schedules say about one step, as float32 scalars."""

  fraction: Array  # Share of training that is done.
  weight: Array  # lambda(e), weight of the unsupervised loss.
  threshold: Array  # tau(e), the confidence that a pseudo-label needs.


@dataclasses.dataclass(frozen=True)
class FlameRise:
  """Rising weight and falling confidence threshold (paper, FlameRise).

  With e in fractional epochs and r(e) = clip((e - E0) / (E1 - E0), 0, 1):

    lambda(e) = lambda_max r(e),    tau(e) = tau_0 + (tau_1 - tau_0) r(e).

  E0 and E1 are given as shares of the whole training (ours): the length of an epoch does not
  matter. The defaults are ours; the paper gives none. E0 = E1 is a jump at E0. The shape 'gaussian'
  replaces r by exp(-5 (1 - r)^2) from E0 on, the ramp of the mean teacher's consistency (Laine and
  Aila 2017).
  """

  start: float = 0.1  # E0 as a share of training.
  end: float = 0.6  # E1 as a share of training.
  weight_max: float = 1.0  # lambda_max; 0: no unsupervised loss.
  threshold_start: float = 0.95  # tau_0 in [0.5, 1].
  threshold_end: float = 0.75  # tau_1 in [0.5, 1].
  shape: str = 'linear'

  def __post_init__(self):
    if not 0 <= self.start <= self.end <= 1:
      raise ValueError(
        f'FlameRise starts at {self.start} and ends at {self.end} of '
        'training; wanted 0 <= start <= end <= 1'
      )
    if self.shape not in SHAPES:
      raise ValueError(f'FlameRise shape is {self.shape!r}; choose one of {", ".join(SHAPES)}')
    if self.weight_max < 0:
      raise ValueError(f'FlameRise weight_max is {self.weight_max}; wanted a number >= 0')
    for name in ('threshold_start', 'threshold_end'):
      if not 0.5 <= getattr(self, name) <= 1:
        raise ValueError(
          f'FlameRise {name} is {getattr(self, name)}; a confidence max(p, 1 - p) lies in [0.5, 1]'
        )

  def __call__(self, step: Array, num_steps: int) -> ScheduleValues:
    """Returns the values after `step` of `num_steps` updates."""
    fraction = step.astype(jnp.float32) / num_steps
    span = self.end - self.start
    if span > 0:
      rise = jnp.clip((fraction - self.start) / span, 0.0, 1.0)
    else:
      rise = (fraction >= self.start).astype(jnp.float32)
    if self.shape == 'gaussian':
      rise = jnp.where(fraction < self.start, 0.0, jnp.exp(-5.0 * (1.0 - rise) ** 2))
    return ScheduleValues(
      fraction=fraction,
      weight=self.weight_max * rise,
      threshold=self.threshold_start + (self.threshold_end - self.threshold_start) * rise,
    )


def ema_decay(step: Array, decay: float) -> Array:
  """Returns the mean teacher's decay after s updates: min(d, (1 + s) / (10 + s)) (ours)."""
  step = step.astype(jnp.float32)
  return jnp.minimum(decay, (1 + step) / (10 + step))


def learning_rate(
  *, base: float, num_steps: int, warmup_steps: int = 0, power: float = 0.9
) -> Callable[[Array], Array]:
  """Returns linear warm-up, then polynomial decay, as an optax schedule.

  lr(s) = base s / W for s < W, else base (1 - (s - W) / (N - W))^power, with N = `num_steps` and
  W = `warmup_steps` (paper: power 0.9, no warm-up).
  """
  if not 0 <= warmup_steps < num_steps:
    raise InputError(
      f'config.optimizer.warmup_steps is {warmup_steps} and config.num_steps is {num_steps}; '
      'wanted 0 <= warmup_steps < num_steps'
    )
  decay = optax.polynomial_schedule(base, 0.0, power, transition_steps=num_steps - warmup_steps)
  if not warmup_steps:
    return decay
  return optax.join_schedules(
    [optax.linear_schedule(0.0, base, warmup_steps), decay], boundaries=[warmup_steps]
  )
