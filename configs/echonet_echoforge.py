"""EchoForge on EchoNet-Dynamic in the paper's setting: class lv.

One difference: the paper starts from ImageNet weights, this config from random ones.
--config.init_from=resnet50.safetensors, a file of torchvision's or timm's weights, starts as the
paper does.

  python -m echoforge_jax prepare --dataset=echonet --raw=DIR --data_dir=DATA \\
      --image_size=128
  python -m echoforge_jax train --config=configs/echonet_echoforge.py \\
      --workdir=RUN --config.data.data_dir=DATA

Append a row of the comparison to the config's name: :baseline, :tsf, :tsf_arc, :all (default) and
others of `training.variants`.

Hardware:   one GPU
"""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the comparison."""
  config = base_config()
  config.batch_size = 16
  config.data.dataset = 'echonet'
  # The provider's frames are 112 x 112, and the network wants multiples of 32 (ours); scores are in
  # pixels of the 112 x 112 grid.
  config.data.image_size = 128
  return apply_variant(config, arg)
