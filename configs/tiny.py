"""The smallest EchoForge: seconds on one CPU core, for tests.

  python -m echoforge_jax train --config=configs/tiny.py --workdir=RUN \\
      --config.data.data_dir=DATA

where DATA was prepared at 32 pixels from a few phantom patients. It proves that a run works, not
that it learns much.

Hardware:   one CPU core
"""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the comparison."""
  config = base_config()
  config.batch_size = 2
  config.num_steps = 12
  config.num_devices = 1
  config.model.update(backbone='lite', norm='group', dim=16, decoder_dim=8, num_queries=8)
  config.data.image_size = 32
  config.data.num_frames = 4
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 2
  config.optimizer.weight_decay = 1e-2
  config.semi.ema_decay = 0.98
  config.eval.every = 6
  config.eval.max_clips = 3
  config.eval.batch_size = 2
  config.log_every = 2
  config.checkpoint_every = 4
  return apply_variant(config, arg)
