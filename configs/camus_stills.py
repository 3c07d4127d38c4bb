"""EchoForge, lite, on CAMUS ED and ES frames: three structures, minutes on two CPU cores."""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the comparison."""
  config = base_config(lite=True)
  config.batch_size = 8
  config.num_steps = 2000
  config.data.classes = ('lv', 'myo', 'la')
  config.data.num_frames = 2
  config.model.memory_frames = 1
  config.eval.every = config.checkpoint_every = 500
  return apply_variant(config, arg or 'tsf_arc')
