"""EchoForge, lite: the shipped model fine-tuned on a few phantom patients, for the demo.

  echoforge demo --out=DIR

The shipped model has learned from randomized phantoms (`configs/default_model.py`), none of them
among the demo's patients.

Hardware:   two CPU cores
"""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the comparison."""
  config = base_config(lite=True)
  config.init_from = 'default'
  config.num_steps = 400
  config.eval.every = config.checkpoint_every = 200
  config.optimizer.learning_rate = 1e-3
  return apply_variant(config, arg)
