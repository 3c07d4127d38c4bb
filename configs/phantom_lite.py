"""EchoForge, lite, on phantom patients: minutes on two CPU cores.

  python -m echoforge_jax phantom --layout=camus --out=RAW --patients=100 \\
      --test=25 --seed=0
  python -m echoforge_jax prepare --dataset=camus --raw=RAW --data_dir=DATA \\
      --image_size=128
  python -m echoforge_jax train --config=configs/phantom_lite.py \\
      --workdir=RUN --config.data.data_dir=DATA

Append a row of the comparison to the config's name: :baseline, :tsf, :tsf_arc, :all (default) and
others of `training.variants`.

Hardware:   two CPU cores
Run time:   measured: 4 min 38 s (1100 steps)
Dice (lv), phantom test split, 25 patients, seed 0, measured:
            camus_full 94.1 % [92.4, 95.5]; EF r .82 [.50, .97], bias -10.1
"""

from ml_collections import ConfigDict

from echoforge_jax.config import base_config
from echoforge_jax.training.variants import apply_variant


def get_config(arg: str = '') -> ConfigDict:
  """Returns the locked config; `arg` names a row of the comparison."""
  config = base_config(lite=True)
  config.num_steps = 1100
  config.eval.every = config.checkpoint_every = 275
  return apply_variant(config, arg)
