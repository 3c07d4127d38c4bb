"""An objective of your own: the supervised loss, and masks that move smoothly.

    echoforge train --config=phantom_lite --workdir=RUN --config.data.data_dir=DATA \\
        --config.objective.name=examples.own_objective:smooth --config.objective.bend_weight=0.3

The function's arguments are the fields of `config.objective`.
"""

import jax
import jax.numpy as jnp

from echoforge_jax.training.objectives import terms
from echoforge_jax.training.objectives.base import Objective, average, compose


def bend(weight):
  """Returns weight lambda(e) mean (p_t - (p_{t-1} + p_{t+1}) / 2)^2 over each clip."""

  def term(outputs, teacher, batch, values, key, extra):
    p = jax.nn.sigmoid(outputs['logits'])
    distance = jnp.mean((p[:, 1:-1] - (p[:, :-2] + p[:, 2:]) / 2) ** 2)
    return weight * values.weight * distance, {'bend': average(distance)}

  return term


def smooth(*, supervised_weight: float = 1.0, bend_weight: float = 1.0) -> Objective:
  """Returns the supervised loss on labeled frames and smooth motion on all of them.

  A term is a pure function of (student outputs, teacher outputs, batch, schedule values, key,
  extra) that returns what is added and what is logged, as pairs (sum, count). docs/training.md says
  what else an objective may do: ask the teacher, mix clips, keep arrays from step to step.
  """
  return compose([terms.supervised(supervised_weight), bend(bend_weight)])
