"""EchoForge, ResNet-50, on CAMUS ED and ES frames: three structures, 256 px, bfloat16.

  python -m echoforge_jax prepare --dataset=camus --raw=DIR --data_dir=DATA \\
      --image_size=256
  python -m echoforge_jax train --config=configs/camus_stills_paper.py \\
      --workdir=RUN --config.data.data_dir=DATA

`camus_stills` at the paper's size, from random weights: ImageNet's were not available to us;
--config.init_from=resnet50.safetensors takes a file of them. Append a row of the comparison to the
config's name: :tsf_arc (default), :baseline, and others of `training.variants`; those that learn
from unlabeled frames want --config.data.labeled_patients and --config.unlabeled_batch_size.

Hardware:   one GPU
"""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the comparison."""
  config = base_config()
  config.batch_size = 32
  config.num_epochs = 100
  config.dtype = 'bfloat16'
  config.data.classes = ('lv', 'myo', 'la')
  # ED and ES; both are labeled.
  config.data.num_frames = 2
  config.model.memory_frames = 1
  # Without it the memory learns that ES comes second.
  config.data.augmentation.reversal = 0.5
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 200
  config.optimizer.weight_decay = 1e-2
  config.eval.every = config.checkpoint_every = 500
  config.eval.batch_size = 32
  return apply_variant(config, arg or 'tsf_arc')
