"""Optimizers: Adam or AdamW with clipping, warm-up and polynomial decay."""

from collections.abc import Callable

import jax
from jax import Array
import optax

from echoforge_jax.errors import InputError
from echoforge_jax.training import schedules

OPTIMIZERS = {'adam': optax.adam, 'adamw': optax.adamw}


def decay_mask(params) -> dict:
  """Marks what weight decay applies to: kernels, not vectors (ours)."""
  return jax.tree.map(lambda value: value.ndim > 1, params)


def make_optimizer(
  *,
  name: str,
  learning_rate: float,
  num_steps: int,
  warmup_steps: int = 0,
  power: float = 0.9,
  weight_decay: float = 0.0,
  clip_norm: float = 0.0,
) -> tuple[optax.GradientTransformation, Callable[[Array], Array]]:
  """Builds the optimizer, and its learning-rate schedule (`schedules.learning_rate`).

  `name` is 'adam' (the paper's) or 'adamw', whose weight decay is that of `decay_mask`; `clip_norm`
  is the largest global gradient norm, and 0 does not clip.
  """
  if name not in OPTIMIZERS:
    raise InputError(
      f'config.optimizer.name is {name!r}; choose one of {", ".join(sorted(OPTIMIZERS))}'
    )
  if name == 'adam' and weight_decay:
    raise InputError(
      f'config.optimizer.weight_decay is {weight_decay} but adam has none; '
      'set config.optimizer.name to adamw or weight_decay to 0'
    )
  schedule = schedules.learning_rate(
    base=learning_rate, num_steps=num_steps, warmup_steps=warmup_steps, power=power
  )
  options = {'weight_decay': weight_decay, 'mask': decay_mask} if name == 'adamw' else {}
  tx = OPTIMIZERS[name](schedule, **options)
  if clip_norm:
    tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx)
  return tx, schedule
