"""EchoForge, lite, on EchoNet-like phantoms: minutes on two CPU cores.

  python -m echoforge_jax phantom --layout=echonet --out=RAW --patients=100 \\
      --test=25 --seed=0
  python -m echoforge_jax prepare --dataset=echonet --raw=RAW --data_dir=DATA \\
      --image_size=128
  python -m echoforge_jax train --config=configs/echonet_lite.py \\
      --workdir=RUN --config.data.data_dir=DATA
  python -m echoforge_jax evaluate --workdir=RUN --protocol=echonet --out=DIR

Append a row of the comparison to the config's name: :baseline, :tsf, :tsf_arc, :all (default) and
others of `training.variants`.

Hardware:   two CPU cores
Run time:   measured: 9 min 9 s, 54 s of it compiling, while the cores had
            other work as well (900 steps)
Dice (lv), echonet, phantom test split, 25 patients, seed 0, measured:
            94.7 % [94.1, 95.4]; whole clips 94.8 % [94.2, 95.4]
            (revision 2498147, before pseudo-labels were balanced)
"""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the comparison."""
  config = base_config(lite=True)
  config.data.dataset = 'echonet'
  config.num_steps = 900
  config.eval.every = config.checkpoint_every = 300
  return apply_variant(config, arg)
