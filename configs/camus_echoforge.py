"""EchoForge on CAMUS in the paper's setting: ED and ES labeled, class lv.

One difference: the paper starts from ImageNet weights, this config from random ones.
--config.init_from=resnet50.safetensors, a file of torchvision's or timm's weights, starts as the
paper does.

  python -m echoforge_jax prepare --dataset=camus --raw=DIR --data_dir=DATA \\
      --image_size=256
  python -m echoforge_jax train --config=configs/camus_echoforge.py \\
      --workdir=RUN --config.data.data_dir=DATA

Append a row of the comparison to the config's name: :baseline, :tsf, :tsf_arc, :all (default) and
others of `training.variants`.

Hardware:   one GPU; memory measured: 13.7 GB for 16 clips in bfloat16
"""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the comparison."""
  return apply_variant(base_config(), arg)
