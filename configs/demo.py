"""EchoForge, lite: the shipped model fine-tuned on a few phantom patients, for the demo.

  echoforge demo --out=DIR

The shipped model has learned from randomized phantoms (`configs/default_model.py`), none of them
among the demo's patients.

Hardware:   two CPU cores
Run time:   measured: 2 min 28 s (400 steps), of a demo of 5 min 22 s
Dice (lv), phantom test split, 25 patients, seed 0, measured:
            camus_full 92.0 % [90.8, 93.1]; EF r .86 [.66, .94], bias -4.0
"""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the comparison."""
  config = base_config(lite=True)
  config.init_from = 'default'
  config.data.classes = ('lv', 'myo', 'la')  # As the shipped model.
  config.num_steps = 400
  config.eval.every = config.checkpoint_every = 200
  config.optimizer.learning_rate = 1e-3
  return apply_variant(config, arg)
